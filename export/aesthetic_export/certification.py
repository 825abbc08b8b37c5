"""An artifact's provenance is complete once its comparison has passed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from aesthetic_export import parity, provenance
from aesthetic_export.files import sha256_of

Say = Callable[[str], None]
Exported = tuple[parity.Report, provenance.Provenance]


def certified(
    known: provenance.Provenance, files: Sequence[Path], report: parity.Report
) -> provenance.Provenance:
    """The provenance with hashes and comparison. Raises ParityError for a report that is false."""
    if not report:
        raise parity.ParityError(report)
    hashes = {path.name: sha256_of(path) for path in files}
    return {**known, "artifact_sha256": hashes, "parity": report.as_dict()}
