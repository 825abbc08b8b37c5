"""A built repository is complete, certified and changes as a whole or not at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from exported_configs import served_provenance
from torch import nn

from aesthetic_client import contract
from aesthetic_client.errors import InputError
from aesthetic_export import folders, parity, repository
from aesthetic_export.files import sha256_of
from aesthetic_export.heads import seeded_heads
from aesthetic_export.parity import ParityError, ScoreDifference, Tolerance
from aesthetic_export.repository import build_repository
from aesthetic_export.towers import ActivationError
from towers import tiny_tower

SOURCE = folders.source_repository()


def tree(folder: Path) -> dict[str, str]:
    """Every path below `folder`, hidden ones too, with its hash.

    Not the byte code that Triton's Python process leaves beside an adapter, once it was served.
    """
    return {
        str(path.relative_to(folder)): sha256_of(path) if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
        if "__pycache__" not in path.parts
    }


def test_every_model_is_there_with_its_version_folder(tiny_repository):
    assert {path.name for path in tiny_repository.iterdir()} == {m.name for m in contract.MODELS}
    for model in contract.MODELS:
        assert (tiny_repository / model.name / "config.pbtxt").is_file()
        assert (tiny_repository / model.name / "1").is_dir()
    assert (tiny_repository / "preprocess" / "1" / "model.py").is_file()


def test_an_add_on_comes_when_it_is_asked_for(tmp_path):
    target = tmp_path / "repository"
    build_repository(target, heads=seeded_heads(0), add_ons=[contract.DALI])
    names = {model.name for model in (*contract.MODELS, *contract.DALI.models)}
    assert {path.name for path in target.iterdir()} == names
    for model in contract.DALI.models:
        built, written = target / model.name, SOURCE / contract.DALI.name / model.name
        assert (built / "config.pbtxt").read_bytes() == (written / "config.pbtxt").read_bytes()
        assert (built / "1").is_dir()
    assert (target / "preprocess_dali" / "1" / "dali_routing.py").is_file()
    # The next export without them leaves them where they are.
    build_repository(target, heads=seeded_heads(1))
    assert {path.name for path in target.iterdir()} == names


def test_what_is_not_exported_is_copied_as_it_is(tiny_repository):
    built = {"clip_image/config.pbtxt", "aesthetic_heads/config.pbtxt"}
    left_out = {"aesthetic_heads/configs/tensorrt.pbtxt"}  # its plan is optional, and not there
    for path in SOURCE.glob("*/**/*"):
        if not (SOURCE / path.relative_to(SOURCE).parts[0] / "config.pbtxt").is_file():
            continue  # a collection of further models, not one of this repository's
        name = str(path.relative_to(SOURCE))
        if name in left_out:
            assert path.is_file() and not (tiny_repository / name).exists()
        elif path.is_file() and not path.name.startswith(".") and "__pycache__" not in name:
            copied = (tiny_repository / name).read_text("latin-1")
            original = path.read_text("latin-1")
            if name in built:  # comments, order and all, with the provenance after it
                assert copied.startswith(original.rstrip("\n"))
                assert len(copied) > len(original)
            else:
                assert copied == original


def test_the_source_is_never_written_to(tmp_path):
    before = tree(SOURCE)
    link = tmp_path / "link"
    link.symlink_to(SOURCE)
    for target in (
        SOURCE,
        SOURCE / "clip_image",
        SOURCE / "new",
        link,
        SOURCE / "aesthetic" / "..",
    ):
        with pytest.raises(InputError, match="never written to"):
            build_repository(target, heads=seeded_heads(0))
    with pytest.raises(InputError, match="is a file"):
        build_repository(SOURCE.parent / "LICENSE", heads=seeded_heads(0))
    assert tree(SOURCE) == before


@pytest.fixture
def built(tiny_repository, tmp_path) -> Path:
    return shutil.copytree(tiny_repository, tmp_path / "repository")


def test_one_model_is_renewed_and_the_other_kept(built):
    before = tree(built)
    reports = build_repository(built, heads=seeded_heads(9))
    after = tree(built)
    assert [report.model for report in reports] == ["aesthetic_heads"]
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert changed == {
        f"aesthetic_heads/{name}"
        for name in ("config.pbtxt", "1/model.onnx", "1/heads.safetensors", "1/provenance.json")
    }
    assert served_provenance(built / "aesthetic_heads")["seed"] == "9"


def skew(monkeypatch, *, by: float) -> None:
    """Let ONNX Runtime's answers be off by `by` in one component of one item."""
    exact = parity.run_onnx

    def skewed(session, array):
        outputs = exact(session, array)
        outputs[0][-1, 0] += by
        return outputs

    monkeypatch.setattr(parity, "run_onnx", skewed)


@pytest.mark.parametrize("failing", ["tower", "heads"])
def test_a_failed_parity_leaves_everything_as_it_was(built, monkeypatch, failing):
    before = tree(built)
    skew(monkeypatch, by=0.01)
    model = {"tower": {"tower": tiny_tower(5)}, "heads": {"heads": seeded_heads(5)}}[failing]
    with pytest.raises(ParityError) as caught:
        build_repository(built, **model)
    assert not caught.value.report
    assert caught.value.report.max_score_difference > caught.value.report.tolerance.score
    assert tree(built) == before


def test_a_failed_parity_leaves_no_new_folder(tmp_path, monkeypatch):
    skew(monkeypatch, by=float("nan"))
    with pytest.raises(ParityError):
        build_repository(tmp_path / "new", heads=seeded_heads(0))
    assert list(tmp_path.iterdir()) == []


def test_when_the_second_model_fails_the_first_is_not_replaced_either(built, monkeypatch):
    before = tree(built)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(repository, "export_tower", fail)  # after the heads, by name
    with pytest.raises(KeyboardInterrupt):
        build_repository(built, heads=seeded_heads(5), tower=tiny_tower(5))
    assert tree(built) == before


def test_a_plain_gelu_tower_is_refused_before_anything_is_written(tmp_path):
    tower = tiny_tower()
    tower.module.transformer.resblocks[0].mlp.gelu = nn.GELU()
    with pytest.raises(ActivationError, match="QuickGELU"):
        build_repository(tmp_path / "new", tower=tower)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_export_is_swept_by_the_next(built):
    """Killed while it exports, and once between the two renames of a folder."""
    before = tree(built)
    code = (
        "import sys, os, signal; from pathlib import Path\n"
        "from aesthetic_export import repository, heads\n"
        "repository.export_heads = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "repository.build_repository(Path(sys.argv[1]), heads=heads.seeded_heads(0))\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(built)], timeout=60, check=False)
    assert killed.returncode == -9
    assert any(path.name.startswith(".aesthetic_heads.partial-") for path in built.iterdir())
    (built / "clip_image").rename(built / ".clip_image.old")
    build_repository(built)
    assert tree(built) == before


def test_only_one_export_at_a_time(built):
    with folders.exclusive(built), pytest.raises(InputError, match="another export"):
        build_repository(built)
    build_repository(built)


def test_folders_that_belong_to_nobody_are_left_alone(built):
    (built / "my_model" / "1").mkdir(parents=True)
    (built / "my_model" / "config.pbtxt").write_text('name: "my_model"')
    build_repository(built)
    assert (built / "my_model" / "config.pbtxt").read_text() == 'name: "my_model"'


def test_kept_weights_are_not_copied_byte_by_byte(built):
    data = built / "clip_image" / "1" / "model.onnx.data"
    inode = os.stat(data).st_ino
    build_repository(built)
    assert os.stat(data).st_ino == inode


def report(**changes: object) -> parity.ParityReport:
    values: dict[str, object] = {
        "model": "clip_image",
        "items": 8,
        "batch_sizes": (1, 8),
        "scores": {"a": ScoreDifference(1e-5, 2e-5), "b": ScoreDifference(3e-5, 9e-4)},
        "tolerance": Tolerance(score=1e-3, cosine=0.999999),
        "spread": 0.1,
        "min_cosine": 0.9999999,
        "max_embedding_difference": 1e-7,
    }
    return parity.ParityReport(**{**values, **changes})  # type: ignore[arg-type]


def test_a_report_is_true_only_when_every_figure_keeps_its_tolerance():
    assert report()
    assert report().max_score_difference == 9e-4
    assert report().mean_score_difference == pytest.approx(2e-5)
    nan = float("nan")
    assert not report(min_cosine=0.999999)
    assert not report(min_cosine=nan)
    assert not report(min_cosine=None)
    assert not report(spread=1e-6)
    assert not report(scores={"a": ScoreDifference(0, 0), "b": ScoreDifference(0, 1.1e-3)})
    assert not report(scores={"a": ScoreDifference(0, 0), "b": ScoreDifference(nan, nan)})
    assert not report(scores={"b": ScoreDifference(nan, nan), "a": ScoreDifference(0, 0)})


def test_images_that_change_places_in_a_batch_are_noticed(tmp_path, monkeypatch):
    exact = parity.run_onnx
    monkeypatch.setattr(
        parity, "run_onnx", lambda session, array: [out[::-1] for out in exact(session, array)]
    )
    with pytest.raises(ParityError) as caught:
        build_repository(tmp_path / "new", tower=tiny_tower())
    assert caught.value.report.min_cosine < 0.99


def test_identical_images_prove_nothing(tmp_path):
    images = np.zeros((8, 224, 224, 3), np.uint8)
    with pytest.raises(ParityError) as caught:
        build_repository(tmp_path / "new", tower=tiny_tower(), images=images)
    assert caught.value.report.spread < parity.MIN_SPREAD
    assert "too alike" in str(caught.value)
