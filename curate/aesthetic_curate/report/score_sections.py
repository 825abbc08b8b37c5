"""The page's part about scores: every head's histogram, percentiles, thresholds; correlation."""

from __future__ import annotations

import json
import math
import shlex

from aesthetic_client.contract import DEFAULT_HEAD
from aesthetic_curate.report.charts import histogram, kept_from, sparkline
from aesthetic_curate.report.distributions import decimals, round_step
from aesthetic_curate.report.markup import (
    NOTHING,
    attributes,
    escape,
    foreign,
    number,
    percent,
    table,
)
from aesthetic_curate.report.values import Correlation, HeadReport, Summary

MEDIAN = 50.0


def score_section(summary: Summary) -> str:
    """All heads: side by side in a table, one at a time below it."""
    heads = summary.heads
    panels = [_panel(head, summary) for head in heads]
    body = panels[0] if len(heads) == 1 else _overview(heads) + _chooser(heads, panels)
    return (
        f'<section id="scores"><h2>Scores</h2><p class="lead">{_basis(summary)}</p>{body}'
        f"{_correlation(summary.correlation, heads)}</section>"
    )


def digits_of(head: HeadReport) -> int:
    """Digits after the point that tell this head's scores apart."""
    spread = head.stats.std / 5
    return min(6, max(2, decimals(round_step(spread, 1)))) if spread > 0 else 2


def _basis(summary: Summary) -> str:
    if all(head.exact for head in summary.heads):
        return "Counts and percentiles are exact: every score was read."
    return (
        "Counts, means and extremes are exact. Percentiles are interpolated in a histogram of all "
        "scores whose bins are 0.1 wide."
    )


def _overview(heads: tuple[HeadReport, ...]) -> str:
    titles = ("Head", "Distribution", "Mean", "Median", "SD", "Lowest", "Highest", "Images")
    return (
        '<div class="block">' + table(titles, map(_overview_row, heads), name="overview") + "</div>"
    )


def _overview_row(head: HeadReport) -> tuple[str, ...]:
    stats, digits = head.stats, digits_of(head)
    median = dict(head.percentiles).get(MEDIAN, 0.0)
    values = (stats.mean, median, stats.std, stats.low, stats.high)
    return (
        foreign(head.name),
        sparkline(head.bars),
        *(f"{value:.{digits}f}" if stats.count else NOTHING for value in values),
        number(stats.count),
    )


def _chooser(heads: tuple[HeadReport, ...], panels: list[str]) -> str:
    """Radio buttons that show one panel: they need no script, and the keyboard knows them."""
    choices, rules = [], []
    for at, head in enumerate(heads):
        checked = " checked" if at == 0 else ""
        choices.append(
            f'<input type="radio" name="head" id="head-{at}"{checked}>'
            f'<label for="head-{at}">{foreign(head.name)}</label>'
        )
        rules.append(
            f".pills > #head-{at}:checked ~ .panels > :nth-child({at + 1}) {{ display: block }}"
        )
    return (
        f'<fieldset class="pills"><legend>Head</legend><style>{" ".join(rules)}</style>'
        f'{"".join(choices)}<div class="panels">{"".join(panels)}</div></fieldset>'
    )


def _panel(head: HeadReport, summary: Summary) -> str:
    title = f"<h3>{foreign(head.name)}</h3>"
    if not head.stats.count:
        return f'<div class="panel block">{title}<p class="lead">No image has this score.</p></div>'
    stats, digits = head.stats, digits_of(head)
    moments = (
        ("Images", number(stats.count)),
        ("Mean", f"{stats.mean:.{digits}f}"),
        ("SD", f"{stats.std:.{digits}f}"),
        ("Lowest", f"{stats.low:.{digits}f}"),
        ("Highest", f"{stats.high:.{digits}f}"),
    )
    listed = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in moments)
    return (
        f'<div class="panel block">{title}<dl class="moments">{listed}</dl>'
        f"{histogram(head)}{_outside(head)}{_cut(head, summary)}"
        f"{_percentiles(head, digits)}{_thresholds(head)}</div>"
    )


def _outside(head: HeadReport) -> str:
    """A line about outliers that the chart leaves out; nothing where there are none."""
    bars = head.bars
    parts = []
    if bars.below:
        parts.append(f"{number(bars.below)} below {bars.edges[0]:g}")
    if bars.above:
        parts.append(f"{number(bars.above)} from {bars.edges[-1]:g} up")
    if not parts:
        return ""
    return f'<p class="outside">Beyond the chart: {" and ".join(parts)}.</p>'


def _cut(head: HeadReport, summary: Summary) -> str:
    """The slider below the chart; it stands at the bar that half of the images reach."""
    bars = head.bars
    digits = decimals(bars.edges[1] - bars.edges[0])
    kept = kept_from(bars)
    start = min(range(len(bars.counts)), key=lambda at: abs(2 * kept[at] - head.stats.count))
    command = _filter_command(head, summary)
    at = f"{bars.edges[start]:.{digits}f}"
    facts = {
        "edges": bars.edges,
        "kept": kept,
        "count": head.stats.count,
        "digits": digits,
        "command": command,
    }
    slider = attributes(
        type="range", id=f"cut-{head.output}", min=0, max=len(bars.counts), step=1, value=start
    )
    label = attributes(**{"for": f"cut-{head.output}"})
    return (
        f"<div {attributes(**{'class': 'cut', 'data-cut': json.dumps(facts)})}>"
        f"<input {slider}><p><label {label}>Threshold</label> "
        f"<output><b>{at}</b> and above keeps <b>{number(kept[start])}</b> of "
        f"{number(head.stats.count)} scored images, "
        f"<b>{percent(kept[start], head.stats.count)}</b></output></p>"
        f'<code class="command">{escape(command.replace("{}", at))}</code></div>'
    )


def _filter_command(head: HeadReport, summary: Summary) -> str:
    """The command that applies a threshold, with `{}` for it."""
    chosen = "" if head.output == DEFAULT_HEAD.output else f" --head {shlex.quote(head.output)}"
    partial = " --partial" if summary.unfinished else ""
    folder = shlex.quote(summary.scored).replace("{}", "{ }")
    return f"aesthetic curate filter {folder} -o FILTERED{partial}{chosen} --min {{}}"


def _percentiles(head: HeadReport, digits: int) -> str:
    cells = "".join(
        f"<div><dt>{'median' if percents == MEDIAN else f'{percents:g} %'}</dt>"
        f"<dd>{value:.{digits}f}</dd></div>"
        for percents, value in head.percentiles
    )
    how = "" if head.exact else " (interpolated)"
    return f'<div class="block"><h3>Percentiles{how}</h3><dl class="percentiles">{cells}</dl></div>'


def _thresholds(head: HeadReport) -> str:
    steps = [edge.score for edge in head.thresholds]
    digits = decimals(steps[1] - steps[0]) if len(steps) > 1 else 2
    rows = [
        (
            f"{threshold.score:.{max(digits, 1)}f}",
            number(threshold.kept),
            f'<div class="share"><i style="--p:{100 * threshold.kept / head.stats.count:.2f}%"></i>'
            f"<span>{percent(threshold.kept, head.stats.count)}</span></div>",
        )
        for threshold in head.thresholds
    ]
    titles = ("At least", "Images kept", "Of all scored")
    return (
        '<div class="block"><h3>What a threshold keeps</h3>'
        + table(titles, rows, name="thresholds")
        + "</div>"
    )


def _correlation(correlation: Correlation | None, heads: tuple[HeadReport, ...]) -> str:
    if correlation is None:
        return ""
    by_output = {head.output: foreign(head.name) for head in heads}
    names = [by_output[output] for output in correlation.outputs]
    rows = [
        (f"{at}. {name}", *map(_cell, line))
        for at, (name, line) in enumerate(zip(names, correlation.matrix.tolist(), strict=True), 1)
    ]
    # Numbers head the columns: five names would not fit side by side.
    titles = ["Head", *(f'<abbr title="{name}">{at}</abbr>' for at, name in enumerate(names, 1))]
    caption = f"Pearson's r over {number(correlation.rows)} images"
    grid = table(titles, rows, name="correlation", caption=caption)
    return f'<div class="block"><h3>How alike the heads are</h3>{grid}</div>'


def _cell(value: float) -> str:
    if not math.isfinite(value):
        return f"<span>{NOTHING}</span>"
    return f'<span style="--r:{max(0.0, value):.2f}">{value:.2f}</span>'
