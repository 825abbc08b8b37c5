"""The page's parts about the run: what was scored, with what, and what to beware of."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from aesthetic_client.contract import AESTHETIC_HEADS, SEEDED_WEIGHTS
from aesthetic_curate.report.markup import NOTHING, foreign, number, percent, table
from aesthetic_curate.report.score_sections import MEDIAN, digits_of
from aesthetic_curate.report.values import Summary

MOST_NAMES = 5  # of inputs or shards, told one by one
MOST_JSON = 20_000  # characters of provenance
DIGEST = 12  # characters of a hash that people compare


def header(summary: Summary) -> str:
    """The name of the data set, the banners, and the numbers that matter first."""
    facts = "".join(
        f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in _facts(summary)
    )
    links = (
        ("scores", "Scores"),
        ("gallery", "Gallery"),
        ("failures", "Without a score"),
        ("run", "About this run"),
    )
    listed = "".join(f'<li><a href="#{place}">{name}</a></li>' for place, name in links)
    return (
        f'<header class="page"><p class="kicker">Aesthetic scores</p>'
        f"<h1>{foreign(data_set(summary))}</h1>"
        f'<p class="source">{foreign(_several(summary.inputs))}</p>'
        f'<p class="made">{_made_by(summary)}</p>'
        f"{_banners(summary)}"
        f'<dl class="facts">{facts}</dl>'
        f'<nav aria-label="Sections"><ul>{listed}</ul></nav></header>'
    )


def _made_by(summary: Summary) -> str:
    """When, and by which weights; the long form is in the page's last part."""
    weights = [
        f"{foreign(name)}: {foreign(fields.get('weights') or 'unknown weights')}"
        for name, fields in summary.provenance.items()
    ]
    parts = (
        f"scored {_moment(summary.last_finished)}",
        *weights,
        f"fingerprint {foreign(summary.fingerprint[:DIGEST])}",
    )
    return " · ".join(parts)


def data_set(summary: Summary) -> str:
    """What to call it: the last part of its path."""
    name = summary.inputs[0] if len(summary.inputs) == 1 else summary.scored
    return name.rstrip("/").rpartition("/")[2] or name


def run_section(summary: Summary) -> str:
    """Everything that tells this run from another one."""
    terms = [
        ("Scores", foreign(summary.scored)),
        ("Input", foreign(_several(summary.inputs))),
        ("Finished", _finished(summary)),
        ("Work", _work(summary)),
        ("Fingerprint", f'<span class="mono">{foreign(summary.fingerprint)}</span>'),
    ]
    if summary.notes:
        notes = (
            f"{foreign(name).replace('_', ' ')}: {number(n)}" for name, n in summary.notes.items()
        )
        terms.append(("Of the input", ", ".join(notes)))
    if summary.unfinished:
        terms.append(("Unfinished shards", foreign(_several(summary.unfinished))))
    if summary.rows_read < summary.samples:
        terms.append(
            (
                "Rows read",
                f"{number(summary.rows_read)} of {number(summary.samples)}, from "
                f"{number(summary.shards_read)} shards drawn at random: gallery, reasons and "
                "correlation are theirs",
            )
        )
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in terms)
    return (
        f'<section id="run"><h2>About this run</h2><dl class="terms">{listed}</dl>'
        f"{_models(summary.provenance)}{_likes(summary.likes)}</section>"
    )


def _facts(summary: Summary) -> list[tuple[str, str]]:
    scored = summary.statuses.get("ok", 0)
    failed = summary.samples - scored
    facts = [
        ("Samples", number(summary.samples)),
        ("Scored", f"{number(scored)}<small>{percent(scored, summary.samples)}</small>"),
        ("Without a score", f"{number(failed)}<small>{percent(failed, summary.samples)}</small>"),
        ("Shards", number(summary.shards)),
    ]
    head = next(one for one in summary.heads if one.output == summary.gallery_head)
    if head.stats.count:
        median = f"{dict(head.percentiles)[MEDIAN]:.{digits_of(head)}f}"
        facts.append(("Median score", f"{median}<small>{foreign(head.name)}</small>"))
    return facts


def _banners(summary: Summary) -> str:
    banners = []
    if summary.seeded:
        models = [
            foreign(name)
            for name, fields in summary.provenance.items()
            if SEEDED_WEIGHTS in str(fields.get("weights", ""))
        ]
        banners.append(
            '<div class="banner alarm" role="alert"><strong>These scores are meaningless.</strong>'
            f"They come from random weights ({SEEDED_WEIGHTS}): {' and '.join(models)}. "
            "Nothing may be concluded from this page, or filtered by these scores.</div>"
        )
    if summary.unfinished:
        count = len(summary.unfinished)
        banners.append(
            f'<div class="banner note" role="status"><strong>{number(count)} '
            f"{'shard is' if count == 1 else 'shards are'} unfinished.</strong>"
            "This page leaves unfinished shards out; the same score command goes on with them."
            "</div>"
        )
    return "".join(banners)


def _models(provenance: Mapping[str, Mapping[str, Any]]) -> str:
    if not provenance:
        return '<p class="lead">The server said nothing about where its weights come from.</p>'
    models = [
        (
            foreign(name),
            foreign(fields.get("weights")) or NOTHING,
            _digest(fields.get("weights_sha256")),
            foreign(fields.get("precision")) or NOTHING,
        )
        for name, fields in provenance.items()
    ]
    titles = ("Model", "Weights", "SHA-256", "Precision")
    grids = f'<div class="block"><h3>Models</h3>{table(titles, models, name="left stack")}</div>'
    heads = provenance.get(AESTHETIC_HEADS.name, {}).get("heads", ())
    if isinstance(heads, list) and all(isinstance(head, dict) for head in heads) and heads:
        rows = [
            (
                foreign(head.get("name")),
                foreign(head.get("weights")) or NOTHING,
                _digest(head.get("sha256")),
            )
            for head in heads
        ]
        grid = table(("Head", "Weights", "SHA-256"), rows, name="left stack")
        grids += f'<div class="block"><h3>Heads that were served</h3>{grid}</div>'
    text = json.dumps(provenance, indent=1, ensure_ascii=False, default=str)
    lines = "\n".join(foreign(line) for line in text[:MOST_JSON].splitlines())
    return (
        f"{grids}<details><summary>All that the server said</summary><pre>{lines}</pre></details>"
    )


def _likes(likes: Mapping[str, str]) -> str:
    """The aesthetic embeddings that images were compared with."""
    if not likes:
        return ""
    rows = [(foreign(output), _digest(sha256)) for output, sha256 in likes.items()]
    grid = table(("Cosines", "SHA-256 of the embedding"), rows, name="left stack")
    return f'<div class="block"><h3>Aesthetic embeddings</h3>{grid}</div>'


def _digest(value: object) -> str:
    return f'<span class="mono">{foreign(str(value)[:DIGEST])}</span>' if value else NOTHING


def _several(names: Sequence[str]) -> str:
    if len(names) <= MOST_NAMES:
        return ", ".join(names)
    return f"{', '.join(names[:MOST_NAMES])} and {number(len(names) - MOST_NAMES)} more"


def _finished(summary: Summary) -> str:
    first, last = map(_moment, (summary.first_finished, summary.last_finished))
    return last if first == last else f"{first} to {last}"


def _moment(text: str) -> str:
    """An ISO date as people read it, in UTC."""
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return foreign(text)
    return f"{moment.astimezone(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC"


def _work(summary: Summary) -> str:
    seconds = summary.seconds
    spent = f"{seconds / 3600:,.1f} h" if seconds >= 3600 else f"{seconds:,.1f} s"
    if not seconds:
        return spent
    return f"{spent} of workers, {summary.samples / seconds:,.0f} samples a second and worker"
