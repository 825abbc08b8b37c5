"""A server that answers at once: Triton's protocols, the contract's models, constant scores.

It shows what the client costs, so it does as little as it can: requests stay bytes, and model,
batch and outputs are read once for each kind of request. `InstantServer` runs it in a process of
its own, which prints its ports and ends when its stdin closes.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as messages

from aesthetic_client import contract

from . import instant_http

SERVICE = "inference.GRPCInferenceService"
PIXEL_BYTES = math.prod(contract.PIXELS.dims)
MODELS = {model.name: model for model in contract.MODELS}
SCORE = 5.25
EMBEDDING = np.full(contract.EMBEDDING_DIM, contract.EMBEDDING_DIM**-0.5, np.float32)
THREADS = 2
CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", 2**31 - 1),
    # Requests of 1.2 MB in one frame each, rather than in 75.
    ("grpc.http2.max_frame_size", 2**24 - 1),
    ("grpc.http2.lookahead_bytes", 2**26),
]
# glibc would give the memory of every request back to the system, and ask for it again.
ALLOCATION = {
    "MALLOC_TOP_PAD_": str(2**26),
    "MALLOC_TRIM_THRESHOLD_": str(2**29),
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
}
HERE = Path(__file__).resolve().parents[1]
STOP_S = 10.0

Method = Callable[[bytes, Any], bytes]


class InstantServer:
    """The server's process. `urls` are by protocol, `pid` is for its processor time."""

    def __enter__(self) -> InstantServer:
        paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
        # A session of its own: Ctrl-C is for this process, which then ends the server.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "aesthetic_bench.instant_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ALLOCATION, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self.pid = self._process.pid
        ports: dict[str, int] = json.loads(self._process.stdout.readline())
        self.urls = {name: f"{name}://127.0.0.1:{port}" for name, port in ports.items()}
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:  # closes its stdin, which ends it
            try:
                self._process.communicate(timeout=STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()


class Answers:
    """Serialised answers to inference requests, kept by what distinguishes them."""

    def __init__(self) -> None:
        self._kept: dict[bytes, bytes] = {}

    def to(self, message: bytes) -> bytes:
        """The answer to a serialised ModelInferRequest."""
        # A request of pixels ends with them. What stands before is shorter than an image, and the
        # same in all requests for that model, batch and outputs.
        start = message[: len(message) % PIXEL_BYTES]
        if len(message) > PIXEL_BYTES and start in self._kept:
            return self._kept[start]
        request = messages.ModelInferRequest.FromString(message)
        answer = bytes(infer(request).SerializeToString())
        if request.model_name == contract.AESTHETIC_PIXELS.name:
            self._kept[start] = answer
        return answer


def infer(request: Any) -> Any:
    """Constant outputs in the request's batch size: those asked for, else all of the model's."""
    model = MODELS[request.model_name]
    rows = request.inputs[0].shape[0]
    asked = [output.name for output in request.outputs]
    answer = messages.ModelInferResponse(model_name=model.name, model_version="1")
    for tensor in model.outputs:
        if asked and tensor.name not in asked:
            continue
        shape = [rows, *tensor.dims]
        answer.outputs.add(name=tensor.name, datatype=tensor.dtype, shape=shape)
        answer.raw_output_contents.append(constant(tensor, shape).tobytes())
    return answer


def constant(tensor: contract.Tensor, shape: list[int]) -> np.ndarray:
    """What the server answers for an output: a grey image, one unit vector, one score."""
    if tensor == contract.PIXELS:
        return np.full(shape, 128, np.uint8)
    return np.broadcast_to(EMBEDDING if tensor == contract.EMBEDDING else np.float32(SCORE), shape)


def config(model: contract.Model) -> Any:
    """The model's config, as far as a client reads it."""
    answer = messages.ModelConfigResponse()
    answer.config.name = model.name
    answer.config.max_batch_size = model.max_batch
    for tensor in model.inputs:
        answer.config.input.add(name=tensor.name, dims=tensor.dims)
    for tensor in model.outputs:
        answer.config.output.add(name=tensor.name, dims=tensor.dims)
    return answer


def methods() -> dict[str, Method]:
    """The service's methods, over serialised messages."""
    answers = Answers()

    def model_config(message: bytes, _: Any) -> bytes:
        asked = messages.ModelConfigRequest.FromString(message)
        return bytes(config(MODELS[asked.name]).SerializeToString())

    fixed = {
        "ServerLive": messages.ServerLiveResponse(live=True),
        "ServerReady": messages.ServerReadyResponse(ready=True),
        "ModelReady": messages.ModelReadyResponse(ready=True),
        "ServerMetadata": messages.ServerMetadataResponse(name="instant", version="1"),
    }
    return {
        "ModelInfer": lambda message, _: answers.to(message),
        "ModelConfig": model_config,
        **{name: _always(bytes(answer.SerializeToString())) for name, answer in fixed.items()},
    }


def _always(answer: bytes) -> Method:
    return lambda _message, _context: answer


def serve() -> None:
    """Serve on free ports of 127.0.0.1, which are printed, until stdin closes."""
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(method) for name, method in methods().items()
    }
    server = grpc.server(ThreadPoolExecutor(THREADS), options=CHANNEL_OPTIONS)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    http = instant_http.Server(infer, lambda name: config(MODELS[name]))
    threading.Thread(target=http.serve_forever, daemon=True).start()
    print(json.dumps({"grpc": port, "http": http.server_address[1]}), flush=True)
    sys.stdin.read()
    http.shutdown()
    http.server_close()
    server.stop(grace=None).wait()


if __name__ == "__main__":
    serve()
