"""The report as a page: what it says, that it is safe, and that it needs nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from curate_datasets import img2dataset, photo, write_tar
from curate_report_pages import Page, page_of, scored
from curate_results import SCORE, write_results

from aesthetic_client.contract import HEADS, SEEDED_WEIGHTS
from aesthetic_client.errors import InputError
from aesthetic_curate.report import ReportOptions, collect, data, make_report
from aesthetic_curate.report.data import general
from aesthetic_curate.report.markup import percent, plain
from aesthetic_curate.results import Results

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


def test_the_page_needs_nothing_and_runs_one_known_script(tmp_path: Path) -> None:
    text = make_report(scored(tmp_path, heads=2))
    page = Page(text)
    for _, attributes in page.elements:
        for name in ("src", "href", "action", "srcset", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/jpeg;base64,", "#")), value
    assert not page.named("link") and "@import" not in text and "url(" not in text
    script = text[text.index("<script>") + 8 : text.index("</script>")]
    assert len(page.named("script")) == 1
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = page.named("meta")[1]["content"]
    assert policy is not None and "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_the_page_is_the_same_every_time(tmp_path: Path) -> None:
    results = scored(tmp_path)
    assert make_report(results) == make_report(Results.open(results.folder.url))
    other = make_report(results, ReportOptions(per_bucket=2, seed=1))
    assert other != make_report(results, ReportOptions(per_bucket=2))


def test_the_page_says_what_was_scored_by_what(tmp_path: Path) -> None:
    results = scored(tmp_path)
    text = page_of(results).text
    assert str(tmp_path / "photos") in text
    assert "Samples 160" in text and "Scored 152 95.0 %" in text
    assert "Without a score 8 5.0 %" in text and "Shards 2" in text
    assert "clip_image: openai" in text and results.fingerprint in text
    assert "2026-11-20 12:00 UTC" in text
    assert "meaningless" not in text and "unfinished" not in text


def test_inputs_are_named_by_their_folders(tmp_path: Path) -> None:
    results = scored(tmp_path)
    assert collect(results, ReportOptions()).inputs == (str(tmp_path / "photos"),)
    one = Results(results.folder, results.shards[:1])
    assert collect(one, ReportOptions()).inputs == (str(tmp_path / "photos" / "00000.tar"),)


def test_seeded_weights_are_shouted(tmp_path: Path) -> None:
    page = page_of(scored(tmp_path, seeded=True))
    assert "These scores are meaningless." in page.text and SEEDED_WEIGHTS in page.text
    assert any(one.get("class") == "banner alarm" for one in page.named("div"))


def test_unfinished_shards_are_told(tmp_path: Path) -> None:
    scored(tmp_path)
    folder = tmp_path / "scored"
    shutil.copy(folder / "00000.parquet", folder / "00009.parquet")
    page = page_of(Results.open(str(folder)))
    assert "1 shard is unfinished." in page.text and "00009" in page.text
    assert "filter" in page.text and "--partial" in page.text


def test_thresholds_and_percentiles_are_those_of_the_scores(tmp_path: Path) -> None:
    results = scored(tmp_path)
    scores = np.concatenate([results.scores(shard, SCORE) for shard in results.shards])
    scores = scores[np.isfinite(scores)]
    page = page_of(results)
    kept = int((scores >= 5.5).sum())
    assert f"5.5 {kept} {percent(kept, len(scores))}" in page.text
    assert f"median {np.median(scores):.2f}" in page.text
    assert f"99 % {np.percentile(scores, 99):.2f}" in page.text
    (facts,) = page.data("div", "data-cut")
    for edge, count in zip(facts["edges"], facts["kept"], strict=True):
        assert count == (scores >= edge).sum()


def test_every_bar_tells_its_images(tmp_path: Path) -> None:
    text = make_report(scored(tmp_path), ReportOptions(per_bucket=0))
    titles = re.findall(r"<title>([\d.]+) to ([\d.]+): ([\d,]+) images", text)
    assert len(titles) > 5
    assert sum(int(count.replace(",", "")) for *_, count in titles) == 152


def test_several_heads_have_a_panel_each_and_their_correlation(tmp_path: Path) -> None:
    results = scored(tmp_path, heads=3)
    page = page_of(results)
    assert len([one for one in page.named("input") if one["type"] == "radio"]) == 3
    assert len([one for one in page.named("div") if one.get("class") == "panel block"]) == 3
    for head in HEADS[:3]:
        assert head.name in page.text
    columns = [
        np.concatenate([results.scores(shard, head.output) for shard in results.shards])
        for head in HEADS[:2]
    ]
    ok = np.isfinite(columns[0])
    expected = np.corrcoef(columns[0][ok], columns[1][ok])[0, 1]
    correlation = collect(results, ReportOptions()).correlation
    assert correlation is not None and correlation.rows == 152
    assert correlation.matrix[0, 1] == pytest.approx(expected, abs=1e-6)
    assert f"{expected:.2f}" in page.text


def test_correlations_of_many_rows_are_those_of_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "CORRELATION_ROWS", 80)
    correlation = collect(scored(tmp_path, heads=2), ReportOptions()).correlation
    assert correlation is not None and 40 < correlation.rows < 120  # of 152, half on average


def test_the_gallery_is_ordered_by_the_head_that_is_named(tmp_path: Path) -> None:
    results = scored(tmp_path, heads=2)
    by_name = collect(results, ReportOptions(head=HEADS[1].name))
    assert by_name.gallery_head == HEADS[1].output
    assert sum(by_name.bucket_counts) == 152
    with pytest.raises(InputError, match="no scores of 'nobody'"):
        collect(results, ReportOptions(head="nobody"))


def hostile_results(folder: Path) -> Results:
    """Keys, captions, errors, metadata and a shard's name that would break out of HTML."""
    key = HOSTILE.replace("/", "|").replace(".", "-")
    members = []
    for index in range(20):
        caption = json.dumps({"caption": HOSTILE + "\u202e" + "</script>"}).encode()
        members += [(f"{key}{index}.jpg", photo(index)), (f"{key}{index}.json", caption)]
    tar = write_tar(folder / "in" / "a<b>c&d.tar", members)
    write_results(folder / "scored", [tar], [[None if i % 4 == 3 else i / 2 for i in range(20)]])
    path = folder / "scored" / "a<b>c&d.parquet"
    table = pq.read_table(path)
    at = table.schema.get_field_index("error")
    errors = [HOSTILE if status != "ok" else None for status in table["status"].to_pylist()]
    pq.write_table(table.set_column(at, "error", pa.array(errors)), path)
    stats = folder / "scored" / "a<b>c&d_stats.json"
    found = json.loads(stats.read_text())
    found["provenance"] = {"<i>model": {"weights": HOSTILE}}
    found["notes"] = {"<u>note": 3}
    stats.write_text(json.dumps(found))
    return Results.open(str(folder / "scored"))


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    text = make_report(hostile_results(tmp_path))
    page = Page(text)
    assert len(page.named("script")) == 1
    assert {tag for tag, _ in page.elements} & {"b", "u"} <= {"b"}  # <b> is the page's own
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert all((one["src"] or "").startswith("data:") for one in page.named("img") if "src" in one)
    assert HOSTILE in page.text  # as text, it is all there
    assert "\u202e" not in text
    facts = page.data("button", "data-facts")
    assert len(facts) == 15
    assert all(fact["caption"] == HOSTILE + "\ufffd</script>" for fact in facts)


def test_failures_are_counted_by_status_and_reason(tmp_path: Path) -> None:
    results = scored(tmp_path)
    failures = collect(results, ReportOptions()).failures
    assert [(one.status, one.count) for one in failures.reasons] == [("bad_image", 8)]
    assert [(one.shard, one.row) for one in failures.first] == [
        (shard, row) for shard in ("00000", "00001") for row in (19, 39, 59, 79)
    ]
    page = page_of(results)
    assert "8 of 160 samples (5.0 %) have no score." in page.text
    assert failures.first[0].key in page.text


def test_reasons_beyond_the_limit_are_counted_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "MOST_REASONS", 3)
    results = scored(tmp_path)
    for name in ("00000", "00001"):
        path = tmp_path / "scored" / f"{name}.parquet"
        table = pq.read_table(path)
        reasons = pa.array([f"{name}: disk {row // 40}" for row in range(80)])
        at = table.schema.get_field_index("error")
        pq.write_table(table.set_column(at, "error", reasons), path)
    failures = collect(results, ReportOptions()).failures
    assert [one.count for one in failures.reasons] == [2, 2, 2]
    assert failures.other == 2
    assert "further reasons 2" in page_of(results).text


def test_reasons_leave_out_what_is_one_samples_own() -> None:
    large = "the image is 30000x20000 (600.0 megapixels); the limit is 50.0 [too_large]"
    assert general(large) == "the image is NxN (N megapixels); the limit is N [too_large]"
    assert general("https://x.test/1.jpg: HTTP 404") == "URL HTTP 404"


def test_without_failures_the_page_says_so(tmp_path: Path) -> None:
    tars = img2dataset(tmp_path / "photos", shards=1, samples=21, bad_every=0)
    write_results(tmp_path / "scored", tars, [np.linspace(3, 8, 20).tolist()])
    assert "Every sample has a score." in page_of(Results.open(str(tmp_path / "scored"))).text


@pytest.mark.parametrize("heads", [1, 2])
def test_without_scores_there_is_a_page_all_the_same(tmp_path: Path, heads: int) -> None:
    tar = write_tar(tmp_path / "in" / "00000.tar", [("a.jpg", b"x"), ("b.jpg", b"y")])
    nothing: dict[str, Sequence[float | None]] = {
        head.output: [None, None] for head in HEADS[:heads]
    }
    write_results(tmp_path / "scored", [tar], [nothing])
    text = page_of(Results.open(str(tmp_path / "scored"))).text
    assert "No image has this score." in text and "No image has a score." in text


def test_a_big_data_set_is_described_by_histograms_and_a_draw_of_shards(tmp_path: Path) -> None:
    results = scored(tmp_path, shards=4)
    summary = collect(results, ReportOptions(exact_rows=170))
    assert (summary.rows_read, summary.shards_read) == (160, 2)
    assert not summary.heads[0].exact and summary.heads[0].stats.count == 304
    assert len({pick.shard for pick in summary.picks}) == 2
    exact = collect(results, ReportOptions())
    assert [one.kept for one in summary.heads[0].thresholds] == [
        one.kept for one in exact.heads[0].thresholds
    ]
    assert summary.bucket_counts == exact.bucket_counts
    text = page_of(results, exact_rows=170).text
    assert "interpolated" in text and "160 of 320, from 2 shards drawn at random" in text


def test_the_page_of_many_images_is_bounded(tmp_path: Path) -> None:
    """The gallery's size follows from --per-bucket and not from the rows."""
    tars = img2dataset(tmp_path / "photos", shards=3, samples=401, bad_every=0)
    write_results(tmp_path / "scored", tars)
    results = Results.open(str(tmp_path / "scored"))
    text = make_report(results, ReportOptions(per_bucket=3))
    buckets = len(collect(results, ReportOptions()).bucket_counts)
    assert 3 * 4 <= text.count("data:image/jpeg;base64,") <= 3 * buckets
    assert len(make_report(results, ReportOptions(per_bucket=0))) < 100_000


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 5, "0 %"),
        (5, 5, "100 %"),
        (1, 3, "33.3 %"),
        (1, 400, "0.25 %"),
        (1, 10**6, "< 0.001 %"),
        (9_999, 10_000, "> 99.9 %"),
        (0, 0, "\u2013"),
    ],
)
def test_shares_never_claim_nothing_or_everything(part: int, whole: int, text: str) -> None:
    assert percent(part, whole) == text


def test_texts_are_cut_and_cleaned() -> None:
    assert plain("a\nb\x00\u202ec") == "a b\ufffd\ufffdc"
    assert plain("x" * 1000) == "x" * 299 + "\u2026"
    assert plain(None) == ""
