"""Messages written by hand are those that tritonclient's own classes would make."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.grpc import service_pb2 as messages
from tritonclient.utils import InferenceServerException

from aesthetic_client import _grpc, _wire, contract
from aesthetic_client._address import parse_address
from aesthetic_client._requests import model_request
from aesthetic_client.contract import HEADS
from aesthetic_client.errors import ServerError
from aesthetic_client.images import Encoded, Prepared

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 224, 224, 3), dtype=np.uint8)
VECTORS = np.random.default_rng(1).normal(size=(300, 768)).astype(np.float32)
REQUESTS = {
    "pixels": _wire.score_request([Prepared(pixels) for pixels in PIXELS], HEADS[:2]),
    "one image": _wire.score_request([Prepared(PIXELS[3])], HEADS),
    "files": _wire.score_request([Encoded(b"x" * size) for size in (1, 127, 128, 40_000)], HEADS),
    "embeddings": _wire.embedding_requests(VECTORS, HEADS)[0],
    "three inputs": model_request(
        contract.AESTHETIC_PERSONALIZE,
        {"prompt": ["a cat", "ein Bär"], "aesthetic_embedding": VECTORS[:2], "recipe": ["{}"] * 2},
    ),
    "integers": model_request(
        contract.CLIP_TEXT_TOWER, {"tokens": np.arange(3 * 77).reshape(3, 77)}, ["text_embedding"]
    ),
}


def by_tritonclient(request: _wire.Request) -> Any:
    """The message as tritonclient's classes compose it."""
    message = messages.ModelInferRequest(model_name=request.model)
    for rows in request.inputs:
        array = rows.array()
        item = tritonclient.grpc.InferInput(rows.tensor.name, list(array.shape), rows.tensor.dtype)
        item.set_data_from_numpy(array)
        message.inputs.append(item._get_tensor())
        message.raw_input_contents.append(item._get_content())
    for name in request.outputs:
        message.outputs.append(tritonclient.grpc.InferRequestedOutput(name)._get_tensor())
    return message


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_request_is_the_message_of_the_library(kind: str) -> None:
    request = REQUESTS[kind]
    sent = messages.ModelInferRequest.FromString(_grpc.serialise(request))
    assert sent == by_tritonclient(request)
    assert len(sent.raw_input_contents) == len(request.inputs)
    assert len(sent.outputs) == len(request.outputs)


def test_views_are_sent_in_the_order_of_their_elements() -> None:
    """A caller's BGR image turned over is a view whose memory has another order."""
    view = PIXELS[0][:, ::-1, ::-1]
    assert not view.flags.c_contiguous
    request = _wire.score_request([Prepared(view), Prepared(PIXELS[1])], HEADS[:1])
    sent = messages.ModelInferRequest.FromString(_grpc.serialise(request))
    assert sent.raw_input_contents[0] == view.tobytes() + PIXELS[1].tobytes()


def answer(rows: int, *names: str) -> Any:
    """Outputs whose values are their row's number."""
    message = messages.ModelInferResponse()
    for name in names:
        message.outputs.add(name=name, datatype="FP32", shape=[rows, 1])
        column = np.arange(rows, dtype=np.float32)
        message.raw_output_contents.append(column.tobytes())
    return message


def test_answers_are_arrays_by_name() -> None:
    request = REQUESTS["embeddings"]
    found = _grpc.arrays(request, answer(300, *request.outputs))
    assert list(found) == list(request.outputs)
    for column in found.values():
        assert column.shape == (300, 1) and column.dtype == np.float32
        assert column[:, 0].tolist() == list(range(300))
    with pytest.raises(ServerError, match="answered without 300 rows of"):
        _grpc.arrays(request, answer(299, *request.outputs))
    with pytest.raises(ServerError, match=f"rows of {request.outputs[-1]}"):
        _grpc.arrays(request, answer(300, *request.outputs[:-1]))


def test_failures_are_the_librarys() -> None:
    transport = _grpc.GrpcTransport(parse_address("127.0.0.1:9"), {})
    for ask in (
        lambda: transport.infer(REQUESTS["files"], 5),
        lambda: transport.config("aesthetic", 5),
        lambda: transport.metadata(5),
        lambda: transport.ready("aesthetic", 5),
    ):
        with pytest.raises(InferenceServerException) as caught:
            ask()
        assert caught.value.status() == str(grpc.StatusCode.UNAVAILABLE)
    transport.close()


FORKED = """
import os, sys, threading
from aesthetic_client._address import parse_address
from aesthetic_client._grpc import GrpcTransport
from aesthetic_client.errors import InputError
transport = GrpcTransport(parse_address("127.0.0.1:9"), {})
child = os.fork()
if child == 0:
    said = 0
    for ask in (transport.metadata, lambda s: transport.ready("aesthetic", s)):
        try:
            ask(5)
        except InputError as error:
            said += "`spawn`" in str(error) and str(os.getppid()) in str(error)
    os._exit(said)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_child_is_told_at_once() -> None:
    """In a process of its own: to fork this one, which has threads, would test them."""
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, timeout=60)
    assert done.returncode == 2, done.stderr
