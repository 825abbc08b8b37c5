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

import fake_gpu
import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from aesthetic_client import contract, plans
from aesthetic_client.errors import InputError
from aesthetic_export import (
    cli,
    cuda,
    exporting,
    parity,
    provenance,
    sources,
    tensorrt_builder,
)
from aesthetic_export import gradient_export as gradient_export_module
from aesthetic_export.cuda import CudaError, Gpu
from aesthetic_export.files import sha256_of
from aesthetic_export.gradient_export import autograd_reference, parity_inputs
from aesthetic_export.gradient_parity import onnx_gradient, onnx_reference
from aesthetic_export.heads import seeded_heads
from aesthetic_export.provenance import file_of
from towers import tiny_tower

FITTING = plans.Machine((plans.Gpu("Test GPU", "8.9"),), "11.4.0")


@pytest.fixture(scope="session")
def driver(compile_c) -> Path:
    return compile_c("libtestcuda.so.1", fake_gpu.DRIVER)


@pytest.fixture
def machine(driver, monkeypatch, tmp_path) -> ctypes.CDLL:
    """A GPU, TensorRT, tiny towers, a cache of its own. Nothing may be left on the GPU."""
    library = ctypes.CDLL(str(driver))
    monkeypatch.setattr(cuda, "LIBRARY", str(driver))
    monkeypatch.setattr(exporting, "load_tensorrt", fake_gpu.FakeTensorRT)
    monkeypatch.setattr(sources, "seeded_tower", tiny_tower)
    monkeypatch.setattr(plans, "this_machine", lambda: FITTING)
    monkeypatch.setenv("AESTHETIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AESTHETIC_WEIGHTS_DIR", raising=False)
    yield library
    assert ctypes.c_int.in_dll(library, "live").value == 0


def run(*options: object) -> int:
    import argparse

    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return cli.run(parser.parse_args([str(option) for option in options]))


@pytest.fixture
def repository(tiny_repository, tmp_path) -> Path:
    return shutil.copytree(tiny_repository, tmp_path / "repository")


@pytest.fixture(scope="module")
def planned(driver, tiny_repository, tmp_path_factory) -> tuple[Path, str]:
    """A repository to which the command has added what was missing and the plans; its stderr."""
    folder = tmp_path_factory.mktemp("planned")
    target = shutil.copytree(tiny_repository, folder / "repository")
    code = (
        "import sys; import fake_gpu, towers\n"
        "from aesthetic_client import cli\n"
        "from aesthetic_export import cuda, exporting, sources\n"
        f"cuda.LIBRARY = {str(driver)!r}\n"
        "exporting.load_tensorrt = fake_gpu.FakeTensorRT\n"
        "sources.seeded_tower = towers.tiny_tower\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    options = ("--target", "tensorrt", "--weights", "seeded:0", "--head-weights", "seeded:0")
    tests = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, "export", "--repository", target, *options],
        env={
            **os.environ,
            "AESTHETIC_CACHE": str(folder / "cache"),
            "PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{target}\n"
    return target, done.stderr


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


def served_provenance(model_folder: Path, profile: contract.Profile) -> dict[str, str]:
    config = text_format.Parse((model_folder / profile.config_file).read_text(), ModelConfig())
    return {key: value.string_value for key, value in config.parameters.items()}


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


@pytest.fixture
def again(planned, tmp_path) -> Path:
    return shutil.copytree(planned[0], tmp_path / "again")


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("error", "clip_image (model.plan) was not exported"),
        ("nan", "clip_image (model.plan) was not exported"),
        ("build", "error: TensorRT does not build model.fp16.onnx: no tactic for node 7"),
        ("run", "error: cuStreamSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS (700)"),
    ],
)
def test_a_plan_that_fails_changes_nothing(machine, again, monkeypatch, capsys, how, says):
    before = contents(again)
    if how in ("error", "nan"):
        error = float("nan") if how == "nan" else 1e-3
        monkeypatch.setattr(fake_gpu.Context, "errors", {"clip_image": error})
    elif how == "build":
        monkeypatch.setattr(fake_gpu.Builder, "refused", ("clip_image",))
    else:
        ctypes.c_int.in_dll(machine, "failing").value = 700
    try:
        assert run("--target", "tensorrt", "--repository", again) == 1
    finally:
        ctypes.c_int.in_dll(machine, "failing").value = 0
    assert says in " ".join(capsys.readouterr().err.split())
    assert contents(again) == before


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (
            "error",
            "aesthetic_heads (model.plan) differs from the fp32 ONNX file: scores within 3.",
        ),
        ("nan", "aesthetic_heads (model.plan) differs from the fp32 ONNX file: scores within nan"),
        ("build", "TensorRT does not build model.onnx: no tactic for node 7"),
    ],
)
def test_heads_whose_plan_fails_are_served_from_onnx_and_the_towers_plan_is_kept(
    machine, again, monkeypatch, capsys, how, says
):
    if how == "build":
        monkeypatch.setattr(fake_gpu.Builder, "refused", ("aesthetic_heads",))
    else:
        error = float("nan") if how == "nan" else 3e-5
        monkeypatch.setattr(fake_gpu.Context, "errors", {"aesthetic_heads": error})
    heads, tower = again / "aesthetic_heads", again / "clip_image" / "1"
    before, built = contents(heads), (tower / "provenance.tensorrt.json").read_text()
    assert run("--target", "tensorrt", "--repository", again) == 0
    shown = " ".join(capsys.readouterr().err.split())
    assert says in shown
    assert (
        "aesthetic_heads has no model.plan therefore: in the profile 'tensorrt' its model.onnx"
        in (shown)
    )
    assert "PASS clip_image (model.plan)" in shown
    assert (tower / "provenance.tensorrt.json").read_text() != built
    after = contents(heads)
    assert {name: after.get(name) for name in before if after.get(name) != before[name]} == {
        "1/model.plan": None,
        "1/provenance.tensorrt.json": None,
        "configs/tensorrt.pbtxt": None,  # without it Triton takes config.pbtxt
    }
    plans.check_repository(again, FITTING)
    # It is tried again, and so is what is not there for any other reason.
    assert run("--target", "tensorrt", "--if-missing", "--repository", again) == 0
    assert "already exported" not in capsys.readouterr().err


def test_all_but_the_towers_plan_are_optional_and_without_one_its_config_is_not_served(
    tiny_repository,
):
    assert [plan for plan in contract.PLANS if not plan.optional] == [contract.TOWER_PLAN]
    assert not (tiny_repository / "aesthetic_heads" / contract.TENSORRT.config_file).exists()
    assert (tiny_repository / "clip_image" / contract.TENSORRT.config_file).is_file()
    assert plans.served_plans(tiny_repository) == [contract.TOWER_PLAN]


def test_heads_exported_anew_leave_their_plan_out_and_a_kept_one_stays(machine, again, capsys):
    heads = again / "aesthetic_heads"
    before = contents(heads)
    options = ("--repository", again, "--weights", "seeded:0", "--head-weights", "seeded:0")
    assert run(*options, "--model", "clip_image") == 0
    assert contents(heads) == before
    assert run(*options, "--model", "aesthetic_heads") == 0
    shown = " ".join(capsys.readouterr().err.split())
    assert "model.plan of aesthetic_heads is of the model.onnx before and was left out" in shown
    assert plans.served_plans(again) == [contract.TOWER_PLAN]
    assert not list(heads.rglob("*plan*")) and not list(heads.rglob("*tensorrt*"))
    assert run("--target", "tensorrt", "--if-missing", "--repository", again) == 0
    assert plans.served_plans(again) == [contract.TOWER_PLAN, contract.HEADS_PLAN]
    plans.check_repository(again, FITTING)


def test_the_gradient_has_a_plan_where_the_add_on_is(
    machine, again, gradient_export, monkeypatch, capsys
):
    exported, options = [], ("--target", "tensorrt", "--repository", again)

    def export_tiny(version: Path, *_: object) -> object:
        exported.append(shutil.copytree(gradient_export.folder, version, dirs_exist_ok=True))
        return gradient_export.report, gradient_export.provenance

    monkeypatch.setattr(gradient_export_module, "export_gradient", export_tiny)
    model = again / "aesthetic_gradient"
    seeded = ("--weights", "seeded:0", "--head-weights", "seeded:0")
    assert run(*options, *seeded, "--if-missing", "--with", "gradient") == 0
    written = json.loads((model / "1/provenance.tensorrt.json").read_text())
    assert written["onnx_sha256"] == gradient_export.provenance["artifact_sha256"]["model.onnx"]
    assert written["profile"]["head_weights"] == {"min": [1, 5], "opt": [8, 5], "max": [8, 5]}
    assert written["heads"] == gradient_export.provenance["heads"]
    report = written["parity"]
    assert (report["passed"], report["reference"]) == (True, "the fp32 ONNX file")
    assert (report["items"], report["batch_sizes"]) == (3, [1, 3, 8])
    assert report["slope"] > 1 and report["gradient_difference"] < 1e-4
    assert plans.served_plans(again) == list(contract.PLANS)
    plans.check_repository(again, FITTING)
    served = served_provenance(model, contract.TENSORRT)
    assert "model.plan" in json.loads(served["provenance.artifact_sha256"])
    assert run(*options, "--if-missing", "--with", "gradient") == 0
    assert "already exported" in capsys.readouterr().err
    # Now it is made unasked, of the ONNX file that is there. Off by little, it is left out.
    before = contents(model)
    monkeypatch.setattr(fake_gpu.Context, "errors", {"aesthetic_gradient": 1e-3})
    assert run(*options) == 0
    shown = " ".join(capsys.readouterr().err.split())
    assert "aesthetic_gradient (model.plan) differs from the fp32 ONNX file: gradients" in shown
    assert "in the profile 'tensorrt' its model.onnx goes on serving" in shown
    gone = {"1/model.plan", "1/provenance.tensorrt.json", "configs/tensorrt.pbtxt"}
    assert before == {**contents(model), **{name: before[name] for name in gone}}
    assert plans.served_plans(again) == [contract.TOWER_PLAN, contract.HEADS_PLAN]
    assert len(exported) == 1


def test_the_gradients_reference_has_the_slopes_of_autograd(tiny_repository, gradient_export):
    score = parity.onnx_scorer(tiny_repository / "aesthetic_heads/1/model.onnx")
    compute = onnx_gradient(gradient_export.folder / "model.onnx")
    inputs, reference = onnx_reference(compute, score)
    exact = autograd_reference(tiny_tower(), seeded_heads(0), inputs)
    found, expected = (np.linalg.norm(each[3], axis=1) for each in (reference, exact))
    np.testing.assert_allclose(found, expected, rtol=0.02)  # differences step over an MLP's kinks
    for given, wanted in zip(inputs, parity_inputs(seeded_heads(0)), strict=True):
        np.testing.assert_allclose(given, wanted, rtol=0.02)


def test_a_heads_plan_that_does_not_fit_is_refused_by_what_where_and_how(planned, again):
    path = again / "aesthetic_heads" / "1" / "provenance.tensorrt.json"
    built = json.loads(path.read_text())
    path.write_text(json.dumps({**built, "tensorrt": "11.3.0.1", "gpu": "Old GPU"}))
    with pytest.raises(plans.PlanError) as caught:
        plans.check_repository(again, FITTING)
    assert str(caught.value) == (
        f"{again}/aesthetic_heads/1/model.plan was built by TensorRT 11.3.0.1 on Old GPU (compute "
        "capability 8.9), but this machine has TensorRT 11.4.0; build it where it serves: "
        f"aesthetic export --target tensorrt --repository {again}"
    )


def test_if_missing_builds_only_where_the_plan_is_absent_or_does_not_fit(
    machine, again, monkeypatch, capsys
):
    options = ("--target", "tensorrt", "--if-missing", "--repository", again)
    before = contents(again)
    assert run(*options) == 0
    assert contents(again) == before
    assert "already exported" in capsys.readouterr().err
    other = plans.Machine((plans.Gpu("Other GPU", "9.0"),), "11.4.0")
    monkeypatch.setattr(plans, "this_machine", lambda: other)
    assert run(*options) == 0
    changed = {name for name, sha256 in contents(again).items() if before.get(name) != sha256}
    for model in ("clip_image", "aesthetic_heads"):
        assert f"{model}/1/provenance.tensorrt.json" in changed
    assert not any(
        "onnx" in name.rpartition("/")[2]
        for name in changed - {"clip_image/configs/onnx-cuda.pbtxt"}
    )


def test_a_timing_cache_that_does_not_fit_is_begun_anew(machine, again, tmp_path):
    cache = tmp_path / "cache" / "tensorrt" / "tensorrt-11.4.0.106-Test-GPU-8.9.timing"
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"of another machine")
    assert run("--target", "tensorrt", "--repository", again) == 0
    assert cache.read_bytes() == b"timings"


def test_other_weights_leave_the_plan_out_and_the_same_keep_it(machine, again, capsys):
    folder = again / "clip_image" / "1"
    options = ("--repository", again, "--head-weights", "seeded:0", "--model", "clip_image")
    assert run(*options, "--weights", "seeded:0") == 0
    assert (folder / "model.plan").is_file()
    plans.check_repository(again, FITTING)
    assert run(*options, "--weights", "seeded:0", "--precision", "fp16") == 0
    with pytest.raises(plans.PlanError, match=r"from another model\.fp16\.onnx"):
        plans.check_repository(again, FITTING)  # the same weights, exported anew: not known to fit
    assert run(*options, "--weights", "seeded:5") == 0
    assert not (folder / "model.plan").exists()
    assert not (folder / "provenance.tensorrt.json").exists()
    assert "model.plan is of other weights" in " ".join(capsys.readouterr().err.split())


def test_a_copied_fp16_file_without_provenance_is_not_built(machine, again, capsys):
    (again / "clip_image/1/provenance.onnx-cuda.json").unlink()
    with pytest.raises(InputError, match="has no provenance"):
        run("--target", "tensorrt", "--repository", again)


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
