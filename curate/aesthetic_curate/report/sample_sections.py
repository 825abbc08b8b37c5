"""The page's parts about samples: the gallery in score buckets, and what has no score."""

from __future__ import annotations

import base64
import json

from aesthetic_curate.report.distributions import decimals
from aesthetic_curate.report.markup import (
    NOTHING,
    attributes,
    foreign,
    number,
    percent,
    plain,
    table,
)
from aesthetic_curate.report.score_sections import digits_of
from aesthetic_curate.report.values import (
    Bucket,
    Failures,
    Gallery,
    HeadReport,
    Summary,
    Thumbnail,
)

TIMES = "\N{MULTIPLICATION SIGN}"
OPEN_ROWS = 10  # of a list that is shown without a click
ASPECTS = (0.5, 2.5)  # of a place in the gallery; longer images stand in it whole, with margins
MEANINGS = {
    "ok": "scored",
    "no_image": "no file of the sample is an image",
    "unreadable": "its bytes could not be read",
    "bad_image": "the bytes are no image that can be scored",
    "bad_embedding": "no unit vector of 768 numbers",
    "refused": "the server refused it",
}


def gallery_section(summary: Summary, gallery: Gallery) -> str:
    """Buckets, highest first, or why there are none."""
    head = next(head for head in summary.heads if head.output == gallery.head)
    if not gallery.buckets:
        why = "".join(f'<p class="lead">{foreign(text, 600)}</p>' for text in gallery.absent)
        lead = '<p class="lead">There are no images here.</p>'
        return f'<section id="gallery"><h2>Gallery</h2>{lead}{why}</section>'
    names = {one.output: one.name for one in summary.heads}
    digits = max(1, decimals(summary.bucket_edges[1] - summary.bucket_edges[0]))
    buckets = "".join(
        _bucket(bucket, digits, head, names) for bucket in gallery.buckets if bucket.count
    )
    shown = [thumbnail for bucket in gallery.buckets for thumbnail in bucket.thumbnails]
    shards = len({thumbnail.shard for thumbnail in shown})
    lead = (
        f"{number(len(shown))} images drawn at random from score buckets of {foreign(head.name)}, "
        f"highest first, out of {number(shards)} of {number(summary.shards)} shards. "
        "They are shown as they were scored: without EXIF rotation."
    )
    missing = "".join(
        f'<p class="lead">Not shown: {foreign(one, 600)}.</p>' for one in gallery.absent
    )
    return (
        f'<section id="gallery"><h2>Gallery</h2><p class="lead">{lead}</p>{missing}'
        f'<div class="block">{buckets}</div></section>'
    )


def failure_section(summary: Summary) -> str:
    """Counts by status and reason, and the first samples without a score."""
    total = summary.samples
    failed = total - summary.statuses.get("ok", 0)
    rows = [
        (foreign(status), MEANINGS.get(status, ""), *_counted(count, total))
        for status, count in sorted(summary.statuses.items(), key=lambda item: -item[1])
    ]
    if not failed:
        lead = "Every sample has a score." if total else "There are no samples."
        return (
            f'<section id="failures"><h2>Without a score</h2><p class="lead">{lead}</p></section>'
        )
    titles = ("Status", "Meaning", "Samples", "Share")
    return (
        '<section id="failures"><h2>Without a score</h2>'
        f'<p class="lead">{number(failed)} of {number(total)} samples '
        f"({percent(failed, total)}) have no score.</p>"
        f'<div class="block"><h3>By status</h3>{table(titles, rows, name="left stack")}</div>'
        f"{_reasons(summary)}{_first(summary.failures, failed)}</section>"
    )


def _counted(count: int, total: int) -> tuple[str, str]:
    return number(count), percent(count, total)


def _bucket(bucket: Bucket, digits: int, head: HeadReport, names: dict[str, str]) -> str:
    if bucket.high is None:
        title = f"{bucket.low:.{digits}f} and above"
    elif bucket.low is None:
        title = f"below {bucket.high:.{digits}f}"
    else:
        title = f"{bucket.low:.{digits}f} {NOTHING} {bucket.high:.{digits}f}"
    images = "".join(_image(thumbnail, digits_of(head), names) for thumbnail in bucket.thumbnails)
    count = f"{number(bucket.count)} image{'s' if bucket.count > 1 else ''}"
    listed = f'<ul class="images">{images}</ul>' if images else "<p>None could be read.</p>"
    return (
        f'<section class="bucket"><div><h3>{title}</h3><p>{count}</p>'
        f"<p>{percent(bucket.count, head.stats.count)}</p></div>{listed}</section>"
    )


def _image(thumbnail: Thumbnail, digits: int, names: dict[str, str]) -> str:
    score = f"{thumbnail.score:.{digits}f}"
    key = plain(thumbnail.key)
    width, height = thumbnail.size
    aspect = min(max(width / height, ASPECTS[0]), ASPECTS[1])
    button = attributes(
        type="button",
        title=key,
        aria_label=f"Score {score}, key {key}",
        data_facts=json.dumps(_facts(thumbnail, names), ensure_ascii=False),
    )
    source = base64.b64encode(thumbnail.jpeg).decode()
    image = attributes(width=width, height=height, src=f"data:image/jpeg;base64,{source}")
    return (
        f'<li style="--a:{aspect:.3f}"><button {button}><img alt="" decoding="async" {image}>'
        f"<span>{score}</span></button></li>"
    )


def _facts(thumbnail: Thumbnail, names: dict[str, str]) -> dict[str, object]:
    """What the dialog says; it sets all of it as text."""
    facts = [
        ("Key", plain(thumbnail.key)),
        ("Shard", plain(thumbnail.shard)),
        ("Row", number(thumbnail.row)),
    ]
    if thumbnail.width and thumbnail.height:
        facts.append(("Size", f"{thumbnail.width} {TIMES} {thumbnail.height}"))
    facts += [(plain(names[output]), f"{value:.4f}") for output, value in thumbnail.scores.items()]
    return {"caption": plain(thumbnail.caption), "facts": facts}


def _reasons(summary: Summary) -> str:
    failures = summary.failures
    rows = [
        (
            foreign(reason.status),
            foreign(reason.text) or NOTHING,
            number(reason.count),
            f'<span class="mono">{foreign(reason.example)}</span>',
        )
        for reason in failures.reasons
    ]
    if failures.other:
        rows.append(("other", "further reasons", number(failures.other), NOTHING))
    titles = ("Status", "Reason", "Samples", "Such as")
    basis = (
        ""
        if summary.rows_read == summary.samples
        else f"Of the {number(summary.rows_read)} rows that were read"
    )
    grid = table(titles, rows, name="left stack", caption=basis)
    return f'<div class="block"><h3>By reason</h3>{grid}</div>'


def _first(failures: Failures, failed: int) -> str:
    rows = [
        (
            f'<span class="mono">{foreign(one.key)}</span>',
            foreign(one.shard),
            number(one.row),
            foreign(one.status),
            foreign(one.error) or NOTHING,
        )
        for one in failures.first
    ]
    titles = ("Key", "Shard", "Row", "Status", "Error")
    grid = table(titles, rows, name="left stack")
    shown = f"The first {len(rows)} of {number(failed)}" if len(rows) < failed else "All of them"
    return (
        f"<details{' open' if len(rows) <= 10 else ''}><summary>{shown}</summary>{grid}</details>"
    )
