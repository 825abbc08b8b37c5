"""Pages of reports, parsed, and scored folders to make them of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from curate_datasets import img2dataset
from curate_results import write_results

from aesthetic_client.contract import HEADS
from aesthetic_curate.report import ReportOptions, make_report
from aesthetic_curate.results import Results

VOID = {"meta", "img", "input", "link", "br"}


class Page(HTMLParser):
    """The page's elements and texts; fails where tags do not close as they opened."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self._open):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def data(self, tag: str, name: str) -> list[Any]:
        """What the script reads from elements: JSON in their attributes."""
        return [json.loads(one[name] or "") for one in self.named(tag) if name in one]


def page_of(results: Results, **options: Any) -> Page:
    return Page(make_report(results, ReportOptions(**options)))


def scored(folder: Path, *, heads: int = 1, seeded: bool = False, shards: int = 2) -> Results:
    tars = img2dataset(folder / "photos", shards=shards, samples=81)
    random = np.random.default_rng(0)
    scores = []
    for _ in tars:
        base = random.normal(5.5, 0.8, 80)
        by_output: dict[str, Sequence[float | None]] = {}
        for at, head in enumerate(HEADS[:heads]):
            values = (base + at * random.normal(0, 1, 80)).astype(np.float32).tolist()
            by_output[head.output] = [None if row % 20 == 19 else v for row, v in enumerate(values)]
        scores.append(by_output)
    write_results(folder / "scored", tars, scores, seeded=seeded)
    return Results.open(str(folder / "scored"))
