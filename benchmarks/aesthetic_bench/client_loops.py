"""Ways to send images to a server as fast as it answers, by threads of this one process."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc

from aesthetic_client import Client, _grpc, _wire, contract
from aesthetic_client._address import parse_address
from aesthetic_client.images import load
from aesthetic_client.pixels import DEFAULT_OPTIONS

HEADS = (contract.DEFAULT_HEAD,)
OUTPUTS = (contract.DEFAULT_HEAD.output, contract.EMBEDDING.name)
FILE_BYTES = 100_000  # a JPEG as crawled data sets have them
DISTINCT = 16  # images, so that they do not all come from the processor's cache


@dataclass(frozen=True)
class Payload:
    """What a request carries: `size` images out of `images`, which are arrays or bytes."""

    name: str
    images: Sequence[Any]
    size: int

    def batch(self, number: int) -> list[Any]:
        start = number * self.size
        return [self.images[(start + k) % len(self.images)] for k in range(self.size)]

    def request(self, number: int) -> _wire.Request:
        items = [load(image, "server", DEFAULT_OPTIONS) for image in self.batch(number)]
        return _wire.score_request(items, HEADS)


def payloads() -> list[Payload]:
    """One image's pixels a request, a full batch of them, and one file's bytes."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (DISTINCT, *contract.PIXELS.dims), dtype=np.uint8)
    files = [random.bytes(FILE_BYTES) for _ in range(DISTINCT)]
    return [
        Payload("pixels", pixels, 1),
        Payload("batches of pixels", pixels, contract.MAX_IMAGE_BATCH),
        Payload("files", files, 1),
    ]


Send = Callable[[int], None]  # one request, by its number


@contextlib.contextmanager
def score_batch(url: str, payload: Payload) -> Iterator[Send]:
    """This project's client, one call a request."""
    with Client(url) as client:

        def send(number: int) -> None:
            results = client.score_batch(payload.batch(number), embedding=True)
            assert len(results) == payload.size and results[-1].embedding is not None

        yield send


@contextlib.contextmanager
def plain_tritonclient(url: str, payload: Payload) -> Iterator[Send]:
    """What users of tritonclient write."""
    module = tritonclient.grpc
    model = payload.request(0).model
    tensor = payload.request(0).inputs[0].tensor
    with module.InferenceServerClient(parse_address(url).netloc) as client:

        def send(number: int) -> None:
            images = payload.batch(number)
            if tensor == contract.PIXELS:
                array = np.stack(images)
            else:
                array = np.array(images, dtype=np.object_).reshape(len(images), 1)
            item = module.InferInput(tensor.name, list(array.shape), tensor.dtype)
            item.set_data_from_numpy(array)
            outputs = [module.InferRequestedOutput(name) for name in OUTPUTS]
            answer = client.infer(model, [item], outputs=outputs)
            assert [len(answer.as_numpy(name)) for name in OUTPUTS] == [payload.size] * 2

        yield send


@contextlib.contextmanager
def bare_grpc(url: str, payload: Payload) -> Iterator[Send]:
    """Bytes that were made before, answers that nobody reads: the server's and gRPC's limit."""
    count = math.lcm(payload.size, len(payload.images)) // payload.size
    made = [_grpc.serialise(payload.request(number)) for number in range(count)]
    with grpc.insecure_channel(parse_address(url).netloc, _grpc.CHANNEL_OPTIONS) as channel:
        infer = channel.unary_unary(_grpc.INFER)

        def send(number: int) -> None:
            infer(made[number % count])

        yield send


def run_threads(send: Send, threads: int, seconds: float) -> int:
    """Requests that were answered within `seconds`, by threads that each send one at a time."""
    done = [0] * threads
    failures: list[BaseException] = []
    end = time.perf_counter() + seconds

    def work(thread: int) -> None:
        try:
            while time.perf_counter() < end:
                send(thread + threads * done[thread])
                done[thread] += 1
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]
    return sum(done)


def run_score_many(url: str, payload: Payload, in_flight: int, seconds: float) -> int:
    """The same by the client's own threads: one stream of images, until the time is over."""
    end = time.perf_counter() + seconds

    def images() -> Iterator[Any]:
        number = 0
        while time.perf_counter() < end:
            yield from payload.batch(number)
            number += 1

    decode = "server" if payload.size == 1 else "client"
    with Client(url) as client:
        results = client.score_many(
            images(), embedding=True, decode=decode, in_flight=in_flight * payload.size
        )
        scored = sum(result.ok for result in results)
    assert scored % payload.size == 0
    return scored // payload.size
