"""The end of the server's log, for people."""

from __future__ import annotations

import re
from pathlib import Path

LAST_LINES = 15
LAST_BYTES = 64 * 1024
# What a machine without a GPU always logs, and what says nothing about a failure.
NOISE = re.compile(
    r"CUDA driver version is insufficient|CudaDriverHelper|CUDA memory pool|"
    r"GPU device discovery failed|^\+--|^\| |^[IWE]\d{4} [^\]]*\]$"
)
ERROR = re.compile(r"^E\d{4} |^error: |Error: ")
# Where in the backend's Python code an error came up, as the server writes it into one line.
PYTHON_TRACE = re.compile(r"(\\n)*At:\\n.*?(?=\"?$)")


def last_lines(log: Path, *, errors: bool = False, count: int = LAST_LINES) -> str:
    """The log's last lines that say something, indented; with `errors`, errors where it has any."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LAST_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return "    (no log)"
    lines = [PYTHON_TRACE.sub("", line.rstrip()) for line in text.splitlines()]
    telling = [line for line in lines if line and not NOISE.search(line)]
    if errors:
        telling = [line for line in telling if ERROR.search(line)] or telling
    return "\n".join(f"    {line}" for line in telling[-count:]) or "    (the log is empty)"
