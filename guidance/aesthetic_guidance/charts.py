"""Charts as self-contained SVG: two distributions, and predictions against ratings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from aesthetic_guidance.statistics import Array

WIDTH, HEIGHT = 720, 460  # pixels
_LEFT, _RIGHT, _TOP, _LINE = 64, 24, 44, 17
_COLOURS = ("#0072b2", "#d55e00")  # told apart by colour-blind people too (Okabe and Ito, 2008)
_INK, _FAINT = "#222", "#ddd"
_MOST_MARKS = 2000  # more points would make a file of megabytes and a black area
_MOST_GROUPS = 10  # of predictions, by rank, each drawn with its mean
_GROUP_SIZE = 10  # items at least: means of fewer are noise


@dataclass(frozen=True)
class _Axis:
    """Values from `low` to `high` at the pixels `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self) -> list[float]:
        step = _round_step((self.high - self.low) / 8)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def distributions_svg(
    samples: Sequence[Array], names: Sequence[str], title: str, notes: Sequence[str], score: str
) -> str:
    """Two samples of scores, A and B, as overlapping histograms, each a share of its own sample.

    Below them a rug has a stroke a score, and the means stand as dashed lines. `notes` are lines of
    text under the picture, `score` is the name of the horizontal axis.
    """
    everything = np.concatenate(list(samples))
    edges = _bin_edges(everything, min(len(sample) for sample in samples))
    counts = [np.histogram(sample, edges)[0] / len(sample) for sample in samples]
    bottom = _bottom(notes)
    rug = 16  # pixels a sample
    x = _Axis(edges[0], edges[-1], _LEFT, WIDTH - _RIGHT)
    base = bottom - 2 * rug
    y = _Axis(0, max(float(count.max()) for count in counts) * 1.08, base, _TOP + 24)
    parts = [*_frame(x, y, score, "share of the folder's images", bottom)]
    for at, (sample, count, colour) in enumerate(zip(samples, counts, _COLOURS, strict=True)):
        for left, right, share in zip(edges[:-1], edges[1:], count, strict=True):
            if share:
                parts.append(
                    f'<rect x="{x(left)}" y="{y(share)}" width="{x(right) - x(left):.2f}" '
                    f'height="{base - y(share):.2f}" fill="{colour}" fill-opacity="0.45"/>'
                )
        top = base + 3 + at * rug
        marks = " ".join(f"M{x(value)} {top}v{rug - 5}" for value in _thinned(sample))
        parts.append(f'<path d="{marks}" stroke="{colour}" stroke-opacity="0.6"/>')
        mean = x(float(sample.mean()))
        parts.append(
            f'<path d="M{mean} {_TOP + 24}V{base}" stroke="{colour}" stroke-width="2" '
            'stroke-dasharray="6 4"/>'
        )
        label = f"{_ending(names[at], 24)} (n = {len(sample)}, mean {sample.mean():.3f})"
        legend = _LEFT + at * (WIDTH - _LEFT - _RIGHT) / 2
        parts.append(
            f'<rect x="{legend}" y="{_TOP}" width="12" height="12" fill="{colour}"/>'
            + _text(legend + 18, _TOP + 11, f"{'AB'[at]}: {label}")
        )
    return _page(title, notes, parts)


def calibration_svg(
    predicted: Array,
    actual: Array,
    title: str,
    notes: Sequence[str],
    labels: tuple[str, str] = ("held-out prediction", "rating"),
) -> str:
    """Ratings over held-out predictions: a point each, and the means of up to ten equal groups.

    The groups are of neighbouring predictions. On the diagonal a prediction is right on average.
    """
    bottom = _bottom(notes)
    low = float(min(predicted.min(), actual.min()))
    high = float(max(predicted.max(), actual.max()))
    margin = 0.04 * (high - low) or 1.0
    x = _Axis(low - margin, high + margin, _LEFT, WIDTH - _RIGHT)
    y = _Axis(low - margin, high + margin, bottom, _TOP + 4)
    parts = [*_frame(x, y, *labels, bottom)]
    parts.append(
        f'<path d="M{x(x.low)} {y(x.low)}L{x(x.high)} {y(x.high)}" stroke="{_INK}" '
        'stroke-dasharray="2 4"/>'
    )
    order = np.argsort(predicted, kind="stable")
    for at in _thinned(order):
        parts.append(
            f'<circle cx="{x(float(predicted[at]))}" cy="{y(float(actual[at]))}" r="2" '
            f'fill="{_COLOURS[0]}" fill-opacity="0.35"/>'
        )
    groups = np.array_split(order, max(1, min(_MOST_GROUPS, len(order) // _GROUP_SIZE)))
    means = [(float(predicted[group].mean()), float(actual[group].mean())) for group in groups]
    line = "L".join(f"{x(a)} {y(b)}" for a, b in means)
    parts.append(f'<path d="M{line}" fill="none" stroke="{_COLOURS[1]}" stroke-width="2"/>')
    parts += [f'<circle cx="{x(a)}" cy="{y(b)}" r="4" fill="{_COLOURS[1]}"/>' for a, b in means]
    return _page(title, notes, parts)


def _frame(x: _Axis, y: _Axis, across: str, up: str, bottom: float) -> list[str]:
    """Grid lines, their numbers and the axes' names."""
    parts = []
    for value in x.ticks():
        at = x(value)
        parts.append(f'<path d="M{at} {y.end}V{bottom}" stroke="{_FAINT}"/>')
        parts.append(_text(at, bottom + 16, f"{value:g}", anchor="middle"))
    for value in y.ticks():
        parts.append(f'<path d="M{x.start} {y(value)}H{x.end}" stroke="{_FAINT}"/>')
        parts.append(_text(x.start - 6, y(value) + 4, f"{value:g}", anchor="end"))
    parts.append(f'<path d="M{x.start} {y.start}H{x.end}" stroke="{_INK}"/>')
    parts.append(_text((x.start + x.end) / 2, bottom + 34, across, anchor="middle"))
    middle = (y.start + y.end) / 2
    parts.append(
        f'<text transform="translate(16 {middle:.0f}) rotate(-90)" text-anchor="middle" '
        f'fill="{_INK}">{escape(up)}</text>'
    )
    return parts


def _page(title: str, notes: Sequence[str], parts: Sequence[str]) -> str:
    first = _bottom(notes) + 58
    lines = [_text(_LEFT, first + at * _LINE, note) for at, note in enumerate(notes)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
            f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
            f'<text x="{_LEFT}" y="26" font-size="16" fill="{_INK}">'
            f"{escape(_ending(title, 72))}</text>",
            *parts,
            *lines,
            "</svg>\n",
        ]
    )


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{_INK}">{escape(text)}</text>'
    )


def _bottom(notes: Sequence[str]) -> float:
    """Where the picture ends and its axis, and then the notes, begin."""
    return HEIGHT - 50 - _LINE * len(notes)


def _bin_edges(values: Array, fewest: int) -> list[float]:
    """Round edges over all values; more and narrower bins where the smaller sample is large."""
    low, high = float(values.min()), float(values.max())
    wanted = min(60, max(12, round(3.5 * math.sqrt(fewest))))
    step = _round_step((high - low) / wanted) if high > low else 0.1
    first, last = math.floor(low / step), math.floor(high / step) + 1
    return [number * step for number in range(first, last + 1)]


def _round_step(least: float) -> float:
    """The smallest of ..., 0.1, 0.2, 0.5, 1, ... that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= least * (1 - 1e-9))


def _thinned(values: NDArray[Any]) -> list[Any]:
    """At most _MOST_MARKS of the values, evenly taken."""
    step = -(-len(values) // _MOST_MARKS)
    thinned: list[Any] = values[::step].tolist()
    return thinned


def _ending(text: str, most: int) -> str:
    """A text, or its end: of a long path that says most."""
    return text if len(text) <= most else f"…{text[1 - most :]}"
