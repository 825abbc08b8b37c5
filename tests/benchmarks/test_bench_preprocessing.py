"""The benchmark of pixel preparation once, small: every way, both formats, scores included."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path

import numpy as np
import preprocessing
import pytest
from aesthetic_bench import preprocessing_cases, preprocessing_tables
from aesthetic_bench.preprocessing_threads import Crowd
from PIL import Image

from generated_images import texture
from towers import tiny_tower

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_every_way_prepares_every_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(preprocessing_cases, "load_tower", lambda asked: tiny_tower())
    for seed in range(2):
        Image.fromarray(texture(900, 500, 3, seed)).save(tmp_path / f"{seed}.png")
    output = tmp_path / "new" / "results.json"
    small = ("--megapixels", "0.3,1.2", "--seconds", "0.01", "--rounds", "2")
    chosen = ("--images", str(tmp_path), "--weights", "seeded:0", "--output", str(output))
    assert preprocessing.main([*small, *chosen]) == 0
    record = json.loads(output.read_text())
    assert str(tmp_path) not in output.read_text()
    assert record["parameters"]["images"]["count"] == 2
    assert record["versions"]["numba"] and record["versions"]["simplejpeg"]
    assert record["kernels"] == {"used": True, "unused_because": None}
    shown_cases = [(case["format"], case["megapixels"]) for case in record["cases"]]
    assert shown_cases == [("JPEG", 0.3)] * 5 + [("JPEG", 1.2)] * 5 + [("PNG", 1.2)] * 2
    for case in record["cases"]:
        rates = sorted(one["images_per_s_per_core"] for one in case["rounds"])
        assert 0 < rates[0] <= case["images_per_s_per_core"] <= rates[1]
        reduced = case["megapixels"] == 1.2 or "224" in case["way"]
        changed = case["format"] == "JPEG" and "fast" in case["way"] and reduced
        assert (case["pixel_difference"]["largest"] > 0) is changed
    small_drift, large_drift = record["score_drift"]["by_size"]
    assert small_drift["largest"] == 0 < large_drift["mean"] <= large_drift["largest"]
    shown = capsys.readouterr().out
    assert "**JPEG: images a second and core**" in shown
    for crowd in record["threads"]:
        rates = sorted(one["images_per_s"] for one in crowd["rounds"])
        assert 0 < rates[0] <= crowd["images_per_s"] <= rates[1]
        assert f"| {crowd['way']}, {crowd['threads']} thread" in shown
    assert "scores are meaningless" in shown


def test_an_exact_way_with_other_pixels_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(texture(300, 300, 3)).save(tmp_path / "one.png")
    zeros = np.zeros((224, 224, 3), np.uint8)
    monkeypatch.setitem(preprocessing_cases.WAYS, "exact", lambda data: zeros)
    output = tmp_path / "results.json"
    small = ("--megapixels", "0.1", "--images", str(tmp_path), "--output", str(output))
    assert preprocessing.main(list(small)) == 1
    assert "exact has other pixels than the reference" in capsys.readouterr().err
    assert not output.exists()


def test_earlier_records_and_unused_kernels_are_shown() -> None:
    record = json.loads((ROOT / "benchmarks/results/preprocessing-cpu.json").read_text())
    numba, crowds = record["versions"].pop("numba"), record.pop("threads")
    shown = preprocessing_tables.markdown(record)
    assert "numba none," in shown and "of the whole machine" not in shown
    record["versions"]["numba"], record["threads"] = numba, crowds
    record["kernels"] = {"used": False, "unused_because": "ImportError: too new"}
    shown = preprocessing_tables.markdown(record)
    assert f"numba {numba} (not used: ImportError: too new)," in shown
    assert "of the whole machine" in shown


def test_threads_share_the_files_and_take_each_once_at_least() -> None:
    taken: list[bytes] = []
    both = threading.Barrier(2)

    def prepare(data: bytes) -> None:
        both.wait(10)  # two at once, or none
        taken.append(data)

    files = [b"a", b"b", b"c", b"d"]
    crowd = Crowd(1, files, "way", prepare, threads=2)
    crowd.measure(seconds=0)
    assert sorted(taken) == files
    found = crowd.as_dict()
    assert (found["way"], found["threads"], found["megapixels"]) == ("way", 2, 1)
    assert found["images_per_s"] == found["rounds"][0]["images_per_s"] > 0


def test_pictures_fill_their_size_by_mirrors() -> None:
    picture = texture(100, 80, 3)
    files = preprocessing_cases.encode([picture], 0.03, "PNG")
    with Image.open(io.BytesIO(files.data[0])) as image:
        assert image.size == (200, 150)
        found = np.asarray(image)
    assert np.array_equal(found[:80, :100], picture)
    assert np.array_equal(found[:80, 100:], picture[:, ::-1])
