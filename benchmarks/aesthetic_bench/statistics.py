"""Triton's own statistics: what each model did between two looks."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .errors import BenchError

TIMEOUT_S = 30.0
STAGES = ("compute_input", "compute_infer", "compute_output")


@dataclass(frozen=True)
class ModelWork:
    """One model's work. Requests wait, batches compute: each time is of its own kind.

    All times are sums in nanoseconds: `request_ns`, from arrival to answer, and `queue_ns` over
    requests, the others over executions.
    """

    requests: int = 0
    failures: int = 0
    inferences: int = 0  # items: a request of a batch of 64 counts 64
    executions: int = 0
    request_ns: int = 0
    queue_ns: int = 0
    compute_input_ns: int = 0
    compute_infer_ns: int = 0
    compute_output_ns: int = 0

    def since(self, before: ModelWork) -> ModelWork:
        """What was added after `before`."""
        then = asdict(before)
        return ModelWork(**{name: value - then[name] for name, value in asdict(self).items()})

    @property
    def mean_batch(self) -> float:
        """Items an execution."""
        return self.inferences / self.executions

    @property
    def request_ms(self) -> float:
        """A request's time in the model, its wait included."""
        return self.request_ns / self.requests / 1e6

    @property
    def busy_ns(self) -> int:
        """How long its instances were at it, together."""
        return self.compute_input_ns + self.compute_infer_ns + self.compute_output_ns

    def as_dict(self) -> dict[str, float | int]:
        """Plain values for JSON: times a request or an execution, and the work an item."""
        return {
            "inferences": self.inferences,
            "executions": self.executions,
            "mean_batch": self.mean_batch,
            "queue_ms_per_request": self.queue_ns / self.requests / 1e6,
            "compute_input_ms_per_execution": self.compute_input_ns / self.executions / 1e6,
            "compute_infer_ms_per_execution": self.compute_infer_ns / self.executions / 1e6,
            "compute_output_ms_per_execution": self.compute_output_ns / self.executions / 1e6,
            "compute_infer_ms_per_item": self.compute_infer_ns / self.inferences / 1e6,
            "busy_ms_per_item": self.busy_ns / self.inferences / 1e6,
        }


Snapshot = Mapping[str, ModelWork]


class Server:
    """Questions to the server on this machine that listens on the HTTP port."""

    def __init__(self, http_port: int) -> None:
        self._port = http_port

    def version(self) -> str:
        return str(self._ask("/v2")["version"])

    def config(self, model: str) -> dict[str, Any]:
        """A model's configuration as it is served."""
        return self._ask(f"/v2/models/{model}/config")

    def snapshot(self) -> Snapshot:
        """What every model has done so far."""
        return read_statistics(self._ask("/v2/models/stats"))

    def _ask(self, path: str) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise BenchError(f"the server does not answer: {error}") from None
        finally:
            connection.close()
        if response.status != 200:
            raise BenchError(f"the server answers {path} with HTTP {response.status}")
        answer: dict[str, Any] = json.loads(body)
        return answer


def read_statistics(answer: Mapping[str, Any]) -> Snapshot:
    """Triton's answer to /v2/models/stats."""
    return {model["name"]: _work(model) for model in answer["model_stats"]}


def work_between(before: Snapshot, after: Snapshot) -> dict[str, ModelWork]:
    """What each model that was at work did between two snapshots."""
    work = {name: now.since(before.get(name, ModelWork())) for name, now in after.items()}
    return {name: done for name, done in work.items() if done.executions > 0}


def _work(model: Mapping[str, Any]) -> ModelWork:
    # `inference_stats` counts a batch's time once a request; `batch_stats` once an execution.
    batches = model.get("batch_stats", [])
    requests = model["inference_stats"]
    return ModelWork(
        requests=requests["success"]["count"],
        failures=requests["fail"]["count"],
        inferences=model["inference_count"],
        executions=model["execution_count"],
        request_ns=requests["success"]["ns"],
        queue_ns=requests["queue"]["ns"],
        **{f"{stage}_ns": sum(batch[stage]["ns"] for batch in batches) for stage in STAGES},
    )
