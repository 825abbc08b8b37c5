"""Dashboard, rules and autoscaler agree with each other and with the contract."""

from __future__ import annotations

import re
from typing import Any

from deploy_files import DEPLOY, document
from deploy_metrics import ADAPTER, expressions, recorded, rules, selectors, used_metrics

from aesthetic_client import contract


def test_every_expression_parses_and_reads_known_metrics() -> None:
    assert all(name.startswith("nv_") for name in used_metrics())
    colons = {selector.name for selector in selectors() if ":" in selector.name}
    assert colons == recorded()  # each is made, and each is read


def test_models_in_selectors_are_the_contracts() -> None:
    known = {model.name for model in (*contract.MODELS, *contract.OPTIONAL_MODELS)}
    names = [
        name
        for text in expressions()
        for values in re.findall(r'model\s*!?=~?\s*"([^"]*)"', text)
        for name in values.split("|")
    ]
    assert names and set(names) <= known


def test_the_autoscaler_reads_what_the_adapter_makes() -> None:
    autoscaler = document(DEPLOY / "kubernetes" / "base" / "autoscaler.yaml")
    wanted = {metric["pods"]["metric"]["name"] for metric in autoscaler["spec"]["metrics"]}
    made = {rule["name"]["as"] for rule in document(ADAPTER)["rules"]["custom"]}
    assert wanted == made


def test_an_ensemble_never_queues_so_only_its_steps_are_counted() -> None:
    steps = {*contract.AESTHETIC.steps, *contract.AESTHETIC_DALI.steps}
    for rule in document(ADAPTER)["rules"]["custom"]:
        (counted,) = re.findall(r'model=~"([^"]*)"', rule["metricsQuery"])
        assert set(counted.split("|")) == steps


def test_the_dashboard_shows_what_was_asked_for(dashboard: dict[str, Any]) -> None:
    titles = " ".join(panel["title"] for panel in dashboard["panels"]).lower()
    for word in ("throughput", "latency", "stage", "batch", "waiting", "gpu", "memory", "errors"):
        assert word in titles
    for panel in dashboard["panels"]:
        assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"]


def test_panels_do_not_overlap(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_panels_ask_the_provisioned_data_source(dashboard: dict[str, Any]) -> None:
    folder = DEPLOY / "grafana" / "provisioning" / "datasources"
    (source,) = document(folder / "prometheus.yaml")["datasources"]
    for panel in dashboard["panels"]:
        assert panel["datasource"]["uid"] == source["uid"]
        assert all(target["datasource"]["uid"] == source["uid"] for target in panel["targets"])


def test_alerts_say_what_is_wrong() -> None:
    alerts = [rule for rule in rules() if "alert" in rule]
    assert len(alerts) >= 5
    for alert in alerts:
        assert alert["labels"]["severity"] in ("warning", "critical")
        assert alert["annotations"]["summary"] and alert["for"]


def test_adapter_rules_belong_to_pods() -> None:
    for rule in document(ADAPTER)["rules"]["custom"]:
        assert rule["resources"]["overrides"]["pod"] == {"resource": "pod"}
        assert 'pod!=""' in rule["seriesQuery"]
