"""Turns of a run become claims, a table, a plot and README's block; no engine runs here."""

from __future__ import annotations

import copy
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report
from aesthetic_bench import engine_figures, engine_plot, engine_tables, work
from aesthetic_bench.engine_rows import REFERENCE, TOWER, Row, profile_rows
from aesthetic_bench.settings import SCHEMA

from aesthetic_client import contract

QUIET = {"other_processes_share_of_cpu": 0.0, "stolen_share_of_cpu": 0.0}
SHAPE = work.Shape()
PROFILE = Row("profile fast", "profile", "int8", (1, 8), contract.DEFAULT_PROFILE, True)
SERVED = "profile fast, Triton aesthetic"
# GFLOP/s, round by round: torch wins fp32, OpenVINO int8.
MATRIX: list[dict[str, dict[str, float]]] = [
    {"fp32": {"torch": 162.0, "openvino": 150.0}, "int8": {"torch": 1.0, "openvino": 800.0}},
    {"fp32": {"torch": 324.0, "openvino": 150.0}, "int8": {"torch": 1.0, "openvino": 400.0}},
    {"fp32": {"torch": 162.0, "openvino": 150.0}, "int8": {"torch": 1.0, "openvino": 800.0}},
]


def turn(number: int, **images_per_s: float) -> dict[str, Any]:
    rates = [
        {"batch": int(name.removeprefix("batch_")), "images_per_s": rate}
        for name, rate in images_per_s.items()
    ]
    return {"round": number, "rates": rates, **QUIET}


def drift_of(mean: float, largest: float) -> dict[str, Any]:
    """Of two heads: the default one has these figures, the other ten times as much."""
    score = contract.DEFAULT_HEAD.output
    return {
        "mean": 5.5 * mean,
        "largest": 10 * largest,
        "mean_by_head": {score: mean, "other": 10 * mean},
        "largest_by_head": {score: largest, "other": 10 * largest},
    }


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """A machine that was twice as fast in its second round."""
    found = {
        REFERENCE.name: {
            "loads_s": [5.0],
            "peak_rss_mib": 2048.0,
            "turns": [
                turn(0, batch_1=0.5, batch_4=0.8, batch_8=1.0),
                turn(1, batch_1=1.0, batch_4=1.6, batch_8=2.0),
                turn(2, batch_1=0.5, batch_4=0.8, batch_8=1.0),
            ],
        },
        PROFILE.name: {
            "loads_s": [1.0],
            "peak_rss_mib": 512.0,
            "turns": [turn(n, batch_1=2.0 + n, batch_8=4.0 * (1 + n % 2)) for n in range(3)],
        },
        SERVED: {
            "served": "aesthetic",
            "bare_engine": PROFILE.name,
            "loads_s": [8.0, 10.0],
            "peak_rss_mib": 1024.0,
            "turns": [
                {"round": 1, "images_per_s": 7.6, "mean_batch": 8.0},
                {"round": 2, "images_per_s": 3.0, "mean_batch": 7.0},
            ],
        },
    }
    drifts = {name: drift_of(0.01, 0.05) for name in found}
    drifts[REFERENCE.name] = drift_of(0.0, 0.0)
    named = {REFERENCE.name: REFERENCE, PROFILE.name: PROFILE}
    return engine_figures.rows_of(named, found, MATRIX, drifts, SHAPE)


@pytest.fixture
def record(rows: list[dict[str, Any]]) -> dict[str, Any]:
    content = {
        "schema": SCHEMA,
        "kind": engine_tables.KIND,
        "date_utc": "2026-11-20T12:00:00+00:00",
        "machine": {"cpu": "A CPU", "usable_cores": 2, "memory_gib": 23.5},
        "versions": {"onnxruntime": "1.31.1", "openvino": None, "git_commit": "abc123"},
        "weights": {"weights": contract.SEEDED_WEIGHTS},
        "parameters": {"quick": False, "images": {"count": 8, "origin": "made up"}},
        "limits": engine_figures.limits(MATRIX, SHAPE),
        "rows": rows,
        "skipped": {"profile other": "not in this repository"},
    }
    return dict(json.loads(json.dumps(content)))


def test_an_image_costs_what_the_layers_multiply() -> None:
    tokens, width = 257, 1024
    layer = 2 * tokens * 12 * width**2 + 4 * tokens**2 * width
    last = 2 * tokens * 2 * width**2 + 2 * 10 * width**2 + 4 * tokens * width
    ends = 2 * 256 * 588 * width + 2 * width * 768
    assert work.gflop_per_image(SHAPE) == pytest.approx((24 * layer + ends) / 1e9)
    lean = work.gflop_per_image(SHAPE, class_token_only=True)
    assert lean == pytest.approx((23 * layer + last + ends) / 1e9)
    assert (round(work.gflop_per_image(SHAPE), 1), round(lean, 1)) == (162.0, 156.4)
    linears = sum(product.flops for product in work.linear_products(SHAPE, 8))
    assert linears == 8 * 24 * 2 * tokens * 12 * width**2


def test_ratios_are_of_the_same_round(rows: list[dict[str, Any]]) -> None:
    profile, served = rows[1], rows[2]
    by_batch = {one["batch"]: one for one in profile["batches"]}
    # Rates 4, 8, 4 against 1, 2, 1: four times in each round, though the medians' ratio would be.
    assert by_batch[8]["over_reference"] == pytest.approx(4.0)
    assert by_batch[1]["images_per_s"] == 3.0
    assert by_batch[1]["over_reference"] == pytest.approx(4.0)  # of 4, 3, 8
    assert served["saturation"]["over_reference"] == pytest.approx((7.6 / 2 + 3.0 / 1) / 2)
    assert served["saturation"]["over_bare_engine"] == pytest.approx((7.6 / 8 + 3.0 / 4) / 2)
    assert served["saturation"]["mean_batch"] == 7.5


def test_the_limit_is_the_faster_library_s_at_the_row_s_own_arithmetic(
    rows: list[dict[str, Any]],
) -> None:
    assert rows[0]["gflop_per_image"] == pytest.approx(162.03, abs=0.01)
    assert rows[1]["gflop_per_image"] == pytest.approx(156.39, abs=0.01)
    # 4 / (800 / 156.4), 8 / (400 / 156.4), 4 / (800 / 156.4).
    at_8 = rows[1]["batches"][1]["share_of_limit"]
    assert at_8 == pytest.approx(4 * rows[1]["gflop_per_image"] / 800)
    found = engine_figures.limits(MATRIX, SHAPE)
    assert found["fp32"]["gflop_per_s"] == 162.0
    assert found["fp32"]["images_per_s"] == pytest.approx(1.0, rel=1e-3)
    assert found["int8"]["by_library"] == {"torch": 1.0, "openvino": 800.0}


def test_drift_is_over_all_heads_and_images() -> None:
    reference = {"a": np.array([5.0, 6.0], np.float32), "b": np.array([1.0, 1.0], np.float32)}
    scores = {"a": np.array([5.5, 6.0], np.float32), "b": np.array([1.0, 0.75], np.float32)}
    found = engine_figures.drift(scores, reference)
    assert found == {
        "mean": 0.1875,
        "largest": 0.5,
        "mean_by_head": {"a": 0.25, "b": 0.125},
        "largest_by_head": {"a": 0.5, "b": 0.25},
    }


def test_profiles_that_are_not_there_are_named(tmp_path: Path) -> None:
    default = contract.DEFAULT_PROFILE
    (tmp_path / TOWER / "1").mkdir(parents=True)
    (tmp_path / TOWER / default.config_file).touch()
    (tmp_path / TOWER / "1" / default.artifact).touch()
    found, missing = profile_rows(tmp_path)
    assert [(row.name, row.precision) for row in found] == [("profile fp32", "fp32")]
    others = {p.name for p in contract.PROFILES if p.backend == "openvino"}
    assert set(missing) == {f"profile {name}" for name in others}
    assert all("aesthetic export --precision" in reason for reason in missing.values())
    for profile in contract.PROFILES:
        (tmp_path / TOWER / profile.config_file).parent.mkdir(exist_ok=True)
        (tmp_path / TOWER / profile.config_file).touch()
        (tmp_path / TOWER / "1" / profile.artifact).touch()
    found, missing = profile_rows(tmp_path)
    # A GPU's profiles are not this benchmark's.
    assert {row.name for row in found} == {"profile fp32", *(f"profile {n}" for n in others)}
    assert missing == {}


def test_markdown(record: dict[str, Any]) -> None:
    text = engine_tables.markdown(record)
    assert (
        "| torch eager, open_clip | 0.5 (1.00x) | 0.8 (1.00x) | 1 (1.00x) |  | 100% fp32 | 2.0 | "
        "5 | 0 / 0 |"
    ) in text
    assert (
        "| profile fast | 3 (4.00x) |  | 4 (4.00x) |  | 78% int8 | 0.5 | 1 | 0.01 / 0.05 |" in text
    )
    assert f"| {SERVED} |  |  |  | 5.3 (3.40x) | " in text
    assert "| 1.0 | 9 | 0.01 / 0.05 |" in text
    assert "weights: seeded: scores are meaningless, and their drift is a lower bound" in text
    assert "- not measured: profile other: not in this repository" in text
    assert "onnxruntime 1.31.1" in text and "openvino" not in text.splitlines()[0]
    assert "QUIET" not in text
    record["rows"][1]["turns"][0]["stolen_share_of_cpu"] = 0.31
    assert "NOT A QUIET MACHINE: others took up to 31%" in engine_tables.markdown(record)


def test_the_plot_is_to_scale_and_shows_what_the_results_say(record: dict[str, Any]) -> None:
    record["rows"][1]["name"] = "profile <fast> & lean"
    drawn = ElementTree.fromstring(engine_plot.svg(record))
    space = "{http://www.w3.org/2000/svg}"
    widths = [float(bar.attrib["width"]) for bar in drawn.iter(f"{space}rect")]
    rates = [1.0, 4.0, 5.3]
    assert np.divide(widths, widths[0]) == pytest.approx(rates, rel=2e-3)
    words = [text.text for text in drawn.iter(f"{space}text")]
    assert "profile <fast> & lean" in words
    assert "4 · 4.0x · drift 0.05" in words
    assert not any("drift" in str(one) and "1.0x" in str(one) for one in words)  # fp32 has none
    assert any("seeded" in str(one) for one in words)
    right = max(float(t.attrib["x"]) for t in drawn.iter(f"{space}text"))
    assert right < float(drawn.attrib["width"]) - 150  # the figures are not cut off


def test_readme_s_block_is_written_from_the_results(
    record: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, readme, plot = (tmp_path / name for name in ("r.json", "README.md", "p.svg"))
    results.write_text(json.dumps(record))
    readme.write_text("before\n<!-- engines -->\nold\n<!-- /engines -->\nafter\n")
    for _ in range(2):
        assert report.main([str(results), "--readme", str(readme), "--plot", str(plot)]) == 0
    block = engine_tables.readme_block(record)
    assert readme.read_text() == f"before\n{block}\nafter\n"
    assert engine_tables.markdown(record) in block and "engines-cpu.svg" in block
    assert plot.read_text() == engine_plot.svg(record)
    assert report.main([str(results)]) == 0
    assert capsys.readouterr().out == engine_tables.markdown(record)
    readme.write_text("no marks")
    with pytest.raises(SystemExit):
        report.main([str(results), "--readme", str(readme)])
    assert "lacks the marks <!-- engines --> and <!-- /engines -->" in capsys.readouterr().err
    assert readme.read_text() == "no marks"


def test_other_results_have_no_plot(
    record: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {**copy.deepcopy(record), "kind": "embeddings-cpu"}
    (tmp_path / "r.json").write_text(json.dumps(other))
    with pytest.raises(SystemExit):
        report.main([str(tmp_path / "r.json"), "--plot", str(tmp_path / "p.svg")])
    assert "is not of engines.py" in capsys.readouterr().err
    assert not (tmp_path / "p.svg").exists()
