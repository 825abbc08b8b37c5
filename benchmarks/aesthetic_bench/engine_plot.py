"""The plot of a results file of engines.py: one SVG, readable on light and on dark pages."""

from __future__ import annotations

from html import escape

from .engine_tables import SCORE
from .tables import Record, number

WIDTH, LEFT, RIGHT = 960, 290, 200  # pixels; names stand left of the bars, figures right of them
TOP, ROW, BAR = 72, 28, 18
FOOT = 56
# By the number type that a row computes in; each has 3:1 against white and against #0d1117.
COLOURS = {"fp32": "#6e7fd1", "bf16": "#2f9e77", "int8": "#d1693c"}
STYLE = (
    "text{font:13px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#1f2328}"
    ".title{font-size:16px;font-weight:600}.small{font-size:12px;fill:#59636e}"
    ".mark{stroke:#1f2328;stroke-width:2}.ours{font-weight:600}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9198a1}"
    ".mark{stroke:#e6edf3}}"
)


def svg(record: Record) -> str:
    """Images/s of every row at its best batch size, beside the limits of the machine's matrices."""
    bars = [(row, _best(row)) for row in record["rows"]]
    limits = {name: limit["images_per_s"] for name, limit in record["limits"].items()}
    most = max(*limits.values(), *(claim["images_per_s"] for _, claim in bars))
    scale = (WIDTH - LEFT - RIGHT) / most
    bottom = TOP + ROW * len(bars)
    height = bottom + FOOT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img">',
        f"<title>{escape(_title(record))}</title><style>{STYLE}</style>",
        _text(16, 26, _title(record), "title"),
        _text(16, 48, _explained(limits), "small"),
    ]
    for place, (row, claim) in enumerate(bars):
        limit = limits[row["precision"]] * scale
        parts += _bar(row, claim["images_per_s"] * scale, limit, TOP + ROW * place)
    for place, line in enumerate(_foot(record)):
        parts.append(_text(16, bottom + 20 + 18 * place, line, "small"))
    return "\n".join([*parts, "</svg>", ""])


def _title(record: Record) -> str:
    where = record["machine"]
    return f"CLIP ViT-L/14 on {where['usable_cores']} cores: images a second, by engine"


def _explained(limits: Record) -> str:
    numbers = ", ".join(f"{name} {number(rate)}" for name, rate in limits.items())
    return f"Upright marks: what the machine's matrix products alone would give, {numbers}"


def _foot(record: Record) -> list[str]:
    seeded = record["weights"]["weights"].startswith("seeded")
    about = "; of seeded weights, a lower bound" if seeded else ""
    return [
        "Each row at its best batch size. x: against torch eager fp32 at the same batch size, in "
        "the same round.",
        f"Drift: the largest of the default head's, in points of score{about}.",
    ]


def _bar(row: Record, length: float, limit: float, y: int) -> list[str]:
    claim, kind = _best(row), "ours" if row["profile"] else ""
    figures = f"{number(claim['images_per_s'])} · {claim['over_reference']:.1f}x"
    if row["precision"] != "fp32":
        figures += f" · drift {row['drift']['largest_by_head'][SCORE]:.2g}"
    base = y + BAR - 5
    return [
        f'<text x="{LEFT - 10}" y="{base}" text-anchor="end" class="{kind}">'
        f"{escape(row['name'])}</text>",
        f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" rx="3" '
        f'fill="{COLOURS[row["precision"]]}" fill-opacity="{1 if row["profile"] else 0.55}"/>',
        f'<line x1="{LEFT + limit:.1f}" x2="{LEFT + limit:.1f}" y1="{y - 3}" y2="{y + BAR + 3}" '
        'class="mark"/>',
        _text(LEFT + max(length, limit) + 8, base, figures, kind),
    ]


def _best(row: Record) -> Record:
    claims: list[Record] = [
        *row.get("batches", []),
        *([row["saturation"]] if row["served"] else []),
    ]
    return max(claims, key=lambda claim: claim["images_per_s"])


def _text(x: float, y: float, words: str, kind: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" class="{kind}">{escape(words)}</text>'
