"""The frame of every results file: what was measured, when, how, and on which machine."""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass, field
from typing import Any

from .machine import machine
from .settings import SCHEMA


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


@dataclass(frozen=True)
class Begun:
    """The start of a measurement: make it first, so that it sees the load of before."""

    at: datetime.datetime = field(default_factory=_now)
    where: dict[str, object] = field(default_factory=machine)

    def record(
        self, kind: str, method: str, versions: dict[str, str | None], **found: Any
    ) -> dict[str, Any]:
        """The record of what was found since."""
        return {
            "schema": SCHEMA,
            "kind": kind,
            "date_utc": self.at.isoformat(timespec="seconds"),
            "took_s": (_now() - self.at).total_seconds(),
            "method": method,
            "machine": {**self.where, "load_average_1min_after": round(os.getloadavg()[0], 2)},
            "versions": versions,
            **found,
        }
