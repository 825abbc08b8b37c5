"""A plan that does not fit is refused in a sentence, by the standard library alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aesthetic_client import contract, plans
from aesthetic_client.errors import InputError
from aesthetic_client.plans import Gpu, Machine, PlanError, check_plan, check_repository

BUILT = {"tensorrt": "11.4.0.106", "compute_capability": "8.9", "gpu": "NVIDIA L4"}
L4, L40, H200 = Gpu("NVIDIA L4", "8.9"), Gpu("NVIDIA L40", "8.9"), Gpu("NVIDIA H200", "9.0")


@pytest.mark.parametrize(
    "machine",
    [
        Machine((L4,), "11.4.0"),
        Machine((L4, L4), "11.4.0.99"),  # another build of the same version
        Machine((L40,), "11.4.0"),  # another GPU of the same architecture
        Machine((L4,), None),  # not known: Triton will tell
    ],
)
def test_a_plan_that_fits_passes(machine):
    assert check_plan(BUILT, machine) is None


@pytest.mark.parametrize(
    ("machine", "says"),
    [
        (Machine((H200,), "11.4.0"), "has NVIDIA H200 (compute capability 9.0);"),
        (Machine((L4, H200), "11.4.0"), "has NVIDIA H200 (compute capability 9.0);"),
        (Machine((L4,), "11.3.0"), "this machine has TensorRT 11.3.0;"),
        (Machine((L4,), "11.4.1"), "this machine has TensorRT 11.4.1;"),
        (Machine((L4,), "10.16.1"), "this machine has TensorRT 10.16.1;"),
        (Machine((), "11.4.0"), "no GPU is visible here;"),
        (
            Machine((H200, H200), "11.3.0"),
            "NVIDIA H200 (compute capability 9.0) and this machine has TensorRT 11.3.0;",
        ),
    ],
)
def test_a_plan_that_does_not_fit_says_what_was_built_where_and_the_command(machine, says):
    with pytest.raises(PlanError) as caught:
        check_plan(BUILT, machine, rebuild="make plan")
    text = str(caught.value)
    assert "was built by TensorRT 11.4.0.106 on NVIDIA L4 (compute capability 8.9), but" in text
    assert says in text
    assert text.endswith("build it where it serves: make plan")
    assert "\n" not in text
    assert isinstance(caught.value, InputError)


@pytest.mark.parametrize("lacking", ["tensorrt", "compute_capability"])
def test_a_plan_of_unknown_origin_is_refused(lacking):
    built = {name: value for name, value in BUILT.items() if name != lacking}
    with pytest.raises(PlanError, match="does not say which TensorRT and GPU"):
        check_plan(built, Machine((L4,), "11.4.0"))


@pytest.fixture
def repository(tmp_path) -> Path:
    folder = tmp_path / contract.CLIP_IMAGE.name / "1"
    folder.mkdir(parents=True)
    (folder / "model.plan").write_bytes(b"plan")
    built = {**BUILT, "plan_bytes": 4, "onnx_sha256": "ab"}
    (folder / "provenance.tensorrt.json").write_text(json.dumps(built))
    onnx = {"artifact_sha256": {"model.fp16.onnx": "ab", "model.fp16.onnx.data": "cd"}}
    (folder / "provenance.onnx-cuda.json").write_text(json.dumps(onnx))
    return tmp_path


HERE = Machine((L4,), "11.4.0")


def test_a_repository_is_checked_by_its_files(repository):
    assert check_repository(repository, HERE) is None
    folder = repository / "clip_image" / "1"
    (folder / "provenance.onnx-cuda.json").unlink()
    assert check_repository(repository, HERE) is None  # a plan may travel without its ONNX file
    with pytest.raises(PlanError, match=f"--target tensorrt --repository {repository}"):
        check_repository(repository, Machine((H200,), "11.4.0"))


def test_a_cut_a_stale_an_unknown_and_an_absent_plan_are_refused(repository):
    folder = repository / "clip_image" / "1"
    (folder / "provenance.onnx-cuda.json").write_text(
        json.dumps({"artifact_sha256": {"model.fp16.onnx": "ee"}})
    )
    with pytest.raises(PlanError, match=r"from another model\.fp16\.onnx"):
        check_repository(repository, HERE)
    (folder / "model.plan").write_bytes(b"pla")
    with pytest.raises(PlanError, match="has 3 bytes, but was built with 4"):
        check_repository(repository, HERE)
    (folder / "provenance.tensorrt.json").write_text("[")
    with pytest.raises(PlanError, match="does not say"):
        check_repository(repository, HERE)
    (folder / "model.plan").unlink()
    with pytest.raises(PlanError, match="is not there"):
        check_repository(repository, HERE)


def test_the_heads_plan_is_checked_where_their_config_makes_triton_load_it(repository, capsys):
    config = repository / "aesthetic_heads" / "configs" / "tensorrt.pbtxt"
    config.parent.mkdir(parents=True)
    config.touch()
    folder = repository / "aesthetic_heads" / "1"
    with pytest.raises(PlanError, match=r"aesthetic_heads/1/model\.plan is not there; build it: "):
        check_repository(repository, HERE)
    folder.mkdir()
    (folder / "model.plan").write_bytes(b"heads")
    built = {**BUILT, "plan_bytes": 5, "onnx_sha256": "ef"}
    (folder / "provenance.tensorrt.json").write_text(json.dumps(built))
    assert check_repository(repository, HERE) is None
    onnx = folder / "provenance.json"
    onnx.write_text(json.dumps({"artifact_sha256": {"model.onnx": "ef"}}))
    assert check_repository(repository, HERE) is None
    onnx.write_text(json.dumps({"artifact_sha256": {"model.onnx": "00"}}))
    with pytest.raises(PlanError, match=r"aesthetic_heads/1/model\.plan .*another model\.onnx"):
        check_repository(repository, HERE)
    config.unlink()  # Triton takes config.pbtxt, and with it the ONNX file
    assert check_repository(repository, HERE) is None


def fake_nvidia_smi(folder: Path, monkeypatch, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_the_machine_is_asked(tmp_path, monkeypatch):
    script = """[ "$*" = "--query-gpu=name,compute_cap --format=csv,noheader" ] || exit 1
echo "NVIDIA L4, 8.9"; echo "NVIDIA H200, 9.0" """
    fake_nvidia_smi(tmp_path, monkeypatch, script)
    libraries = tmp_path / "lib"
    libraries.mkdir()
    for name in ("libnvinfer.so.11", "libnvinfer.so.11.4.0", "libnvinfer_plugin.so.12.0.0"):
        (libraries / name).touch()
    assert plans.this_machine([tmp_path / "absent", libraries]) == Machine((L4, H200), "11.4.0")
    fake_nvidia_smi(tmp_path, monkeypatch, "echo 'No devices were found, 1'; exit 6")
    assert plans.this_machine([]) == Machine()


def test_a_machine_without_nvidia_smi_has_no_gpu(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert plans.this_machine([]) == Machine()


def test_the_command_exits_with_0_or_2_and_the_sentence(repository, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plans, "this_machine", lambda: HERE)
    assert plans.main([str(repository)]) == 0
    assert capsys.readouterr().out == "model.plan of clip_image fits this machine\n"
    monkeypatch.setattr(plans, "this_machine", lambda: Machine((H200,), "11.4.0"))
    assert plans.main([str(repository), "--rebuild", "make plan"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.endswith("build it where it serves: make plan\n")


def test_it_runs_as_a_module_and_imports_the_standard_library_alone(repository):
    environment = {**os.environ, "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-m", "aesthetic_client.plans", str(repository)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "no GPU is visible here" in done.stderr
    assert "Traceback" not in done.stderr
    code = (
        "import sys, types\n"
        "package = types.ModuleType('aesthetic_client')\n"  # without its __init__
        f"package.__path__ = [{str(Path(plans.__file__).parent)!r}]\n"
        "sys.modules['aesthetic_client'] = package\n"
        "import aesthetic_client.plans\n"
        "print([name for name in ('numpy', 'tritonclient', 'torch', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
