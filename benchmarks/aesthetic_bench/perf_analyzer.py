"""NVIDIA's perf_analyzer: find it, run it, read what it measured.

Two ways of measuring, because images come at about one a second and in lumps of a batch of eight:

- `run_requests`: a given number of requests, and the timestamps of every one of them. A window of
  time would cut such lumps anywhere, and perf_analyzer's own throughput for `--request-count`
  divides by a time rounded up to whole seconds (seen with 2.51), so both are computed here.
- `run_windows`: perf_analyzer's own three windows and its CSV, for thousands of small requests.
"""

from __future__ import annotations

import csv
import io
import mmap
import os
import re
import shutil
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from .children import run_child
from .errors import BenchError
from .measurements import Latency, RequestTimes

PROGRAM = "perf_analyzer"
START_S = 60.0  # what starting and reading the inputs may take
EXPORT_MIB_PER_S = 5.0  # a slow disk; the export repeats every input as text
GET_PROGRAM = (
    "perf_analyzer is in the Linux wheel of tritonclient 2.51.0 (pip install "
    "tritonclient==2.51.0), in the bench extra, and in Triton's -py3-sdk container; name another "
    "one with --perf-analyzer"
)
GET_LIBRARY = {
    "libcudart": "pip install nvidia-cuda-runtime-cu12",
    "libb64": "pip install nvidia-pytriton==0.7.0, or apt install libb64-0d",
}
_TIMES = re.compile(rb'"timestamp":(\d+),|"response_timestamps":\[(?:\d+,)*(\d+)\]')


@dataclass(frozen=True)
class Windows:
    """What perf_analyzer itself reports of its measurement windows."""

    items_per_s: float  # requests times the batch of each
    latency: Latency


@dataclass(frozen=True)
class Job:
    """One case: the model, the items in each request, the requests in flight, the input data."""

    model: str
    url: str  # host:port of gRPC
    concurrency: int
    batch: int = 1
    input_data: Path | None = None  # None: random values


class PerfAnalyzer:
    """An installed perf_analyzer. `scratch` is a folder for what it reads and writes.

    Raises BenchError where it is missing or cannot start.
    """

    def __init__(self, scratch: Path, program: Path | None = None) -> None:
        self._scratch = scratch
        self._program = _find(program)
        self._environment = {
            **os.environ,
            "LD_LIBRARY_PATH": os.pathsep.join(_libraries(scratch / "libraries")),
        }
        self.version = self._ask_version()

    def run_requests(self, job: Job, requests: int, *, timeout_s: float) -> RequestTimes:
        """Send `requests` requests, `job.concurrency` in flight; when each began and ended."""
        export = self._scratch / "profile.json"
        size_mib = requests * 0.6  # of 224x224 pixels as text
        options = ["--request-count", str(requests), "--profile-export-file", str(export)]
        try:
            self._run(job, options, timeout_s + size_mib / EXPORT_MIB_PER_S)
            times = read_times(export)
        finally:
            export.unlink(missing_ok=True)
        if len(times.ended_ns) != requests:
            raise BenchError(f"perf_analyzer timed {len(times.ended_ns)} requests of {requests}")
        return times

    def run_windows(self, job: Job, window_s: float) -> Windows:
        """Three windows of `window_s` seconds, merged."""
        report = self._scratch / "report.csv"
        # A deviation allowed beyond all bounds: three windows, never more.
        options = ["-p", str(round(window_s * 1000)), "-s", "999", "-f", str(report)]
        try:
            self._run(job, [*options, "--verbose-csv"], window_s * 10)
            return read_csv(report.read_text("utf-8"))
        finally:
            report.unlink(missing_ok=True)

    def _run(self, job: Job, options: Sequence[str], timeout_s: float) -> None:
        command = [self._program, "-m", job.model, "-i", "grpc", "-u", job.url]
        command += ["--concurrency-range", str(job.concurrency), "-b", str(job.batch)]
        if job.input_data is not None:
            command += ["--input-data", str(job.input_data)]
        run_child(
            [*command, *options], timeout_s=START_S + timeout_s, environment=self._environment
        )

    def _ask_version(self) -> str:
        try:
            said = run_child(
                [self._program, "--version"], timeout_s=START_S, environment=self._environment
            )
        except OSError as error:
            raise BenchError(f"perf_analyzer cannot be started: {error.strerror}") from None
        except BenchError as error:
            raise BenchError(explain_missing_library(str(error))) from None
        match = re.search(r"Version\s+([\w.+-]+)", said)
        if match is None:
            # The package `perf-analyzer` of the registry is an empty stub, for one.
            raise BenchError(f"this perf_analyzer does not say its version; {GET_PROGRAM}")
        return match[1]


def explain_missing_library(message: str) -> str:
    """The loader's complaint, with the way to get the library where it is a known one."""
    match = re.search(r"(\S+): cannot open shared object file", message)
    if match is None:
        return message
    cure = next((cure for name, cure in GET_LIBRARY.items() if match[1].startswith(name)), None)
    return f"perf_analyzer needs the library {match[1]}" + (f": {cure}" if cure else "")


def read_times(export: Path) -> RequestTimes:
    """The timestamps in a `--profile-export-file`.

    Not by a JSON parser: the file repeats encoded images as raw bytes and so is no valid JSON.
    """
    began: list[int] = []
    ended: list[int] = []
    if not export.is_file() or export.stat().st_size == 0:
        raise BenchError("perf_analyzer wrote no timestamps")
    with (
        export.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as text,
    ):
        for match in _TIMES.finditer(text):
            if match[1] is not None:
                began.append(int(match[1]))
            else:
                ended.append(int(match[2]))
    if not began or len(began) != len(ended):
        raise BenchError(f"perf_analyzer wrote {len(began)} beginnings and {len(ended)} endings")
    return RequestTimes(tuple(began), tuple(ended))


def read_csv(text: str) -> Windows:
    """The one case in a `-f FILE --verbose-csv`. Raises BenchError where it holds none."""
    row = next(csv.DictReader(io.StringIO(text)), None)
    try:
        if row is None:
            raise KeyError("a row")
        names = ("Avg", "p50", "p90", "p95", "p99")
        return Windows(
            float(row["Inferences/Second"]),
            Latency(*(float(row[f"{name} latency"]) / 1e3 for name in names)),  # of microseconds
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BenchError(f"perf_analyzer's CSV lacks {error}") from None


def _find(given: Path | None) -> str:
    if given is not None:
        if not (given.is_file() and os.access(given, os.X_OK)):
            raise BenchError(f"{given} is no program; {GET_PROGRAM}")
        return str(given.resolve())
    # Beside this Python first: it need not be on PATH.
    own = shutil.which(PROGRAM, path=sysconfig.get_path("scripts")) or shutil.which(PROGRAM)
    if own is None:
        raise BenchError(f"there is no perf_analyzer; {GET_PROGRAM}")
    return own


def _libraries(links: Path) -> list[str]:
    """Folders for LD_LIBRARY_PATH: what the program needs and a plain system does not have.

    nvidia-pytriton brings the same libraries under names of its own; `links` gives them theirs.
    """
    links.mkdir(exist_ok=True)
    for package in _locations("pytriton"):
        for name, pattern in (
            ("libb64.so.0d", "libb64-*.so.0d"),
            ("libcudart.so.12", "libcudart-*.so.12*"),
        ):
            for library in sorted((package.parent / "nvidia_pytriton.libs").glob(pattern))[:1]:
                if not (links / name).exists():
                    (links / name).symlink_to(library)
    folders = [str(root / "cuda_runtime" / "lib") for root in _locations("nvidia")]
    inherited = os.environ.get("LD_LIBRARY_PATH")
    return [*folders, str(links), *([inherited] if inherited else [])]


def _locations(package: str) -> list[Path]:
    spec = find_spec(package)  # of a top-level package: not imported
    return [Path(path) for path in (spec.submodule_search_locations or ())] if spec else []
