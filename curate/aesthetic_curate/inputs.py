"""From what the caller points at to shards."""

from __future__ import annotations

from aesthetic_curate.options import InputOptions

__all__ = ["InputOptions"]
