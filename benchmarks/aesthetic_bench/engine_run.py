"""One run of engines.py: every engine in a process of its own, all of them turn by turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from aesthetic_client import contract
from aesthetic_curate.local_heads import LocalHeads, heads_file

from . import engine_figures, torch_loop
from .children import run_module
from .engine_rows import REFERENCE, TOWER, WRITTEN_BY_USERS, Row, label, profile_rows
from .engine_settings import EngineSettings
from .engine_tables import KIND
from .engine_worker import MATRIX
from .errors import BenchError
from .inputs import Images, load_images
from .machine import versions
from .perf_analyzer import PerfAnalyzer
from .provenance import read_provenance, weights_of
from .records import Begun
from .served_profiles import ServedProfile
from .work import Shape, gflop_per_image
from .workers import Answer, Worker

Say = Callable[[str], None]


CHECKED = "profile"  # the kind that shows whether torch runs the tower that is served
WAIT_S = 600.0  # what loading a tower, or one turn, may take
METHOD = (
    "Every row is a process of its own that holds its engine and works in its turn only; a round "
    "gives each row one turn: every batch size once, and again until the turn's time is over. "
    "Pixels in, embedding out; 'one file at a time' and Triton's `aesthetic` take encoded files, "
    "and these two and Triton's `aesthetic_pixels` give scores. Rates are medians of the rounds, "
    "ratios and shares medians of each round's own, so that a machine that drifts does not move "
    "them. Served: requests over the time from the first one's start to the last one's end, by "
    "perf_analyzer, 16 in flight. Limit: a layer's matrix products in the number type that the row "
    "computes them in, by the faster of torch (oneDNN, MKL) and OpenVINO. Drift: points of score "
    "against the torch fp32 embeddings of the same pixels, over all images. Load: from the "
    "process's start to its first result, files in the page cache. Memory: the most that the "
    "row's processes held, mapped files included."
)

Rows = dict[str, dict[str, Any]]


class EngineRun:
    """A run in progress. `scratch` is a folder for everything that is not kept."""

    def __init__(self, settings: EngineSettings, scratch: Path, say: Say) -> None:
        self._settings, self._scratch, self._say = settings, scratch, say
        self._begun = Begun()
        self._stack = ExitStack()
        self._workers: dict[str, Worker] = {}
        self._served: list[ServedProfile] = []
        self._found: Rows = {}
        self._embeddings: dict[str, Any] = {}
        self._gflop_per_s: list[dict[str, dict[str, float]]] = []

    def record(self) -> dict[str, Any]:
        """Do every step; the results file's content. Raises BenchError or a ServeError."""
        settings = self._settings
        provenance = read_provenance(settings.repository)
        heads = LocalHeads.read(heads_file(settings.repository))
        ours, self._skipped = profile_rows(settings.repository)
        kinds = {REFERENCE.kind, CHECKED, *settings.kinds}
        rows = {row.name: row for row in (*WRITTEN_BY_USERS, *ours) if row.kind in kinds}
        images = load_images(settings.images, self._scratch)
        np.save(self._scratch / "pixels.npy", images.pixels)
        analyzer = PerfAnalyzer(self._scratch, settings.perf_analyzer) if settings.served else None
        with self._stack:
            task = self._prepare(provenance, images)
            self._start_matrix(task)
            for row in rows.values():
                self._start(row, task)
            self._check_reference()
            if analyzer is not None:
                self._choose_served(ours, images, analyzer)
            for number in range(settings.rounds):
                self._round(number, rows)
        shape = Shape(**task["shape"])
        found = engine_figures.rows_of(
            rows, self._found, self._gflop_per_s, self._drifts(heads), shape
        )
        return self._begun.record(
            KIND,
            METHOD,
            versions(
                self._served[0].triton if self._served else "none",
                analyzer.version if analyzer else "none",
            ),
            weights=weights_of(provenance),
            parameters={**settings.as_dict(), "images": images.as_dict()},
            tower={
                **task["shape"],
                "gflop_per_image": gflop_per_image(shape),
                "gflop_per_image_class_token": gflop_per_image(shape, class_token_only=True),
            },
            limits=engine_figures.limits(self._gflop_per_s, shape),
            rows=found,
            skipped=self._skipped,
        )

    # --- the steps ---

    def _prepare(self, provenance: Mapping[str, str], images: Images) -> dict[str, Any]:
        """What every worker is told: the weights as files, the tower's shape, the pixels."""
        settings = self._settings
        tower, reason = torch_loop.choose_tower(provenance, settings.weights, settings.tower)
        if tower is None:
            raise BenchError(reason)
        self._say("writing the tower's weights")
        asked = {"tower": tower, "folder": str(self._scratch)}
        written = run_module("tower_files", asked, self._scratch, timeout_s=WAIT_S)
        folder = settings.repository.resolve() / TOWER
        return {
            **written,
            "weights": str(self._scratch),
            "pixels": str(self._scratch / "pixels.npy"),
            "files": [str(file.resolve()) for file in images.files],
            "count": len(images.files),
            "model_folder": str(folder),
            "onnx": str(next(folder.glob(f"*/{contract.DEFAULT_PROFILE.artifact}"))),
            "max_batch": contract.CLIP_IMAGE.max_batch,
        }

    def _start_matrix(self, task: Mapping[str, Any]) -> None:
        self._say("starting the matrix products")
        asked = {"kind": MATRIX, "shape": task["shape"]}
        self._matrix = self._stack.enter_context(Worker("matrix products", asked, self._scratch))
        self._matrix.wait_until_ready(WAIT_S)

    def _start(self, row: Row, task: Mapping[str, Any]) -> None:
        self._say(f"loading {row.name}")
        asked = {**task, "kind": row.kind}
        if row.profile is not None:
            asked["config_file"] = row.profile.config_file
        worker = self._stack.enter_context(Worker(row.name, asked, self._scratch))
        ready = worker.wait_until_ready(WAIT_S)
        if reason := ready.get("skipped"):
            self._skipped[row.name] = reason
            return
        file = self._scratch / "embeddings.npy"
        worker.ask({"do": "embed", "file": str(file)}, WAIT_S)
        self._workers[row.name] = worker
        self._embeddings[row.name] = np.load(file)
        self._found[row.name] = {"loads_s": [ready["load_s"]], "turns": []}

    def _check_reference(self) -> None:
        """Raises BenchError unless the torch tower is the one that is served."""
        ours = f"profile {label(contract.DEFAULT_PROFILE)}"
        cosine = torch_loop.lowest_cosine(self._embeddings[REFERENCE.name], self._embeddings[ours])
        if not cosine >= torch_loop.SAME_WORK_COSINE:
            raise BenchError(
                f"the torch rows would run another model than the one served (cosine {cosine:.4f}):"
                " name its weights with --weights"
            )

    def _choose_served(self, ours: list[Row], images: Images, analyzer: PerfAnalyzer) -> None:
        for row in ours:
            if row.name not in self._workers:
                self._skipped[f"{row.name}, Triton"] = self._skipped[row.name]
                continue
            served = ServedProfile(self._settings, row, images, analyzer, self._scratch)
            self._served.append(served)
            self._found.update(served.rows)

    def _round(self, number: int, rows: Mapping[str, Row]) -> None:
        settings = self._settings
        say = f"round {number + 1} of {settings.rounds}: {{}}".format
        self._say(say("matrix products"))
        turn = self._matrix.ask({"do": "turn", "seconds": settings.matrix_s}, WAIT_S)
        self._gflop_per_s.append(turn["gflop_per_s"])
        for name, worker in self._workers.items():
            self._say(say(name))
            asked = {"do": "turn", "batches": rows[name].batches, "seconds": settings.turn_s}
            turn = worker.ask(asked, WAIT_S)
            self._found[name]["peak_rss_mib"] = turn.pop("peak_rss_mib")
            self._found[name]["turns"].append({"round": number, **turn})
        if number >= settings.rounds - settings.served_rounds:
            for served in self._served:
                bare = best(self._found[served.row.name]["turns"][-1])
                served.turn(number, bare, lambda text: self._say(say(text)))
                self._embeddings.update(dict.fromkeys(served.rows, served.embeddings))

    def _drifts(self, heads: LocalHeads) -> dict[str, dict[str, Any]]:
        reference = heads.score(self._embeddings[REFERENCE.name], normalize=True)
        return {
            name: engine_figures.drift(heads.score(embeddings, normalize=True), reference)
            for name, embeddings in self._embeddings.items()
        }


def best(turn: Answer) -> float:
    """The most images/s of a turn's batch sizes."""
    rates: list[float] = [rate["images_per_s"] for rate in turn["rates"]]
    return max(rates)


def run(settings: EngineSettings, say: Say = lambda _: None) -> dict[str, Any]:
    """The record of one run. Raises BenchError, InputError, or a ServeError."""
    with TemporaryDirectory(prefix="aesthetic-bench-") as scratch:
        return EngineRun(settings, Path(scratch), say).record()
