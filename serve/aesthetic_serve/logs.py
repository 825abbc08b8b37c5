"""The end of the server's log, for people."""

from __future__ import annotations

from pathlib import Path

LAST_LINES = 15
LAST_BYTES = 64 * 1024
# What a machine without a GPU always logs, and what says nothing about a failure.
NOISE = (
    "CUDA driver version is insufficient",
    "CudaDriverHelper",
    "CUDA memory pool",
    "GPU device discovery failed",
    "+--",
    "| ",
)


def last_lines(log: Path, count: int = LAST_LINES) -> str:
    """The log's last lines that say something, indented; without the tables and the GPU's noise."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LAST_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return "    (no log)"
    lines = [line.rstrip() for line in text.splitlines()]
    telling = [line for line in lines if line and not any(noise in line for noise in NOISE)]
    return "\n".join(f"    {line}" for line in telling[-count:]) or "    (the log is empty)"
