"""Whether a server's weights are random, remembered for no longer than it may be true."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from aesthetic_client.vectors import is_seeded

RECHECK_S = 60.0  # another server may come up at the address between two requests, unnoticed


class ServedWeights:
    """What the server last said, for `RECHECK_S`, or until `forget`: it was away."""

    def __init__(self) -> None:
        self._seeded = False
        self._until_s = -1.0

    def seeded(self) -> bool | None:
        """Whether they are random; None where the server is to be asked."""
        return self._seeded if time.monotonic() < self._until_s else None

    def told(self, provenance: Mapping[str, Mapping[str, Any]]) -> bool:
        """Keep what the server said, by model; whether any of it is random."""
        self._seeded = any(map(is_seeded, provenance.values()))
        self._until_s = time.monotonic() + RECHECK_S
        return self._seeded

    def forget(self) -> None:
        """The server was away; another one may have taken its place."""
        self._until_s = -1.0
