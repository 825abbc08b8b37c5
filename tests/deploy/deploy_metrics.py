"""Which metrics the dashboard, the rules and the autoscaler read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from deploy_files import DEPLOY, document, needs

DASHBOARD = DEPLOY / "grafana" / "dashboards" / "aesthetic-triton.json"
RULES = DEPLOY / "prometheus" / "rules.yaml"
ADAPTER = DEPLOY / "kubernetes" / "monitoring" / "prometheus-adapter-values.yaml"
TEMPLATES = {"<<.GroupBy>>": "namespace, pod", "<<.LabelMatchers>>": 'namespace="a"'}

# Triton's own, by its documentation. Those of GPUs cannot be looked up on a server without one.
GPU_METRICS = {
    "nv_gpu_utilization",
    "nv_gpu_memory_used_bytes",
    "nv_gpu_memory_total_bytes",
    "nv_gpu_power_usage",
}
OF_PROMETHEUS = {"up"}


def rules() -> Iterator[dict[str, Any]]:
    for group in document(RULES)["groups"]:
        yield from group["rules"]


def recorded() -> set[str]:
    """Names that the recording rules make."""
    return {rule["record"] for rule in rules() if "record" in rule}


def expressions() -> Iterator[str]:
    """Every PromQL expression of the deployment."""
    for panel in json.loads(DASHBOARD.read_text("utf-8"))["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    yield from (rule["expr"] for rule in rules())
    for rule in document(ADAPTER)["rules"]["custom"]:
        for query in (rule["seriesQuery"], rule["metricsQuery"]):
            for template, value in TEMPLATES.items():
                query = query.replace(template, value)
            yield query


def selectors() -> Iterator[Any]:
    """Every metric selector, parsed; skips without the parser. Raises ValueError for bad PromQL."""
    promql = needs("promql_parser", "promql-parser")
    found: list[Any] = []

    def visit(node: Any) -> None:
        if isinstance(node, promql.VectorSelector):
            found.append(node)
        elif isinstance(node, promql.MatrixSelector):
            found.append(node.vector_selector)

    for text in expressions():
        promql.walk(promql.parse(text), visit)
    yield from found


def used_metrics() -> set[str]:
    """Names of Triton's metrics that anything reads."""
    return {selector.name for selector in selectors()} - recorded() - OF_PROMETHEUS
