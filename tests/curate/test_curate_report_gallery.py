"""The gallery of a report: which rows are drawn, and their thumbnails."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from curate_datasets import img2dataset, write_tar
from curate_results import grouped, write_results
from PIL import Image

from aesthetic_client import ImageError
from aesthetic_curate.report import ReportOptions, build_gallery, collect
from aesthetic_curate.report.sampling import Draw, choose
from aesthetic_curate.report.thumbnails import MOST_BYTES, SIDE, scored_member, shrink
from aesthetic_curate.report.values import Gallery, Pick
from aesthetic_curate.results import Results
from aesthetic_curate.samples import Member
from aesthetic_curate.storage import identity
from generated_images import encoded

EDGES = (4.0, 5.0, 6.0, 7.0)


def scores_of(seed: int, count: int = 1_000) -> np.ndarray:
    scores = np.random.default_rng(seed).uniform(3, 8, count).astype(np.float32)
    scores[::10] = np.nan
    return scores


def drawn(order: list[int], size: int = 20, seed: int = 0) -> set[Pick]:
    draw = Draw(EDGES, size, seed)
    for shard in order:
        draw.add(shard, f"{shard:05d}", scores_of(shard))
    return set(draw.picks())


def test_the_draw_is_the_same_in_any_order_and_another_with_another_seed() -> None:
    assert drawn([0, 1, 2]) == drawn([2, 0, 1])
    assert drawn([0, 1, 2]) != drawn([0, 1, 2], seed=1)


def test_the_draw_is_bounded_and_of_the_right_buckets() -> None:
    picks = drawn(list(range(5)))
    assert Counter(pick.bucket for pick in picks) == {0: 20, 1: 20, 2: 20}
    for pick in picks:
        score = scores_of(pick.shard)[pick.row]
        # The outermost buckets are open.
        assert pick.bucket == (0 if score < 5 else 1 if score < 6 else 2)


def test_a_bucket_with_few_images_shows_all_of_them() -> None:
    draw = Draw(EDGES, 20, 0)
    draw.add(0, "0", np.array([4.5, 6.5, np.nan, 6.6], np.float32))
    assert draw.picks() and {(pick.bucket, pick.row) for pick in draw.picks()} == {
        (0, 0),
        (2, 1),
        (2, 3),
    }


def test_every_shard_is_drawn_from() -> None:
    shards = Counter(pick.shard for pick in drawn(list(range(4)), size=200))
    assert set(shards) == {0, 1, 2, 3}
    assert min(shards.values()) > 100  # of 600, a quarter each on average


def test_few_shards_are_opened_and_rare_buckets_are_filled_first() -> None:
    picks = [Pick(0, shard, row) for shard in range(100) for row in range(4)]
    picks += [Pick(1, 77, 0), Pick(1, 78, 0)]
    shown = choose(picks, 12, most_shards=5)
    assert len({pick.shard for pick in shown}) <= 5
    counts = Counter(pick.bucket for pick in shown)
    assert counts[1] == 2
    assert counts[0] == 12
    assert choose(picks[:3], 2, most_shards=5) == tuple(picks[:2])
    scattered = [Pick(0, shard, 0) for shard in range(100)]
    assert len(choose(scattered, 12, most_shards=5)) == 5


def noise(*shape: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


def test_thumbnails_are_small_whatever_the_image() -> None:
    for image in (noise(700, 900, 3), noise(1200, 400, 4), noise(2, 3000), noise(SIDE, SIDE, 3)):
        small = shrink(encoded(image, "PNG"))
        assert len(small.jpeg) <= MOST_BYTES
        assert max(small.size) <= SIDE
        with Image.open(io.BytesIO(small.jpeg)) as opened:
            assert (opened.format, opened.mode, opened.size) == ("JPEG", "RGB", small.size)


def test_thumbnails_keep_small_images_and_put_transparent_ones_on_white() -> None:
    small = shrink(encoded(Image.new("RGBA", (40, 30), (255, 0, 0, 0)), "PNG"))
    assert small.size == (40, 30)
    with Image.open(io.BytesIO(small.jpeg)) as opened:
        assert min(opened.getpixel((20, 15))) > 250  # type: ignore[type-var, arg-type]


def test_thumbnails_ignore_exif_orientation_as_scores_do() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    assert shrink(encoded(Image.new("RGB", (400, 200)), "JPEG", exif=exif)).size == (
        SIDE,
        SIDE // 2,
    )


def test_a_broken_image_has_no_thumbnail() -> None:
    with pytest.raises(ImageError):
        shrink(b"no image")


def test_the_scored_member_is_found_by_its_extension_path_or_url() -> None:
    jpg, seg = Member("jpg", b"1"), Member("seg.png", b"2")
    assert scored_member([seg, jpg], "jpg") == b"1"
    assert scored_member([seg, jpg], "folder/a.seg.png") == b"2"
    assert scored_member([Member("json", b"{}"), jpg], "png") is None
    assert scored_member([Member("json", b"{}"), jpg], "https://x.test/image?id=1", ["jpg"]) == b"1"
    assert scored_member([jpg, Member("json", b"{}")], "", ["png", "jpg"]) == b"1"
    assert scored_member([jpg], None) is None


COLOURS = {(200, 30, 30): 7.2, (30, 200, 30): 5.7, (30, 30, 200): 4.1, (120, 120, 120): 2.6}


def coloured(folder: Path) -> Results:
    """Shards of plain images: the colour says the score, its place changes from shard to shard."""
    tars, scores = [], []
    for shard in range(3):
        colours = [*list(COLOURS)[shard:], *list(COLOURS)[:shard]] * 3
        members = []
        for index, colour in enumerate(colours):
            image = encoded(Image.new("RGB", (300, 200), colour), "PNG")
            caption = json.dumps({"caption": f"about {index}"}).encode()
            members += [(f"{shard}{index:03d}.png", image), (f"{shard}{index:03d}.json", caption)]
        tars.append(write_tar(folder / "in" / f"{shard:05d}.tar", members))
        scores.append([COLOURS[colour] for colour in colours])
    write_results(folder / "scored", tars, scores)
    return Results.open(str(folder / "scored"))


def gallery_of(results: Results, per_bucket: int = 4) -> Gallery:
    options = ReportOptions(per_bucket=per_bucket)
    return build_gallery(results, collect(results, options), per_bucket)


def test_each_thumbnail_shows_the_image_that_has_its_score(tmp_path: Path) -> None:
    gallery = gallery_of(coloured(tmp_path))
    assert gallery.absent == ()
    shown = {bucket.low: bucket.thumbnails for bucket in gallery.buckets if bucket.thumbnails}
    assert list(shown) == [7.0, 5.5, 4.0, 2.5]  # highest first
    by_score = {score: colour for colour, score in COLOURS.items()}
    for thumbnails in shown.values():
        assert len(thumbnails) == 4
        for thumbnail in thumbnails:
            with Image.open(io.BytesIO(thumbnail.jpeg)) as opened:
                middle = np.asarray(opened.getpixel((100, 60)))
            assert np.abs(middle - by_score[round(thumbnail.score, 1)]).max() < 12
            assert thumbnail.key == f"{int(thumbnail.shard)}{thumbnail.row:03d}"
            assert thumbnail.caption == f"about {thumbnail.row}"
            assert thumbnail.size == (SIDE, 160)
    assert [bucket.count for bucket in gallery.buckets if bucket.count] == [9, 9, 9, 9]


def test_images_in_tables_are_shown(tmp_path: Path) -> None:
    coloured(tmp_path)
    for path in (tmp_path / "scored").glob("*_stats.json"):
        stats = json.loads(path.read_text())
        samples = grouped(Path(stats["shard"]["url"]))
        table = tmp_path / "tables" / f"{stats['shard']['name']}.parquet"
        table.parent.mkdir(exist_ok=True)
        images = [files["png"] for _, files in samples]
        pq.write_table(pa.table({"key": [key for key, _ in samples], "image": images}), table)
        stats["shard"] |= {"kind": "table", "url": str(table)}
        stats["input"] = identity(str(table))
        path.write_text(json.dumps(stats))
    gallery = gallery_of(Results.open(str(tmp_path / "scored")), 9)
    assert [len(bucket.thumbnails) for bucket in gallery.buckets if bucket.count] == [9, 9, 9, 9]


def test_the_gallery_is_bounded_and_the_same_every_time(tmp_path: Path) -> None:
    tars = img2dataset(tmp_path / "in", shards=2, samples=120, bad_every=0)
    write_results(tmp_path / "scored", tars)
    results = Results.open(str(tmp_path / "scored"))
    one, other = gallery_of(results, 3), gallery_of(results, 3)
    assert max(len(bucket.thumbnails) for bucket in one.buckets) == 3
    scores = [thumbnail.score for bucket in one.buckets for thumbnail in bucket.thumbnails]
    assert scores == sorted(scores, reverse=True)
    assert one == other


def test_sources_that_are_gone_are_told_and_the_others_shown(tmp_path: Path) -> None:
    results = coloured(tmp_path)
    (tmp_path / "in" / "00001.tar").unlink()
    gallery = gallery_of(results, 9)
    assert {one.shard for bucket in gallery.buckets for one in bucket.thumbnails} == {
        "00000",
        "00002",
    }
    assert len(gallery.absent) == 1
    assert gallery.absent[0].startswith("12 of 36 images: ")
    assert "00001.tar" in gallery.absent[0]


def test_sources_that_changed_are_not_shown_under_old_scores(tmp_path: Path) -> None:
    results = coloured(tmp_path)
    for tar in sorted((tmp_path / "in").glob("*.tar")):
        with tar.open("ab") as file:
            file.write(bytes(10_240))
    gallery = gallery_of(results)
    assert gallery.buckets == ()
    assert all("has changed since it was scored" in reason for reason in gallery.absent)


def test_an_image_that_broke_since_leaves_the_others(tmp_path: Path) -> None:
    results = coloured(tmp_path)
    tar = tmp_path / "in" / "00000.tar"
    data = bytearray(tar.read_bytes())
    data[512:520] = b"no image"  # the first member's bytes, under a whole header
    tar.write_bytes(data)
    gallery = gallery_of(results, 9)
    assert sum(len(bucket.thumbnails) for bucket in gallery.buckets) == 35
    assert len(gallery.absent) == 1 and gallery.absent[0].startswith("1 of 36 images: ")


def test_embeddings_have_no_gallery(tmp_path: Path) -> None:
    coloured(tmp_path)
    for path in (tmp_path / "scored").glob("*_stats.json"):
        stats = json.loads(path.read_text())
        stats["shard"]["kind"] = "embeddings"
        path.write_text(json.dumps(stats))
    gallery = gallery_of(Results.open(str(tmp_path / "scored")))
    assert gallery.buckets == ()
    assert gallery.absent == ("The data set holds embeddings: there are no images to show.",)


def test_a_gallery_that_is_not_asked_for_opens_nothing(tmp_path: Path) -> None:
    results = coloured(tmp_path)
    for tar in (tmp_path / "in").iterdir():
        tar.unlink()
    assert gallery_of(results, 0).absent == ("It was not asked for.",)
