"""`aesthetic export --target tensorrt` again: plans that fail, are kept, left out or built anew."""

from __future__ import annotations

import ctypes
import json
import shutil
from pathlib import Path

import fake_gpu
import numpy as np
import pytest
from tensorrt_exports import FITTING, contents, run, served_provenance

from aesthetic_client import contract, plans
from aesthetic_client.errors import InputError
from aesthetic_export import gradient_export as gradient_export_module
from aesthetic_export import parity
from aesthetic_export.gradient_export import autograd_reference, parity_inputs
from aesthetic_export.gradient_parity import onnx_gradient, onnx_reference
from aesthetic_export.heads import seeded_heads
from towers import tiny_tower


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
