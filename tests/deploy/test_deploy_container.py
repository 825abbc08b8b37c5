"""The container's entrypoint: settings, flags, preflight."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from aesthetic_container import __main__ as entrypoint
from aesthetic_container import preflight
from aesthetic_container.flags import ADMIN_PROTOCOLS, triton_flags
from aesthetic_container.settings import Settings, SettingsError, settings_from

from aesthetic_client import contract
from aesthetic_client.plans import PROVENANCE_FILE, Gpu, Machine

L4 = Machine((Gpu("NVIDIA L4", "8.9"),), "11.4.0")
CPU = Machine()


@pytest.fixture(params=[profile.name or "default" for profile in contract.PROFILES])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """A complete repository for each profile; artifacts are empty files."""
    profile = preflight.profile_named(request.param)
    for path in preflight.missing_files(tmp_path, profile):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    built = {"tensorrt": "11.4.0.106", "gpu": "NVIDIA L4", "compute_capability": "8.9"}
    (tmp_path / "clip_image" / "1" / PROVENANCE_FILE).write_text(json.dumps(built))
    return Settings(repository=tmp_path, profile=request.param, admin_key="k")


def refusal(settings: Settings, machine: Machine = L4) -> str:
    with pytest.raises(preflight.PreflightError) as caught:
        preflight.check_files(settings)
        preflight.check_machine(settings, machine)
        preflight.check_tls(settings)
    return str(caught.value)


def test_nothing_set_is_the_documented_default() -> None:
    assert settings_from({}) == settings_from({"AESTHETIC_PROFILE": " "}) == Settings()
    assert Settings().profile == contract.TENSORRT.name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PROFILE", "tensorrt --model-control-mode=explicit"),
        ("ADMIN_KEY", "a:b=c"),
        ("ALLOW_CLIENT_SHM", "perhaps"),
        ("HTTP_MAX_INPUT_BYTES", "-1"),
        ("HTTP_MAX_INPUT_BYTES", "64M"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"AESTHETIC_{name}"):
        settings_from({f"AESTHETIC_{name}": value})


def test_the_flags_close_what_a_caller_never_needs() -> None:
    flags = triton_flags(Settings(admin_key="sesame"))
    group = "shared-memory,model-repository,statistics,trace,logging:aesthetic-admin-key=sesame"
    assert group.split(":")[0] == ",".join(ADMIN_PROTOCOLS)
    for flag in (
        f"--grpc-restricted-protocol={group}",
        f"--http-restricted-api={group}",
        "--model-control-mode=none",
        "--allow-client-shm=false",
        "--http-max-input-size=67108864",
        "--allow-sagemaker=false",
        "--allow-vertex-ai=false",
        "--model-config-name=tensorrt",
    ):
        assert flag in flags


def test_without_a_key_nobody_can_guess_one() -> None:
    keys = {flag for _ in range(2) for flag in triton_flags(Settings()) if "grpc-restr" in flag}
    assert len(keys) == 2
    assert all(len(key.rsplit("=", 1)[1]) == 64 for key in keys)


def test_the_default_profile_names_no_config() -> None:
    flags = triton_flags(Settings(profile="default"))
    assert not [flag for flag in flags if "config-name" in flag]


def test_a_certificate_turns_tls_on(tmp_path: Path) -> None:
    settings = Settings(tls_dir=tmp_path)
    assert "--grpc-use-ssl=true" in triton_flags(settings)
    (tmp_path / "ca.crt").touch()
    flags = triton_flags(settings)
    assert "--grpc-use-ssl-mutual=true" in flags
    assert f"--grpc-root-cert={tmp_path / 'ca.crt'}" in flags
    assert f"--grpc-server-key={tmp_path / 'tls.key'}" in flags


def test_a_complete_repository_is_served(served: Settings) -> None:
    preflight.check_files(served)
    preflight.check_machine(served, L4)


def test_each_missing_file_is_named_with_the_cure(served: Settings) -> None:
    profile = preflight.profile_named(served.profile)
    shutil.rmtree(served.repository / "clip_image")
    message = refusal(served)
    assert f"clip_image/1/{profile.artifact}" in message and preflight.EXPORT in message
    if profile.name:
        assert f"clip_image/configs/{profile.name}.pbtxt" in message


def test_the_heads_plan_is_looked_for_where_its_config_is(served: Settings) -> None:
    if served.profile != "tensorrt":
        pytest.skip("no other profile has plans")
    heads = served.repository / "aesthetic_heads"
    config = heads / contract.TENSORRT.config_file
    config.parent.mkdir()
    config.touch()
    message = refusal(served)
    assert "lacks aesthetic_heads/1/model.plan for the profile 'tensorrt'" in message
    (heads / "1" / "model.onnx").rename(heads / "1" / "model.plan")
    built = {"tensorrt": "11.3.0.1", "gpu": "NVIDIA L4", "compute_capability": "8.9"}
    (heads / "1" / PROVENANCE_FILE).write_text(json.dumps(built))
    message = refusal(served)
    assert "aesthetic_heads/1/model.plan was built by TensorRT 11.3.0.1 on NVIDIA L4" in message
    assert "this machine has TensorRT 11.4.0" in message and message.endswith(preflight.EXPORT)
    (heads / "1" / PROVENANCE_FILE).write_text(json.dumps({**built, "tensorrt": "11.4.0.106"}))
    preflight.check_files(served)
    preflight.check_machine(served, L4)


def test_an_unknown_profile_lists_the_known() -> None:
    assert "known are default, onnx-cuda, tensorrt, bf16, int8" in refusal(Settings(profile="cuda"))


def test_a_gpu_profile_needs_a_gpu(served: Settings) -> None:
    if served.profile in ("default", "bf16", "int8"):
        preflight.check_machine(served, CPU)
    else:
        assert "AESTHETIC_PROFILE=default" in refusal(served, CPU)


def test_a_cpu_profile_needs_its_backend(
    served: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backends = tmp_path / "backends"
    (backends / "onnxruntime").mkdir(parents=True)
    monkeypatch.setattr(preflight, "BACKENDS", backends)
    if served.profile in ("bf16", "int8"):
        message = refusal(served, CPU)
        assert "has no openvino backend" in message and repr(served.profile) in message
        (backends / "openvino").mkdir()
    preflight.check_machine(served, CPU if served.profile in ("default", "bf16", "int8") else L4)


def test_openvinos_weights_lie_beside_its_graph(served: Settings) -> None:
    if served.profile in ("bf16", "int8"):
        (served.repository / "clip_image" / "1" / f"model.{served.profile}.bin").unlink()
        assert f"lacks clip_image/1/model.{served.profile}.bin for" in refusal(served)


def test_fp32_is_another_word_for_the_default_profile() -> None:
    assert settings_from({"AESTHETIC_PROFILE": "fp32"}).profile == "default"
    assert settings_from({"AESTHETIC_PROFILE": "int8"}).profile == "int8"


def test_a_plan_of_another_machine_is_refused(served: Settings) -> None:
    if served.profile == "tensorrt":
        message = refusal(served, Machine((Gpu("NVIDIA H100", "9.0"),), "11.5.0"))
        assert "NVIDIA H100" in message and "11.5.0" in message and preflight.EXPORT in message


def test_tls_files_must_be_there(served: Settings, tmp_path: Path) -> None:
    message = refusal(Settings(served.repository, served.profile, tls_dir=tmp_path / "none"))
    assert "AESTHETIC_TLS_DIR" in message and "tls.crt" in message


def test_meaningless_weights_are_said(served: Settings) -> None:
    provenance = served.repository / "clip_image" / "1" / preflight.PROVENANCE_FILE
    provenance.write_text(json.dumps({"weights": contract.SEEDED_WEIGHTS}))
    found = list(preflight.warnings(served, served.repository / "no-such-folder"))
    assert found[0] == f"clip_image has weights: {contract.SEEDED_WEIGHTS}"
    assert len(found) == 2 and "not encrypted" in found[1]


def test_serve_becomes_triton(served: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(entrypoint, "this_machine", lambda: L4)
    monkeypatch.setattr("os.execvp", lambda file, command: called.append(command))
    monkeypatch.setenv("AESTHETIC_REPOSITORY", str(served.repository))
    monkeypatch.setenv("AESTHETIC_PROFILE", served.profile)
    assert entrypoint.main(["serve", "--http-port=8080"]) == 0
    (command,) = called
    assert command[0] == "tritonserver" and command[-1] == "--http-port=8080"
    assert f"--model-repository={served.repository}" in command


def test_waiting_for_the_export_job(served: Settings) -> None:
    config = served.repository / "aesthetic" / "config.pbtxt"
    config.unlink()
    with pytest.raises(preflight.PreflightError):
        entrypoint.wait_for_files(served, 0)
    entrypoint.wait_for_files(served, 60, sleep=lambda s: config.touch())


def test_a_refusal_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AESTHETIC_REPOSITORY", str(tmp_path))
    assert entrypoint.main(["check"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
