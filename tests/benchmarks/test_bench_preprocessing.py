"""The benchmark of pixel preparation once, small: every way, both formats, scores included."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import preprocessing
import pytest
from aesthetic_bench import preprocessing_cases
from PIL import Image

from generated_images import texture
from towers import tiny_tower


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
    assert len(record["cases"]) == 2 * 2 * 5
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


def test_pictures_fill_their_size_by_mirrors() -> None:
    picture = texture(100, 80, 3)
    files = preprocessing_cases.encode([picture], 0.03, "PNG")
    with Image.open(io.BytesIO(files.data[0])) as image:
        assert image.size == (200, 150)
        found = np.asarray(image)
    assert np.array_equal(found[:80, :100], picture)
    assert np.array_equal(found[:80, 100:], picture[:, ::-1])
