"""A scored data set as one HTML page: collect values, make the gallery, render.

The page says what was scored and by what, how the scores are distributed, what a threshold keeps,
what images of which score look like, and what could not be scored. It needs no network.
"""

from __future__ import annotations

from aesthetic_curate.report.data import ReportOptions, collect
from aesthetic_curate.report.gallery import build_gallery
from aesthetic_curate.report.page import render
from aesthetic_curate.results import Results

__all__ = ["ReportOptions", "build_gallery", "collect", "make_report", "render"]


def make_report(results: Results, options: ReportOptions | None = None) -> str:
    """The report's HTML. Raises InputError for a head that was not scored."""
    options = options or ReportOptions()
    summary = collect(results, options)
    gallery = build_gallery(results, summary, options.per_bucket, options.gallery_shards)
    return render(summary, gallery)
