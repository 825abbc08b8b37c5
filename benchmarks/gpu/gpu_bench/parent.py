"""The whole run: a child process for every job, so that a crash of one engine costs only it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gpu_bench import machine
from gpu_bench.engines import ENGINES
from gpu_bench.images import images_for
from gpu_bench.jobs import MATRIX, REFERENCE, Job
from gpu_bench.shapes import SHAPES, flops_per_image

RUN = Path(__file__).parents[1] / "run.py"
PARITY_IMAGES, SMOKE_PARITY_IMAGES = 64, 4
MEANINGLESS = "seeded:0, scores are meaningless"
GRACE_S = 20.0  # over its share, for a child between two looks at the clock
Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """One run, as the command line gives it."""

    smoke: bool
    batches: tuple[int, ...]
    seconds: float
    budget_s: float
    engines: tuple[str, ...] = tuple(ENGINES)
    images: Path | None = None
    heads: Path | None = None
    weights: Path | None = None
    onnx: Path | None = None
    wheels: Path | None = None


def run(options: Options, say: Say) -> dict[str, Any]:
    """Every job within the budget; the results, complete with what is missing and why."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpu-bench-") as name:
        work = Path(name)
        environment = _environment(options, work, say)
        parity_images = SMOKE_PARITY_IMAGES if options.smoke else PARITY_IMAGES
        pixels, origin = images_for(options.images, max(*options.batches, parity_images))
        torch.save(pixels, work / "pixels.pt")
        base = replace(_job(options, work), parity_images=parity_images)
        record = _introduction(options, base, origin)

        def child(job_name: str, jobs_left: int) -> dict[str, Any]:
            left = options.budget_s - (time.monotonic() - begin)
            if left <= 0:
                return {"skipped": "out of time"}
            say(f"{job_name}: {left:.0f} s left for {jobs_left} jobs")
            share = left if jobs_left == 1 else max(left / jobs_left, left / 2)
            job = replace(base, name=job_name, deadline=time.time() + share)
            return run_child(job, work, environment, min(share + GRACE_S, left + GRACE_S))

        names = [MATRIX, REFERENCE, *options.engines]
        results = {name: child(name, len(names) - i) for i, name in enumerate(names)}
    record["matrix"] = results.pop(MATRIX)
    record["reference_fp32"] = results.pop(REFERENCE)
    record["engines"] = results
    record["wall_s"] = time.monotonic() - begin
    add_fractions(record)
    return record


def run_child(
    job: Job, work: Path, environment: dict[str, str], timeout_s: float
) -> dict[str, Any]:
    """The job's result. A child that died or was ended leaves what it had, with `failed` added."""
    description, answer = work / f"{job.name}.job.json", work / f"{job.name}.json"
    job.write(description)
    command = [sys.executable, str(RUN), "--child", str(description), str(answer)]
    failed = None
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout_s
        )
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            failed = f"exit code {done.returncode}: {lines[-1][:500] if lines else 'no message'}"
    except subprocess.TimeoutExpired:
        failed = f"ended after {timeout_s:.0f} s"
    found = json.loads(answer.read_text("utf-8")) if answer.is_file() else {}
    return {**found, "failed": failed} if failed else dict(found)


def add_fractions(record: dict[str, Any]) -> None:
    """Of every row: its arithmetic rate, and the share of the rate of the matrix products alone."""
    best = record["matrix"].get("best_tflops")
    flops = record["tower"]["flops_per_image"]
    record["limit_images_per_s"] = best * 1e12 / flops if best else None
    for result in record["engines"].values():
        for row in result.get("batches", ()):
            if "images_per_s" in row:
                row["tflops"] = row["images_per_s"] * flops / 1e12
                row["fraction_of_limit"] = row["tflops"] / best if best else None


def _job(options: Options, work: Path) -> Job:
    def text(path: Path | None) -> str | None:
        return str(path.resolve()) if path else None

    return Job(
        name="",
        device="cpu" if options.smoke else "cuda",
        shape="tiny" if options.smoke else "vit-l-14",
        batches=list(options.batches),
        seconds=options.seconds,
        deadline=0.0,
        work=str(work),
        weights=text(options.weights),
        heads=text(options.heads),
        onnx=text(options.onnx),
        # On a CPU inductor needs a C++ compiler; what is tried there is the way, not the speed.
        compile_backend="eager" if options.smoke else "inductor",
        matrix_seconds=min(0.2, options.seconds),
        parity_images=PARITY_IMAGES,
    )


def _introduction(options: Options, job: Job, origin: str) -> dict[str, Any]:
    return {
        "benchmark": "gpu",
        "smoke": options.smoke,  # true: a tiny tower on a CPU; its figures mean nothing
        "date_utc": machine.now_utc(),
        "machine": machine.machine(torch.device(job.device)),
        "versions": machine.versions(),
        "tower": {"shape": job.shape, "flops_per_image": flops_per_image(SHAPES[job.shape])},
        "weights": str(options.weights.name) if options.weights else MEANINGLESS,
        "heads": "published" if options.heads else "random, scores are meaningless",
        "onnx": options.onnx.name if options.onnx else "made by this run",
        "images": origin,
        "batches": list(options.batches),
        "seconds_per_case": options.seconds,
        "budget_s": options.budget_s,
    }


def _environment(options: Options, work: Path, say: Say) -> dict[str, str]:
    """The children's: with the folder of wheels installed where only they look."""
    environment = dict(os.environ)
    if options.wheels is None:
        return environment
    wheels = sorted(map(str, options.wheels.glob("*.whl")))
    target = work / "site"
    say(f"installing {len(wheels)} wheels")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--no-compile", "--target", str(target), *wheels], check=True)
    before = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = os.pathsep.join([str(target), *([before] if before else [])])
    return environment
