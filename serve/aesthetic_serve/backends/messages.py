"""Words for people who use the server, without what is its own business."""

from __future__ import annotations

import re

# Where it was compiled and where things lie in memory.
_PRIVATE = re.compile(r"(?<![\w.])/[^\s:'\"]+(:\d+)?|\b0x[0-9a-fA-F]+")


def without_private(message: str) -> str:
    """The message without paths and addresses."""
    return _PRIVATE.sub("...", message)
