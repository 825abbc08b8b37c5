"""Histograms as inline SVG. Text stays in HTML: it keeps its size when the drawing is stretched."""

from __future__ import annotations

from collections.abc import Sequence

from aesthetic_curate.report.distributions import decimals, round_step
from aesthetic_curate.report.markup import attributes, escape, number, percent, plain
from aesthetic_curate.report.values import Bars, HeadReport

HEIGHT = 200  # units of the drawings; width is one unit a bar
GAP = 0.08  # of a bar, between bars
MOST_TICKS = 10
MOST_LINES = 5


def histogram(head: HeadReport) -> str:
    """The chart with its axes. Every bar tells its range, its images, and what a filter keeps."""
    bars = head.bars
    digits = decimals(bars.edges[1] - bars.edges[0])
    top, lines = _vertical(max(bars.counts))
    label = (
        f"Histogram of {plain(head.name)}: {number(head.stats.count)} images between "
        f"{bars.edges[0]:.{digits}f} and {bars.edges[-1]:.{digits}f}, "
        f"most at {bars.edges[_highest(bars)]:.{digits}f}"
    )
    kept = kept_from(bars)
    rects = []
    for at, count in enumerate(bars.counts):
        low, high = (f"{edge:.{digits}f}" for edge in bars.edges[at : at + 2])
        title = (
            f"{low} to {high}: {number(count)} images ({percent(count, head.stats.count)}); "
            f"{low} and above: {number(kept[at])} ({percent(kept[at], head.stats.count)})"
        )
        height = HEIGHT * count / top
        if count:  # a bar of one image among millions is seen all the same
            height = max(height, 1.0)
        rects.append(
            # The transparent rectangle gives even a low bar a place to point at.
            f'<g><title>{escape(title)}</title><rect class="air" x="{at}" y="0" width="1" '
            f'height="{HEIGHT}"/><rect class="bar" x="{at + GAP / 2:g}" y="{HEIGHT - height:.2f}" '
            f'width="{1 - GAP:g}" height="{height:.2f}"/></g>'
        )
    drawing = (
        f'<svg viewBox="0 0 {len(bars.counts)} {HEIGHT}" preserveAspectRatio="none" '
        f"{attributes(role='img', aria_label=label)}>{''.join(rects)}</svg>"
    )
    rules = "".join(
        f'<i style="bottom:{100 * line / top:.3f}%"><b>{_short(line)}</b></i>' for line in lines
    )
    return (
        f'<div class="chart"><div class="plot"><div class="rules" aria-hidden="true">{rules}</div>'
        f'{drawing}</div><div class="ticks" aria-hidden="true">{_ticks(bars)}</div></div>'
    )


def sparkline(bars: Bars) -> str:
    """The same shape, small, for a table's row. Decoration: the table says the numbers.

    Its bars overlap a little: seams between them would flicker at this size.
    """
    if not bars.counts:
        return ""
    top = max(bars.counts) or 1
    heights = [24 * count / top for count in bars.counts]
    rects = "".join(
        f'<rect x="{at}" y="{24 - height:.1f}" width="1.1" height="{height:.1f}"/>'
        for at, height in enumerate(heights)
    )
    return (
        f'<svg class="spark" viewBox="0 0 {len(bars.counts)} 24" preserveAspectRatio="none" '
        f'aria-hidden="true">{rects}</svg>'
    )


def kept_from(bars: Bars) -> list[int]:
    """How many images have at least the lower edge of each bar, and (last) more than the chart."""
    kept = [bars.above]
    for count in reversed(bars.counts):
        kept.append(kept[-1] + count)
    return kept[::-1]


def _highest(bars: Bars) -> int:
    return max(range(len(bars.counts)), key=bars.counts.__getitem__)


def _vertical(most: int) -> tuple[float, list[float]]:
    """The top of the axis and its lines, at round numbers of images."""
    step = max(1.0, round_step(most, MOST_LINES))
    lines = [step * at for at in range(1, MOST_LINES + 1) if step * at <= most * 1.001]
    return max(most * 1.05, 1.0), lines


def _ticks(bars: Bars) -> str:
    low, high = bars.edges[0], bars.edges[-1]
    step = round_step(high - low, MOST_TICKS)
    first = -int(-low // step) if low > 0 else int(low // step)
    marks = [number_ * step for number_ in range(first, int(high / step + 1e-9) + 1)]
    return _positioned(
        [(mark, 100 * (mark - low) / (high - low)) for mark in marks if mark >= low - 1e-9],
        decimals(step),
    )


def _positioned(marks: Sequence[tuple[float, float]], digits: int) -> str:
    return "".join(
        f'<span style="left:{place:.3f}%">{mark:.{digits}f}</span>' for mark, place in marks
    )


def _short(count: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:g}{unit}"
    return f"{count:g}"
