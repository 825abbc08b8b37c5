"""Where this project keeps files on a machine.

Read by command lines, and where a caller names no folder to `AestheticScorer.load`; nowhere below.
"""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "AESTHETIC_CACHE"
WEIGHTS_VARIABLE = "AESTHETIC_WEIGHTS_DIR"


def cache_dir() -> Path:
    """`$AESTHETIC_CACHE`, else `aesthetic-triton` in the XDG cache folder. Not created here."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    xdg = os.environ.get("XDG_CACHE_HOME")
    return (Path(xdg) if xdg else Path.home() / ".cache") / "aesthetic-triton"


def default_repository() -> Path:
    """The servable model repository that `aesthetic export` builds and `aesthetic serve` serves."""
    return cache_dir() / "model_repository"
