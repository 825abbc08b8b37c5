"""What one child process does: a job's description in, its result out, written after every step."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from gpu_bench.engines import ENGINES, Call, Setting, SkipError, torch_fp32
from gpu_bench.heads import Layers, load_heads, random_heads
from gpu_bench.matrix import matrix_rates
from gpu_bench.parity import parity
from gpu_bench.shapes import SHAPES
from gpu_bench.timing import measure, synchronize
from gpu_bench.tower import Tower, seeded_tower, tower_from_state

MATRIX, REFERENCE = "matrix", "reference"
REFERENCE_BATCH = 16
RECOMPILE_LIMIT = 64  # a batch size is a compilation; the default of 8 counts all blocks together


@dataclass(frozen=True)
class Job:
    """JSON on its way to a child; paths as strings. `deadline` is a time.time()."""

    name: str
    device: str
    shape: str
    batches: list[int]
    seconds: float
    deadline: float
    work: str
    weights: str | None
    heads: str | None
    onnx: str | None
    compile_backend: str
    matrix_seconds: float
    parity_images: int

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), "utf-8")

    @classmethod
    def read(cls, path: Path) -> Job:
        return cls(**json.loads(path.read_text("utf-8")))


class Result:
    """A dictionary that is on disk after every change: a child that is killed leaves its part."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.content: dict[str, Any] = {}

    def add(self, **fields: Any) -> None:
        self.content.update(fields)
        self._path.write_text(json.dumps(self.content), "utf-8")


def run_job(job: Job, result: Result) -> None:
    """Raises what the engine raises; SkipError becomes part of the result."""
    with contextlib.suppress(AttributeError):
        torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    device = torch.device(job.device)
    with torch.no_grad():
        if job.name == MATRIX:
            _run_matrix(job, device, result)
        elif job.name == REFERENCE:
            call = torch_fp32(_setting(job, device))
            embeddings = _embeddings(
                call, _pixels(job)[: job.parity_images], REFERENCE_BATCH, device
            )
            torch.save(embeddings.cpu(), Path(job.work) / "reference.pt")
            result.add(images=len(embeddings))
        else:
            try:
                _run_engine(job, device, result)
            except SkipError as error:
                result.add(skipped=str(error))


def load_tower(shape: str, weights: str | None) -> Tower:
    """Of a state dict's file, else of seed 0."""
    if weights is None:
        return seeded_tower(SHAPES[shape], 0)
    return tower_from_state(torch.load(weights, "cpu", weights_only=True), SHAPES[shape])


def _run_matrix(job: Job, device: torch.device, result: Result) -> None:
    runs: list[dict[str, Any]] = []
    for batch in job.batches:
        if time.time() > job.deadline:
            result.add(stopped=f"out of time before batch {batch}")
            break
        shape = SHAPES[job.shape]
        runs.append(matrix_rates(shape, batch, device, torch.float16, job.matrix_seconds))
        result.add(runs=runs, best_tflops=max(run["tflops"] for run in runs))
        _forget(device)


def _run_engine(job: Job, device: torch.device, result: Result) -> None:
    before = _used_bytes(device)
    begin = time.perf_counter()
    call = ENGINES[job.name](_setting(job, device))
    result.add(ready_s=time.perf_counter() - begin)
    images, rows = _pixels(job), []
    for batch in job.batches:
        if time.time() > job.deadline:
            rows.append({"batch": batch, "skipped": "out of time"})
        else:
            rows.append(_run_batch(call, images[:batch].to(device), job.seconds, before))
        result.add(batches=rows)
    reference = torch.load(Path(job.work) / "reference.pt", weights_only=True).to(device)
    # A size that was run already: another would be compiled first.
    size = max([batch for batch in job.batches if batch <= len(reference)], default=1)
    fast = _embeddings(call, images[: len(reference)], size, device)
    result.add(parity=parity(fast, reference, _heads(job, device)))


def _run_batch(
    call: Call, pixels: torch.Tensor, seconds: float, before: int | None
) -> dict[str, Any]:
    """One batch size's row. An error of the device, for want of memory say, ends that row only."""
    device, batch = pixels.device, len(pixels)
    _forget(device)
    try:
        begin = time.perf_counter()
        call(pixels)
        synchronize(device)
        first_s = time.perf_counter() - begin
        times = measure(lambda: call(pixels), device, seconds)
    except Exception as error:  # every engine has its own types
        return {"batch": batch, "failed": (str(error) or repr(error)).splitlines()[0][:300]}
    used = _used_bytes(device)
    return {
        "batch": batch,
        "images_per_s": batch * times.calls / times.total_s,
        "first_call_s": first_s,  # with its compilation, if any
        **times.as_dict(),
        "torch_peak_bytes": _torch_peak_bytes(device),
        "device_used_bytes": None if used is None or before is None else used - before,
    }


def _embeddings(call: Call, images: torch.Tensor, size: int, device: torch.device) -> torch.Tensor:
    """(n, 768) fp32; copied, since engines write each answer over the one before."""
    parts = [call(part.to(device)).float().clone() for part in images.split(size)]
    synchronize(device)
    return torch.cat(parts)


def _setting(job: Job, device: torch.device) -> Setting:
    return Setting(
        tower=load_tower(job.shape, job.weights),
        device=device,
        batches=tuple(job.batches),
        work=Path(job.work),
        onnx=Path(job.onnx) if job.onnx else None,
        compile_backend=job.compile_backend,
    )


def _heads(job: Job, device: torch.device) -> dict[str, Layers]:
    return load_heads(Path(job.heads), device) if job.heads else random_heads(device)


def _pixels(job: Job) -> torch.Tensor:
    images: torch.Tensor = torch.load(Path(job.work) / "pixels.pt", weights_only=True)
    return images


def _forget(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _torch_peak_bytes(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def _used_bytes(device: torch.device) -> int | None:
    """Of the whole device, all processes: engines with allocators of their own show only here."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return total - free
