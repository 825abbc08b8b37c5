"""One run: its steps in order, and everything they measured as one plain record."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from aesthetic_client import contract
from aesthetic_serve import EmbeddedServer

from . import figures, torch_loop
from .children import run_module
from .inputs import load_images
from .machine import machine, versions
from .perf_analyzer import PerfAnalyzer
from .provenance import read_provenance, weights_of
from .served import Sweeps
from .settings import BARE, HEADS, SCHEMA, START, STOP, TORCH, TORCH_BATCHES, Settings
from .statistics import Server

Say = Callable[[str], None]

LOADING_S = 600.0  # what reading a tower, and one round of its batches, may take
TOWER = contract.CLIP_IMAGE.name
METHOD = (
    "perf_analyzer and the server share the machine's cores. images_per_s of a served case: "
    "requests over the time from the first one's start to the last one's end, by perf_analyzer's "
    "timestamps. embeddings_per_s: perf_analyzer's own, over three windows. Saturation: the "
    "sweep's highest concurrency. Bare engine: the same model file and engine options in a process "
    "of its own, at its best batch size, in the runs right before and right after. Torch loop: "
    "files in, score out, with open_clip."
)


class Run:
    """A run in progress. `scratch` is a folder for everything that is not kept."""

    def __init__(self, settings: Settings, scratch: Path, say: Say) -> None:
        self._settings = settings
        self._scratch = scratch
        self._say = say
        self._machine = machine()  # first: the load of before
        self._analyzer = PerfAnalyzer(scratch, settings.perf_analyzer)
        self._server: EmbeddedServer | None = None
        self._stack = contextlib.ExitStack()
        self._step = 0
        self._order: list[str] = []
        self._bare: list[dict[str, Any]] = []
        self._torch: list[dict[str, Any]] = []
        self._served: list[dict[str, Any]] = []
        self._skipped = ""  # why there is no torch loop
        self._facts: dict[str, Any] = {}  # of the server, while it ran
        self._provenance: Mapping[str, str] = {}

    def record(self) -> dict[str, Any]:
        """Do every step; the results file's content.

        Raises BenchError, or a ServeError where the server cannot be run.
        """
        self._provenance = read_provenance(self._settings.repository, self._settings.profile)
        self._images = load_images(self._settings.images, self._scratch)
        np.save(self._scratch / "pixels.npy", self._images.pixels)
        actions = {
            BARE: self._run_bare,
            TORCH: self._run_torch,
            START: self._start_server,
            STOP: self._stop_server,
            HEADS: self._sweep_heads,
        }
        begun = datetime.datetime.now(datetime.timezone.utc)
        with self._stack:
            for number, step in enumerate(self._settings.steps):
                self._step = number
                self._order.append(self._described(step))
                if step in actions:
                    actions[step]()
                else:
                    self._sweep_images(step)
        return self._compose(begun)

    def _compose(self, begun: datetime.datetime) -> dict[str, Any]:
        took = datetime.datetime.now(datetime.timezone.utc) - begun
        instances = self._facts["instances"][TOWER]
        torch_record: dict[str, Any] = {"runs": self._torch}
        if self._skipped:
            torch_record["skipped"] = self._skipped
        points = {
            model: figures.saturation(self._served, self._bare, model, instances)
            for model in figures.IMAGE_MODELS
        }
        return {
            "schema": SCHEMA,
            "kind": "serving-cpu",
            "date_utc": begun.isoformat(timespec="seconds"),
            "took_s": took.total_seconds(),
            "method": METHOD,
            "ratios": figures.ratios(self._served, self._bare, self._torch, instances),
            "saturation": points,
            "weights": weights_of(self._provenance),
            "machine": self._machine,
            "versions": versions(self._facts["triton"], self._analyzer.version),
            "parameters": {
                **self._settings.as_dict(),
                "images": self._images.as_dict(),
                "server": {key: value for key, value in self._facts.items() if key != "triton"},
            },
            "order": self._order,
            "served": self._served,
            "bare_engine": self._bare,
            "torch_loop": torch_record,
        }

    def _described(self, step: str) -> str:
        if step in (BARE, TORCH):
            return f"{step} ({'server idle' if self._server else 'no server'})"
        return step if step in (START, STOP) else f"perf_analyzer on {step}"

    # --- the steps ---

    def _run_bare(self) -> None:
        self._say("bare engine")
        settings = self._settings
        task = {
            "model_folder": str(settings.repository / TOWER),
            "config_file": settings.profile.config_file,
            "pixels": str(self._scratch / "pixels.npy"),
            "embeddings": str(self._scratch / "embeddings.npy"),
            "batches": settings.bare_batches,
            "seconds": settings.seconds * len(settings.bare_batches) * 2 / 3,
        }
        result = run_module("engine", task, self._scratch, timeout_s=self._loop_limit())
        self._bare.append({"step": self._step, **result})

    def _run_torch(self) -> None:
        if self._skipped:
            return
        tower, self._skipped = torch_loop.choose_tower(
            self._provenance, self._settings.weights, self._settings.tower
        )
        if tower is None:
            return
        self._say("torch loop")
        task = {
            "tower": tower,
            "files": [str(file.resolve()) for file in self._images.files],
            "embeddings": str(self._scratch / "embeddings.npy"),
            "batches": TORCH_BATCHES,
            "seconds": self._settings.seconds / 2,
            "threads": self._bare[0]["intra_op_threads_asked"],
        }
        result = run_module("torch_loop", task, self._scratch, timeout_s=self._loop_limit())
        self._skipped = result.pop("skipped", "")
        if not self._skipped:
            self._torch.append({"step": self._step, **result})

    def _start_server(self) -> None:
        self._say("starting Triton")
        # Not supervised: its canary images would be counted with the benchmark's.
        server = EmbeddedServer(
            self._settings.repository,
            supervise=False,
            config_name=self._settings.profile.name or None,
        )
        self._server = self._stack.enter_context(server)
        asked = Server(server.ports.http)
        configs = {step: asked.config(step) for step in contract.AESTHETIC.steps}
        self._facts = {
            "triton": asked.version(),
            "instances": {name: _instances(config) for name, config in configs.items()},
            "max_batch": {name: config["max_batch_size"] for name, config in configs.items()},
            "max_queue_delay_us": {
                name: int(config.get("dynamic_batching", {}).get("max_queue_delay_microseconds", 0))
                for name, config in configs.items()
            },
        }
        self._sweeps = Sweeps(
            self._settings, self._analyzer, server.grpc_url, asked, self._images, self._scratch
        )

    def _stop_server(self) -> None:
        self._stack.close()
        self._server = None

    def _sweep_images(self, model: str) -> None:
        _, expected = figures.best_rate(self._bare[-1:])
        for case in self._sweeps.images(model, expected, self._say):
            self._served.append({"step": self._step, **case})

    def _sweep_heads(self) -> None:
        for case in self._sweeps.heads(self._say):
            self._served.append({"step": self._step, **case})

    def _loop_limit(self) -> float:
        return LOADING_S + 10 * self._settings.seconds


def run(settings: Settings, say: Say = lambda _: None) -> dict[str, Any]:
    """The record of one run. Raises BenchError, or a ServeError where Triton cannot be run."""
    with TemporaryDirectory(prefix="aesthetic-bench-") as scratch:
        return Run(settings, Path(scratch), say).record()


def _instances(config: Mapping[str, Any]) -> int:
    return sum(group.get("count", 1) for group in config.get("instance_group", [])) or 1
