"""Does the server score? Triton calls itself ready even when a Python process of it is dead."""

from __future__ import annotations

import http.client
import re

from aesthetic_client import contract
from aesthetic_serve.probe import CanaryError, Probe

LOOPBACK = "127.0.0.1"
METRICS_S = 5.0
_SUCCESS = re.compile(
    rf'^nv_inference_request_success{{[^}}]*model="{contract.AESTHETIC.name}"[^}}]*}} (\S+)$',
    re.MULTILINE,
)


class UnhealthyError(Exception):
    """The server does not score images; the message says how that showed."""


def check_health(http_port: int, metrics_port: int, timeout_s: float) -> str:
    """Score the canary image; what was found, in words. Raises UnhealthyError.

    A canary may wait behind thousands of images. When it times out while other images were scored,
    the server is busy, not broken: killing it would lose their requests.
    """
    before = scored_images(metrics_port)
    try:
        score = Probe(http_port).score_canary(timeout_s)
    except TimeoutError:
        after = scored_images(metrics_port)
        if before is not None and after is not None and after > before:
            return f"busy: {after - before:.0f} other images in {timeout_s:g} s"
        raise UnhealthyError(f"no score within {timeout_s:g} s") from None
    except CanaryError as error:
        raise UnhealthyError(str(error)) from None
    return f"the canary's score is {score:.4f}"


def scored_images(metrics_port: int) -> float | None:
    """Requests that the `aesthetic` ensemble has answered; None where the server does not say."""
    connection = http.client.HTTPConnection(LOOPBACK, metrics_port, timeout=METRICS_S)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    found = _SUCCESS.search(text)
    return float(found[1]) if found else None
