"""Which of our errors each failure becomes, and which ones are tried again."""

from __future__ import annotations

import copy
import pickle
import time
from http.client import RemoteDisconnected

import aiohttp
import pytest
from tritonclient.utils import InferenceServerException

from aesthetic_client._retry import Retry
from aesthetic_client._translate import translate
from aesthetic_client.errors import (
    AestheticError,
    DeadlineError,
    ImageError,
    InputError,
    NotServedError,
    ServerError,
    UnavailableError,
)

CASES = [
    ("StatusCode.UNAVAILABLE", "failed to connect to all addresses", UnavailableError),
    ("StatusCode.UNAVAILABLE", "connection attempt timed out", UnavailableError),
    ("StatusCode.CANCELLED", "CANCELLED", UnavailableError),
    ("StatusCode.NOT_FOUND", "Request for model has no available versions", UnavailableError),
    ("StatusCode.INTERNAL", "Stub process 'x_0' is not healthy.", UnavailableError),
    ("StatusCode.UNKNOWN", "Stream removed", UnavailableError),
    ("503", "Server is not ready", UnavailableError),
    ("StatusCode.DEADLINE_EXCEEDED", "Deadline Exceeded", DeadlineError),
    ("StatusCode.NOT_FOUND", "Request for unknown model: 'x' is not found", NotServedError),
    ("400", "Request for unknown model: 'x' is not found", InputError),
    ("StatusCode.INVALID_ARGUMENT", "in ensemble 'aesthetic', broken [corrupt]", ImageError),
    ("StatusCode.INVALID_ARGUMENT", "unexpected shape for input", InputError),
    ("400", "the image is broken [too_large]", ImageError),
    ("StatusCode.INTERNAL", "onnxruntime: bad node", ServerError),
    ("500", "onnxruntime: bad node", ServerError),
    (None, "no status at all", ServerError),
]


@pytest.mark.parametrize(("status", "message", "kind"), CASES)
def test_server_answers(status: str | None, message: str, kind: type[AestheticError]) -> None:
    error = translate(InferenceServerException(message, status=status), "grpc://host:8001")
    assert type(error) is kind
    if isinstance(error, ImageError):
        assert error.code in ("corrupt", "too_large") and "[" not in error.message


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (ConnectionRefusedError(111, "refused"), UnavailableError),
        (RemoteDisconnected("closed"), UnavailableError),
        (aiohttp.ServerDisconnectedError(), UnavailableError),
        (TimeoutError(), DeadlineError),
        (ValueError("a bug"), ServerError),
    ],
)
def test_transport_failures(raised: Exception, kind: type[AestheticError]) -> None:
    error = translate(raised, "http://host:8000")
    assert type(error) is kind and "http://host:8000" in str(error)
    assert error.__cause__ is raised


def test_errors_are_the_builtin_ones_too_and_survive_copies() -> None:
    assert isinstance(UnavailableError("x"), ConnectionError)
    assert isinstance(DeadlineError("x"), TimeoutError)
    assert isinstance(InputError("x"), ValueError)
    error = ImageError("corrupt", "cut off", position="images[3]")
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert str(other) == "images[3]: cut off [corrupt]" and other.code == "corrupt"
    other = pickle.loads(pickle.dumps(UnavailableError("away", position="images[1]")))
    assert str(other) == "images[1]: away"


def test_only_an_unavailable_server_is_tried_again() -> None:
    for error in (InputError("x"), ServerError("x"), DeadlineError("x"), ImageError("empty", "x")):
        with pytest.raises(type(error)):
            Retry(60).delay_s(error)
    retry = Retry(60)
    delays = [retry.delay_s(UnavailableError("x")) for _ in range(12)]
    assert all(0 < delay <= 2 for delay in delays) and delays[-1] > delays[0]


def test_patience_ends() -> None:
    with pytest.raises(UnavailableError):
        Retry(0).delay_s(UnavailableError("x"))
    retry = Retry(0.2)
    start = time.monotonic()
    with pytest.raises(UnavailableError):
        while True:
            time.sleep(retry.delay_s(UnavailableError("x")))
    assert 0.15 < time.monotonic() - start < 2
