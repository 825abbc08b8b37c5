"""Requests and answers as gRPC messages, and the channels that carry them.

A request of eight images is 1.2 MB, which tritonclient's way would copy four times: one array, its
bytes, a message, the message's bytes. Here tensors are copied once, behind the part that repeats.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import grpc
import numpy as np
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc import service_pb2_grpc as service
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from aesthetic_client._address import Address
from aesthetic_client._wire import Arrays, Request, check_answer
from aesthetic_client.contract import Tensor
from aesthetic_client.errors import InputError

MAX_MESSAGE_BYTES = 2**31 - 1
# As tritonclient sets them, but reconnecting to a restarted server within a second, not minutes.
CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A name with several addresses, such as a headless Service's, spreads over all of them.
    ("grpc.lb_policy_name", "round_robin"),
]
INFER = "/inference.GRPCInferenceService/ModelInfer"
LENGTH_DELIMITED = 2  # protobuf's wire type of strings, bytes and messages
# Before each tensor's content: which field it is, and that a length follows.
CONTENT_FIELD = messages.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER
CONTENT_TAG = bytes([CONTENT_FIELD << 3 | LENGTH_DELIMITED])


class _Calls:
    """Calls over a channel of `library`: grpc, or grpc.aio, where they are to be awaited."""

    def __init__(self, library: Any, address: Address, headers: Mapping[str, str]) -> None:
        if address.tls:
            credentials = grpc.ssl_channel_credentials()
            channel = library.secure_channel(address.netloc, credentials, CHANNEL_OPTIONS)
        else:
            channel = library.insecure_channel(address.netloc, CHANNEL_OPTIONS)
        self._infer = channel.unary_unary(
            INFER, response_deserializer=messages.ModelInferResponse.FromString
        )
        self._stub = service.GRPCInferenceServiceStub(channel)
        self._metadata = tuple(headers.items())
        self._process = os.getpid()
        self.close = channel.close

    def infer(self, request: Request, timeout_s: float) -> Any:
        self._check_process()
        return self._infer(serialise(request), timeout=timeout_s, metadata=self._metadata)

    def config(self, model: str, timeout_s: float) -> Any:
        self._check_process()
        asked = messages.ModelConfigRequest(name=model)
        return self._stub.ModelConfig(asked, timeout=timeout_s, metadata=self._metadata)

    def metadata(self, timeout_s: float) -> Any:
        self._check_process()
        asked = messages.ServerMetadataRequest()
        return self._stub.ServerMetadata(asked, timeout=timeout_s, metadata=self._metadata)

    def ready(self, model: str, timeout_s: float) -> Any:
        self._check_process()
        asked = messages.ModelReadyRequest(name=model)
        return self._stub.ModelReady(asked, timeout=timeout_s, metadata=self._metadata)

    def _check_process(self) -> None:
        """Raises InputError in a forked child, where a call may wait beyond its deadline.

        gRPC's threads stay with the parent (github.com/grpc/grpc, doc/fork_support.md).
        """
        if os.getpid() != self._process:
            raise InputError(
                f"this client was made in process {self._process}, and gRPC does not work in its "
                "forked children: make a client in each process and start them by `spawn` or "
                "`forkserver` (multiprocessing), or use an http:// address"
            )


class GrpcTransport:
    """Blocking gRPC; one channel, shared by all threads."""

    def __init__(self, address: Address, headers: Mapping[str, str]) -> None:
        self._calls = _Calls(grpc, address, headers)

    def infer(self, request: Request, timeout_s: float) -> Arrays:
        with _failures():
            return arrays(request, self._calls.infer(request, timeout_s))

    def config(self, model: str, timeout_s: float) -> Mapping[str, Any]:
        with _failures():
            return _as_dict(self._calls.config(model, timeout_s).config)

    def metadata(self, timeout_s: float) -> Mapping[str, Any]:
        with _failures():
            return _as_dict(self._calls.metadata(timeout_s))

    def ready(self, model: str, timeout_s: float) -> bool:
        with _failures():
            return bool(self._calls.ready(model, timeout_s).ready)

    def close(self) -> None:
        self._calls.close()


class AsyncGrpcTransport:
    """gRPC over asyncio, opened on first use, in the loop."""

    def __init__(self, address: Address, headers: Mapping[str, str]) -> None:
        self._address, self._headers = address, headers
        self._opened: _Calls | None = None

    async def infer(self, request: Request, timeout_s: float) -> Arrays:
        with _failures():
            return arrays(request, await self._calls().infer(request, timeout_s))

    async def config(self, model: str, timeout_s: float) -> Mapping[str, Any]:
        with _failures():
            return _as_dict((await self._calls().config(model, timeout_s)).config)

    async def metadata(self, timeout_s: float) -> Mapping[str, Any]:
        with _failures():
            return _as_dict(await self._calls().metadata(timeout_s))

    async def ready(self, model: str, timeout_s: float) -> bool:
        with _failures():
            return bool((await self._calls().ready(model, timeout_s)).ready)

    async def close(self) -> None:
        if self._opened is not None:
            calls, self._opened = self._opened, None
            await calls.close()

    def _calls(self) -> _Calls:
        if self._opened is None:
            self._opened = _Calls(grpc.aio, self._address, self._headers)
        return self._opened


def serialise(request: Request) -> bytes:
    """A ModelInferRequest's bytes."""
    tensors = tuple(rows.tensor for rows in request.inputs)
    pieces: list[Any] = [_start(request.model, tensors, len(request), request.outputs)]
    for rows in request.inputs:
        content = rows.content()
        size = sum(memoryview(piece).nbytes for piece in content)
        pieces += (CONTENT_TAG, _varint(size), *content)
    return b"".join(pieces)


def arrays(request: Request, answer: Any) -> Arrays:
    """The arrays of a ModelInferResponse, by output name. Raises ServerError for a short answer."""
    found = {
        output.name: np.frombuffer(content, triton_to_np_dtype(output.datatype)).reshape(
            output.shape
        )
        for output, content in zip(answer.outputs, answer.raw_output_contents, strict=False)
    }
    check_answer(request, found)
    return found


@contextmanager
def _failures() -> Iterator[None]:
    """Calls that fail do so as tritonclient's, whose exception carries the status over HTTP too."""
    try:
        yield
    except grpc.RpcError as error:
        raise InferenceServerException(error.details(), str(error.code())) from None


def _as_dict(message: Any) -> dict[str, Any]:
    """A message's fields by name; those with default values are left out."""
    return dict(MessageToDict(message, preserving_proto_field_name=True))


@lru_cache(maxsize=256)
def _start(model: str, tensors: tuple[Tensor, ...], rows: int, outputs: tuple[str, ...]) -> bytes:
    """A message up to its tensors' contents, which come last."""
    message = messages.ModelInferRequest(model_name=model)
    for tensor in tensors:
        message.inputs.add(name=tensor.name, datatype=tensor.dtype, shape=[rows, *tensor.dims])
    for name in outputs:
        message.outputs.add(name=name)
    return bytes(message.SerializeToString())


def _varint(number: int) -> bytes:
    """Protobuf's encoding of a number: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
