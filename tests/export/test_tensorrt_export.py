"""`aesthetic export --target tensorrt`, from its options to described plans, on a made-up GPU."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tensorrt_exports import FITTING, run, served_provenance

from aesthetic_client import contract, plans
from aesthetic_client.errors import InputError
from aesthetic_export import cuda, exporting, provenance, sources, tensorrt_builder
from aesthetic_export.cuda import CudaError, Gpu
from aesthetic_export.files import sha256_of
from aesthetic_export.provenance import file_of


@pytest.fixture
def repository(tiny_repository, tmp_path) -> Path:
    return shutil.copytree(tiny_repository, tmp_path / "repository")


def test_what_is_missing_is_exported_first_and_every_step_is_shown(planned):
    target, shown = planned
    text = " ".join(shown.split())
    assert "lacks clip_image/1/model.fp16.onnx: exporting first" in text
    for model in ("clip_image", "aesthetic_heads"):
        assert f"building model.plan of {model} with TensorRT 11.4.0.106 for Test GPU" in text
        assert f"PASS {model} (model.plan) against the fp32 ONNX file" in text
        assert (target / model / "1" / "model.plan").is_file()
    assert "PASS clip_image (model.fp16.onnx) against its fp32 torch module" in text
    (cache,) = (target.parent / "cache" / "tensorrt").iterdir()
    assert cache.name == "tensorrt-11.4.0.106-Test-GPU-8.9.timing"
    assert cache.read_bytes() == b"timings"


def test_the_plan_says_what_it_was_built_with_of_what_and_how_near_it_comes(planned):
    folder = planned[0] / "clip_image" / "1"
    written = json.loads((folder / "provenance.tensorrt.json").read_text())
    fp16 = json.loads((folder / "provenance.onnx-cuda.json").read_text())
    assert (written["tensorrt"], written["compute_capability"]) == ("11.4.0.106", "8.9")
    assert (written["gpu"], written["driver_cuda"]) == ("Test GPU", "13.1")
    assert written["driver"] == cuda.driver_version()
    shape = [224, 224, 3]
    assert written["profile"] == {
        "pixels": {"min": [1, *shape], "opt": [32, *shape], "max": [128, *shape]}
    }
    for name, field in (("model.fp16.onnx", "onnx_sha256"), ("model.plan", "")):
        sha256 = sha256_of(folder / name)
        assert (written[field] if field else written["artifact_sha256"][name]) == sha256
    assert written["onnx_sha256"] == fp16["artifact_sha256"]["model.fp16.onnx"]
    assert written["onnx_data_sha256"] == fp16["artifact_sha256"]["model.fp16.onnx.data"]
    sizes = [(folder / f"model.fp16.onnx{end}").stat().st_size for end in ("", ".data")]
    assert written["onnx_bytes"] == sum(sizes)
    assert written["plan_bytes"] == (folder / "model.plan").stat().st_size
    for field in ("weights", "source", "seed", "activation", "preprocessing", "precision"):
        assert written[field] == fp16[field]
    report = written["parity"]
    assert (report["passed"], report["batch_sizes"]) == (True, [1, 8, 128])
    assert 0.9999 < report["min_cosine"] < 1
    assert report["tolerance"]["heads"]["sac+logos+ava1-l14-linearMSE"] == pytest.approx(0.01)
    plans.check_repository(planned[0], FITTING)


def test_the_heads_plan_says_the_same_of_itself(planned):
    folder = planned[0] / "aesthetic_heads" / "1"
    written = json.loads((folder / "provenance.tensorrt.json").read_text())
    onnx = json.loads((folder / "provenance.json").read_text())
    assert (written["tensorrt"], written["compute_capability"]) == ("11.4.0.106", "8.9")
    assert written["profile"] == {
        "embedding": {"min": [1, 768], "opt": [128, 768], "max": [4096, 768]}
    }
    assert written["onnx_sha256"] == onnx["artifact_sha256"]["model.onnx"]
    assert written["onnx_data_sha256"] is None
    assert written["onnx_bytes"] == (folder / "model.onnx").stat().st_size
    assert written["plan_bytes"] == (folder / "model.plan").stat().st_size
    assert written["precision"] == "fp32"
    for field in ("model", "weights", "heads", "seed", "opset"):
        assert written[field] == onnx[field]
    report = written["parity"]
    assert (report["passed"], report["items"]) == (True, 4096)
    assert report["batch_sizes"] == [1, 128, 4096]
    assert report["tolerance"] == {"score": 2e-5, "cosine": None, "heads": {}}
    assert report["max_score_difference"] < 2e-5


def test_each_profiles_config_has_the_provenance_of_its_own_artifact(planned):
    folder = planned[0] / "clip_image"
    for profile in (contract.DEFAULT_PROFILE, contract.ONNX_CUDA, contract.TENSORRT):
        known = json.loads((folder / "1" / file_of(profile)).read_text())
        served = served_provenance(folder, profile)
        assert served["provenance.precision"] == profile.precision
        hashes = json.loads(served["provenance.artifact_sha256"])
        assert hashes == known["artifact_sha256"]
        assert profile.artifact in hashes
        assert ("provenance.tensorrt" in served) == (profile is contract.TENSORRT)
        assert ("provenance.fp16_ranges" in served) == (profile is contract.ONNX_CUDA)
    for profile, artifact in (
        (contract.DEFAULT_PROFILE, "model.onnx"),
        (contract.TENSORRT, "model.plan"),
    ):
        served = served_provenance(planned[0] / "aesthetic_heads", profile)
        assert served["provenance.precision"] == "fp32"
        assert artifact in json.loads(served["provenance.artifact_sha256"])
        assert ("provenance.tensorrt" in served) == (profile is contract.TENSORRT)


def test_a_plan_is_made_of_onnx_files_alone_without_torch(planned, driver, tmp_path):
    """As in an image that has TensorRT and ONNX Runtime, but no PyTorch."""
    target = shutil.copytree(planned[0], tmp_path / "repository")
    (target / "clip_image/1/model.plan").unlink()
    code = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'open_clip', 'onnx', 'onnxscript'):\n"
        "    sys.modules[name] = None\n"
        "import fake_gpu\n"
        "from aesthetic_client import cli\n"
        "from aesthetic_export import cuda, exporting\n"
        f"cuda.LIBRARY = {str(driver)!r}\n"
        "exporting.load_tensorrt = fake_gpu.FakeTensorRT\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-W", "error", "-c", code, "export", "--repository", target),
            *("--target", "tensorrt", "--opt-batch", "16"),
        ],
        env={
            **os.environ,
            "AESTHETIC_CACHE": str(tmp_path / "cache"),
            "PYTHONPATH": str(Path(__file__).parent),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    written = json.loads((target / "clip_image/1/provenance.tensorrt.json").read_text())
    assert written["profile"]["pixels"]["opt"][0] == 16
    heads = json.loads((target / "aesthetic_heads/1/provenance.tensorrt.json").read_text())
    assert heads["profile"]["embedding"]["opt"][0] == 128  # the option is the tower's
    assert "torch" in written["versions"]  # installed, if not importable: versions are metadata


def test_without_tensorrt_or_a_gpu_it_says_so_before_anything_else(
    machine, repository, monkeypatch
):
    def never(*_: object) -> None:
        raise AssertionError("nothing may be loaded")

    monkeypatch.setattr(sources, "load_tower", never)
    before = sorted(repository.rglob("*"))
    options = ("--target", "tensorrt", "--repository", repository, "--weights", "seeded:0")
    ctypes.c_int.in_dll(machine, "devices").value = 0
    with pytest.raises(InputError, match="needs a GPU, and none is visible"):
        run(*options)
    ctypes.c_int.in_dll(machine, "devices").value = -1
    with pytest.raises(InputError, match=r"none to be used \(cuInit: CUDA_ERROR_NO_DEVICE \(100"):
        run(*options)
    ctypes.c_int.in_dll(machine, "devices").value = 1
    monkeypatch.setattr(cuda, "LIBRARY", "libabsent.so.1")
    with pytest.raises(InputError, match="no NVIDIA driver"):
        run(*options)
    monkeypatch.setattr(exporting, "load_tensorrt", tensorrt_builder.load_tensorrt)
    for name in tensorrt_builder.MODULES:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"TensorRT cannot be loaded.* inside the serving"):
        run(*options)
    assert sorted(repository.rglob("*")) == before


def test_opt_batch_belongs_to_tensorrt(machine, repository):
    with pytest.raises(InputError, match="--opt-batch"):
        run("--opt-batch", "4", "--repository", repository, "--weights", "seeded:0")
    with pytest.raises(InputError, match="min <= opt <= max"):
        run("--opt-batch", "400", "--target", "tensorrt", "--repository", repository)


def test_the_gpu_moves_bytes_and_gives_memory_back(machine):
    sent = np.arange(12, dtype=np.float32).reshape(3, 4)
    with Gpu() as gpu:
        address = gpu.allocate(sent.nbytes)
        gpu.upload(sent, address)
        back = np.zeros_like(sent)
        gpu.download(address, back)
        assert np.array_equal(back, sent)
        assert gpu.stream
        ctypes.c_int.in_dll(machine, "failing").value = 700
        with pytest.raises(CudaError, match=r"cuStreamSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS"):
            gpu.synchronize()
        ctypes.c_int.in_dll(machine, "failing").value = 0
        assert ctypes.c_int.in_dll(machine, "live").value == 3


def test_the_drivers_version_is_read_where_it_says_it(tmp_path):
    file = tmp_path / "version"
    text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\nGCC"
    file.write_text(text)
    assert cuda.driver_version(file) == "580.95.05"
    file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12\n")
    assert cuda.driver_version(file) == "535.183.01"
    assert cuda.driver_version(tmp_path / "absent") is None


def test_10_x_is_told_to_keep_the_graphs_types():
    strongly = SimpleNamespace(STRONGLY_TYPED=1)
    ten = SimpleNamespace(
        BuilderFlag=SimpleNamespace(FP16=0), NetworkDefinitionCreationFlag=strongly
    )
    eleven = SimpleNamespace(BuilderFlag=SimpleNamespace(), NetworkDefinitionCreationFlag=strongly)
    assert tensorrt_builder._network_flags(ten) == 2
    assert tensorrt_builder._network_flags(eleven) == 0


def test_the_names_that_the_entrypoint_reads_are_those_that_are_written():
    assert provenance.file_of(contract.TENSORRT) == plans.PROVENANCE_FILE
    assert [provenance.file_of(plan.source) for plan in contract.PLANS] == [
        "provenance.onnx-cuda.json",
        *["provenance.json"] * 2,
    ]
    assert provenance.file_of(contract.DEFAULT_PROFILE) == "provenance.json"
