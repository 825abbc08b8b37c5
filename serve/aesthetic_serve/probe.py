"""Questions to the running server over HTTP on 127.0.0.1: is it ready, is it working, who is it.

Plain `http.client`, so that the launcher's process holds no gRPC channel of its own: forking a
process that has one, as restarts would, is not safe.
"""

from __future__ import annotations

import http.client
import json
import math
from importlib.resources import files
from typing import Any

from aesthetic_client import contract
from aesthetic_serve.launcher import LOOPBACK

QUICK_S = 5.0  # for questions that need no inference


class CanaryError(Exception):
    """The server answered the canary image with an error, or not at all."""


class Probe:
    """Asks the server that listens on the HTTP port."""

    def __init__(self, http_port: int) -> None:
        self._port = http_port

    def is_ready(self) -> bool:
        """Whether the server says that all its models are loaded. It says so of dead ones too."""
        try:
            return self._ask("GET", "/v2/health/ready", timeout_s=QUICK_S)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def successes(self) -> dict[str, int]:
        """Requests answered so far, by model. Raises OSError or HTTPException without an answer."""
        status, body = self._ask("GET", "/v2/models/stats", timeout_s=QUICK_S)
        if status != 200:
            raise http.client.HTTPException(f"statistics: HTTP {status}")
        return {
            model["name"]: model["inference_stats"]["success"]["count"]
            for model in json.loads(body)["model_stats"]
        }

    def provenance(self, model: str) -> dict[str, str]:
        """The `provenance.*` parameters of a served model's config, without the prefix."""
        status, body = self._ask("GET", f"/v2/models/{model}/config", timeout_s=QUICK_S)
        parameters = json.loads(body).get("parameters", {}) if status == 200 else {}
        prefix = contract.PROVENANCE_PREFIX
        return {
            key.removeprefix(prefix): value["string_value"]
            for key, value in parameters.items()
            if key.startswith(prefix)
        }

    def score_canary(self, timeout_s: float) -> float:
        """Score a small image of our own through the whole ensemble.

        Raises TimeoutError after `timeout_s` seconds, CanaryError for any other failure.
        """
        head, body = _canary_request()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        path = f"/v2/models/{contract.AESTHETIC.name}/infer"
        try:
            status, answer = self._ask("POST", path, head + body, headers, timeout_s=timeout_s)
        except TimeoutError:
            raise
        except (OSError, http.client.HTTPException) as error:
            raise CanaryError(f"the connection broke: {error or type(error).__name__}") from error
        return _score(status, answer)

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        timeout_s: float,
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=timeout_s)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def _canary_request() -> tuple[bytes, bytes]:
    """The request's JSON head and its binary tail: a 4-byte length and the encoded image."""
    image = files("aesthetic_serve").joinpath("canary.jpg").read_bytes()
    tail = len(image).to_bytes(4, "little") + image
    request: dict[str, Any] = {
        "inputs": [
            {
                "name": contract.IMAGE.name,
                "datatype": contract.IMAGE.dtype,
                "shape": [1, *contract.IMAGE.dims],
                "parameters": {"binary_data_size": len(tail)},
            }
        ]
        # All outputs: Triton drops the tower's step where the embedding is not among those asked
        # for, although the heads need it, and then reports a deadlock.
    }
    return json.dumps(request).encode(), tail


def _score(status: int, answer: bytes) -> float:
    try:
        content = json.loads(answer)
        if status != 200:
            raise CanaryError(str(content["error"]))
        outputs = {output["name"]: output["data"] for output in content["outputs"]}
        score = float(outputs[contract.DEFAULT_HEAD.output][0])
    except (ValueError, LookupError, TypeError) as error:
        raise CanaryError(f"HTTP {status} without a score") from error
    if not math.isfinite(score):
        raise CanaryError(f"the score is {score}")
    return score
