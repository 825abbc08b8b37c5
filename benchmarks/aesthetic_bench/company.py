"""Was this process alone on the machine? What others took of its processors meanwhile."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

STAT = Path("/proc/stat")
IDLE, IOWAIT, STEAL = 3, 4, 7  # fields of the `cpu` line; guests' time is in `user` already
COUNTED = 8


@dataclass(frozen=True)
class Ticks:
    """The machine's processor time since boot, and this process's own, in seconds."""

    total_s: float
    busy_s: float
    stolen_s: float  # by the host of a virtual machine
    own_s: float

    @classmethod
    def now(cls) -> Ticks:
        fields = STAT.read_text("ascii").splitlines()[0].split()[1 : COUNTED + 1]
        seconds = [int(field) / os.sysconf("SC_CLK_TCK") for field in fields]
        idle = seconds[IDLE] + seconds[IOWAIT]
        total = sum(seconds)
        busy = total - idle - seconds[STEAL]
        return cls(total, busy, seconds[STEAL], time.process_time())

    def company_since(self, before: Ticks) -> dict[str, float]:
        """Shares, 0 to 1, of all processors' time since `before`."""
        total_s = max(self.total_s - before.total_s, 1e-9)
        others_s = self.busy_s - before.busy_s - (self.own_s - before.own_s)
        return {
            "other_processes_share_of_cpu": min(1.0, max(0.0, others_s / total_s)),
            "stolen_share_of_cpu": (self.stolen_s - before.stolen_s) / total_s,
        }


def resting_company(seconds: float = 1.0) -> dict[str, float]:
    """Shares of others while this run rests: where its own work is done by several processes."""
    before = Ticks.now()
    time.sleep(seconds)
    return Ticks.now().company_since(before)
