"""Kubernetes and KServe manifests: by their schemas, and in agreement with the container."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aesthetic_container import __main__ as entrypoint
from aesthetic_container.flags import EXIT_TIMEOUT_S
from aesthetic_container.settings import settings_from
from deploy_files import DEPLOY, ROOT, document, documents, kustomize, manifests, needs

KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = sorted((KUBERNETES / "overlays").iterdir())
FOLDERS = [KUBERNETES / "base", *OVERLAYS, DEPLOY / "kserve"]
KUSTOMIZATION = "kustomization.yaml"
NAME, COMPONENT = "app.kubernetes.io/name", "app.kubernetes.io/component"


def one(parts: list[dict[str, Any]], kind: str, name: str = "aesthetic-triton") -> dict[str, Any]:
    (found,) = [p for p in parts if p["kind"] == kind and p["metadata"]["name"] == name]
    return found


def pod(part: dict[str, Any]) -> dict[str, Any]:
    return dict(part["spec"]["template"]["spec"])


def containers(part: dict[str, Any]) -> list[dict[str, Any]]:
    spec = pod(part)
    return [*spec.get("initContainers", ()), *spec["containers"]]


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {item["name"]: item["value"] for item in container.get("env", ()) if "value" in item}


@pytest.fixture(params=OVERLAYS, ids=lambda path: path.name)
def overlay(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return kustomize(request.param)


@pytest.mark.parametrize("path", sorted((KUBERNETES / "base").glob("*.yaml")), ids=lambda p: p.name)
def test_base_manifests_follow_kubernetes_schemas(path: Path) -> None:
    schemas = needs("kubernetes_validate", "kubernetes-validate")
    if path.name != KUSTOMIZATION:
        for part in documents(path):
            schemas.validate(part, schemas.latest_version(), strict=True)


def test_what_kubectl_would_send_follows_the_schemas(overlay: list[dict[str, Any]]) -> None:
    schemas = needs("kubernetes_validate", "kubernetes-validate")
    for part in overlay:
        schemas.validate(part, schemas.latest_version(), strict=True)
    assert {part["kind"] for part in overlay} >= {
        *("Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"),
        *("NetworkPolicy", "PersistentVolumeClaim", "Job", "ServiceAccount"),
    }


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_every_file_is_named_and_every_name_is_a_file(folder: Path) -> None:
    index = document(folder / KUSTOMIZATION)
    named = [*index.get("resources", ()), *index.get("configurations", ())]
    named += [patch["path"] for patch in index.get("patches", ())]
    for name in named:
        assert (folder / name).exists(), name
    here = {path.name for path in folder.glob("*.yaml")} - {KUSTOMIZATION}
    assert here == {name for name in named if ".." not in name}


def test_every_manifest_belongs_somewhere() -> None:
    known = [*FOLDERS, KUBERNETES / "monitoring", DEPLOY / "prometheus", DEPLOY]
    known += sorted((DEPLOY / "grafana" / "provisioning").iterdir())
    assert {path.parent for path in manifests()} == set(known)


def test_the_image_tag_is_the_packages_version() -> None:
    tomllib = needs("tomllib", "Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for folder in (*OVERLAYS, DEPLOY / "kserve"):
        for image in document(folder / KUSTOMIZATION)["images"]:
            assert image["newTag"] == project["version"], f"{folder}: the version has changed"


def test_selectors_find_the_pods(overlay: list[dict[str, Any]]) -> None:
    labels = one(overlay, "Deployment")["spec"]["template"]["metadata"]["labels"]
    wanted = [
        one(overlay, "Deployment")["spec"]["selector"]["matchLabels"],
        one(overlay, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one(overlay, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(part["spec"]["selector"] for part in overlay if part["kind"] == "Service"),
        document(KUBERNETES / "monitoring" / "podmonitor.yaml")["spec"]["selector"]["matchLabels"],
    ]
    for selector in wanted:
        assert selector == {NAME: "aesthetic-triton", COMPONENT: "server"}
        assert selector.items() <= labels.items()
    job = one(overlay, "Job", "aesthetic-export")["spec"]["template"]["metadata"]["labels"]
    assert job[COMPONENT] == "export"  # so that no service sends it requests
    target = one(overlay, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert target["name"] == one(overlay, "Deployment")["metadata"]["name"]


def test_grpc_is_balanced_by_the_clients(overlay: list[dict[str, Any]]) -> None:
    grpc = one(overlay, "Service", "aesthetic-triton-grpc")["spec"]
    assert grpc["clusterIP"] == "None"
    assert [port["port"] for port in grpc["ports"]] == [8001]
    http = one(overlay, "Service")["spec"]
    assert {port["name"]: port["port"] for port in http["ports"]} == {"http": 8000, "metrics": 8002}
    (server,) = pod(one(overlay, "Deployment"))["containers"]
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    assert ports == {"http": 8000, "grpc": 8001, "metrics": 8002}
    assert (entrypoint.HTTP_PORT, entrypoint.METRICS_PORT) == (8000, 8002)
    assert server.get("args") is None and server.get("command") is None  # the image's own


def test_nothing_runs_with_rights_it_does_not_need(overlay: list[dict[str, Any]]) -> None:
    for part in (one(overlay, "Deployment"), one(overlay, "Job", "aesthetic-export")):
        spec = pod(part)
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(part):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"] and container["resources"]["limits"]
    for container in containers(one(overlay, "Deployment")):
        models = [m for m in container["volumeMounts"] if m["name"] == "models"]
        assert models == [{"name": "models", "mountPath": "/models", "readOnly": True}]
    egress = one(overlay, "NetworkPolicy")["spec"]
    assert "Egress" in egress["policyTypes"] and not egress.get("egress")


def test_probes_run_commands_that_the_entrypoint_knows(overlay: list[dict[str, Any]]) -> None:
    (server,) = pod(one(overlay, "Deployment"))["containers"]
    probed = [server[name]["exec"]["command"] for name in ("startupProbe", "livenessProbe")]
    waiting = pod(one(overlay, "Deployment"))["initContainers"][0]["command"]
    for command in (*probed, waiting):
        assert command[:3] == ["python3", "-m", "aesthetic_container"]
        parsed = entrypoint._parser().parse_args(command[3:])
        assert parsed.command in ("canary", "check")
    for name in ("startupProbe", "livenessProbe"):
        limit = entrypoint._parser().parse_args(server[name]["exec"]["command"][3:]).timeout
        assert server[name]["timeoutSeconds"] > limit
    assert server["readinessProbe"]["httpGet"] == {"path": "/v2/health/ready", "port": "http"}
    grace = pod(one(overlay, "Deployment"))["terminationGracePeriodSeconds"]
    assert grace > EXIT_TIMEOUT_S + int(server["lifecycle"]["preStop"]["exec"]["command"][1])


def test_each_overlay_has_one_profile() -> None:
    for folder, profile, gpu in (("cpu", "default", None), ("gpu", "tensorrt", "1")):
        parts = kustomize(KUBERNETES / "overlays" / folder)
        deployment, job = one(parts, "Deployment"), one(parts, "Job", "aesthetic-export")
        for container in (*containers(deployment), *containers(job)):
            assert settings_from(environment(container)).profile == profile
        for part in (deployment, job):
            (main,) = pod(part)["containers"]
            assert main["resources"]["limits"].get("nvidia.com/gpu") == gpu
        # The plan must be built on the GPU that runs it.
        assert pod(deployment).get("nodeSelector") == pod(job).get("nodeSelector")
        assert bool(pod(job).get("nodeSelector")) == bool(gpu)


def test_the_model_store_is_one(overlay: list[dict[str, Any]]) -> None:
    claim = one(overlay, "PersistentVolumeClaim", "aesthetic-models")["metadata"]["name"]
    for part in (one(overlay, "Deployment"), one(overlay, "Job", "aesthetic-export")):
        claims = [v["persistentVolumeClaim"] for v in pod(part)["volumes"] if v["name"] == "models"]
        assert claims == [{"claimName": claim}]
    service = document(DEPLOY / "kserve" / "inferenceservice.yaml")
    assert service["spec"]["predictor"]["model"]["storageUri"] == f"pvc://{claim}"


def test_shared_memory_is_given(overlay: list[dict[str, Any]]) -> None:
    volumes = {v["name"]: v for v in pod(one(overlay, "Deployment"))["volumes"]}
    assert volumes["shared-memory"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}


def test_kserve_runs_the_same_image_with_its_own_ports() -> None:
    parts = kustomize(DEPLOY / "kserve")
    runtime, service = one(parts, "ServingRuntime"), one(parts, "InferenceService", "aesthetic")
    (container,) = runtime["spec"]["containers"]
    assert container["name"] == "kserve-container"  # by which KServe knows it
    assert container["image"].startswith("registry.example.com/aesthetic-triton:")
    assert container["args"] == ["--http-port=8080", "--grpc-port=9000"]
    assert str(settings_from(environment(container)).repository) == "/mnt/models"
    for name in ("startupProbe", "livenessProbe"):
        parsed = entrypoint._parser().parse_args(container[name]["exec"]["command"][3:])
        assert parsed.http_port == 8080 == container["readinessProbe"]["httpGet"]["port"]
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] == runtime["spec"]["supportedModelFormats"][0]["name"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in runtime["spec"]["volumes"]}
