"""What stops a benchmark, in words that say how to mend it."""

from __future__ import annotations


class BenchError(Exception):
    """The benchmark cannot be run, or a figure of it cannot be trusted."""
