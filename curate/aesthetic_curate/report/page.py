"""The page: one HTML file that needs nothing else, and lets nothing else in."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from string import Template

from aesthetic_curate.report.markup import foreign
from aesthetic_curate.report.run_section import data_set, header, run_section
from aesthetic_curate.report.sample_sections import failure_section, gallery_section
from aesthetic_curate.report.score_sections import score_section
from aesthetic_curate.report.values import Gallery, Summary


def render(summary: Summary, gallery: Gallery) -> str:
    """The report as HTML. The same values give the same page."""
    script = _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    sections = (
        score_section(summary),
        gallery_section(summary, gallery),
        failure_section(summary),
        run_section(summary),
    )
    return Template(_asset("page.html")).substitute(
        title=f"Aesthetic scores of {foreign(data_set(summary))}",
        style=_asset("page.css"),
        header=header(summary),
        sections="\n".join(sections),
        # The page's policy allows this one script: whatever a stranger's text held would not run.
        script=script,
        script_hash=f"sha256-{digest}",
    )


def _asset(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")
