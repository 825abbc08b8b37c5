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
from .errors import BenchError
from .figures import IMAGE_MODELS
from .inputs import Images
from .memory import family, peak_rss_mib
from .perf_analyzer import PerfAnalyzer
from .served import Say, Sweeps
from .settings import Settings
from .statistics import Server


class ServedProfile:
    """A profile that Triton serves in its turns alone: every one starts a server, and ends it.

    `rows` is what was found, by the rows' names; `embeddings` (n, 768) its answers for the run's
    pixels, from the first turn on.
    """

    def __init__(
        self,
        settings: EngineSettings,
        row: Row,
        images: Images,
        analyzer: PerfAnalyzer,
        scratch: Path,
    ) -> None:
        self.row = row
        self.triton = "none"
        self.embeddings: Any = None
        self._settings, self._images = settings, images
        self._analyzer, self._scratch = analyzer, scratch
        self.rows: dict[str, dict[str, Any]] = {
            f"{row.name}, Triton {model}": {
                "served": model,
                "bare_engine": row.name,
                "loads_s": [],
                "peak_rss_mib": 0.0,
                "turns": [],
            }
            for model in IMAGE_MODELS
        }

    def turn(self, number: int, expected_per_s: float, say: Say) -> None:
        """Saturate each ensemble once; `expected_per_s` images/s decide how many requests.

        Raises BenchError, or a ServeError.
        """
        assert self.row.profile is not None
        settings = self._settings
        say(f"starting Triton, {self.row.name}")
        begin = time.perf_counter()
        # Not supervised: its canary images would be counted with the benchmark's.
        with EmbeddedServer(
            settings.repository, supervise=False, config_name=self.row.profile.name or None
        ) as server:
            with Client(server.grpc_url) as client:
                client.score(self._images.pixels[0])
                load_s = time.perf_counter() - begin
                self.embeddings = self._embed_all(client)
            asked = Server(server.ports.http)
            self.triton = asked.version()
            sweep = Settings(
                settings.repository,
                concurrency=(IN_FLIGHT,),
                seconds=settings.served_s,
                quick=settings.quick,
            )
            sweeps = Sweeps(
                sweep, self._analyzer, server.grpc_url, asked, self._images, self._scratch
            )
            for found in self.rows.values():
                found["loads_s"].append(load_s)
                found["turns"].append(
                    _saturate(sweeps, found["served"], number, expected_per_s, say)
                )
                peak_mib = sum(map(peak_rss_mib, family(server.pid)))
                found["peak_rss_mib"] = max(found["peak_rss_mib"], peak_mib)

    def _embed_all(self, client: Client) -> Any:
        answers = client.score_batch(list(self._images.pixels), embedding=True)
        if failed := [answer.error for answer in answers if answer.embedding is None]:
            raise BenchError(f"{self.row.name} does not score its images: {failed[0]}")
        return np.stack([np.asarray(answer.embedding) for answer in answers])


def _saturate(
    sweeps: Sweeps, model: str, number: int, expected_per_s: float, say: Say
) -> dict[str, Any]:
    before = Ticks.now()
    (case,) = sweeps.images(model, expected_per_s, say)
    return {
        "round": number,
        "images_per_s": case["images_per_s"],
        "p50_ms": case["p50_ms"],
        "requests": case["requests"],
        "mean_batch": case["models"][contract.CLIP_IMAGE.name]["mean_batch"],
        # Nothing of other processes: the work itself is theirs.
        "stolen_share_of_cpu": Ticks.now().company_since(before)["stolen_share_of_cpu"],
    }
