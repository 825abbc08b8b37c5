"""Triton in one profile, saturated in its turn: both ensembles, by perf_analyzer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from aesthetic_client import Client, contract
from aesthetic_serve import EmbeddedServer

from .company import Ticks
from .engine_rows import Row
from .engine_settings import IN_FLIGHT, EngineSettings
from .figures import IMAGE_MODELS
from .inputs import Images
from .memory import family, peak_rss_mib
from .perf_analyzer import PerfAnalyzer
from .served import Say, Sweeps
from .settings import Settings
from .statistics import Server


class ServedProfile:
    """A server that runs until the block ends. `rows` is what was found, by the rows' names.

    `embeddings` (n, 768) are its answers for the run's pixels.
    """

    def __init__(
        self,
        settings: EngineSettings,
        row: Row,
        images: Images,
        analyzer: PerfAnalyzer,
        scratch: Path,
    ) -> None:
        assert row.profile is not None
        self.row = row
        self._settings, self._images = settings, images
        self._analyzer, self._scratch = analyzer, scratch
        # Not supervised: its canary images would be counted with the benchmark's.
        self._server = EmbeddedServer(
            settings.repository, supervise=False, config_name=row.profile.name or None
        )
        self.rows: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> ServedProfile:
        begin = time.perf_counter()
        self._server.start()
        try:
            self._begin(begin)
        except BaseException:
            self._server.stop(grace_s=0)
            raise
        return self

    def _begin(self, begin: float) -> None:
        with Client(self._server.grpc_url) as client:
            client.score(self._images.pixels[0])
            load_s = time.perf_counter() - begin
            answers = client.score_batch(list(self._images.pixels), embedding=True)
        self.embeddings = np.stack([answer.embedding for answer in answers if answer.ok])
        asked = Server(self._server.ports.http)
        self.triton = asked.version()
        sweep = Settings(
            self._settings.repository,
            concurrency=(IN_FLIGHT,),
            seconds=self._settings.served_s,
            quick=True,  # a case is warm from the answers above, and short
        )
        self._sweeps = Sweeps(
            sweep, self._analyzer, self._server.grpc_url, asked, self._images, self._scratch
        )
        for model in IMAGE_MODELS:
            self.rows[f"{self.row.name}, Triton {model}"] = {
                "served": model,
                "bare_engine": self.row.name,
                "load_s": load_s,
                "turns": [],
            }

    def turn(self, number: int, expected_per_s: float, say: Say) -> None:
        """Saturate each ensemble once; `expected_per_s` images/s decide how many requests."""
        for found in self.rows.values():
            before = Ticks.now()
            (case,) = self._sweeps.images(found["served"], expected_per_s, say)
            company = Ticks.now().company_since(before)  # all of it: the work is not this process's
            tower = case["models"][contract.CLIP_IMAGE.name]
            found["turns"].append(
                {
                    "round": number,
                    "images_per_s": case["images_per_s"],
                    "p50_ms": case["p50_ms"],
                    "requests": case["requests"],
                    "mean_batch": tower["mean_batch"],
                    "stolen_share_of_cpu": company["stolen_share_of_cpu"],
                }
            )
            processes = family(self._server.pid)
            found["peak_rss_mib"] = sum(map(peak_rss_mib, processes))

    def __exit__(self, *_: object) -> None:
        self._server.stop(grace_s=0)
