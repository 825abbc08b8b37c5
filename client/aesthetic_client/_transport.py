"""One inference or question to a server, and its answer: gRPC and HTTP, blocking."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from aesthetic_client._address import Address
from aesthetic_client._wire import Arrays, Request, check_answer

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


class Transport(Protocol):
    """What a Client needs of a protocol. Raises the library's own exceptions."""

    def infer(self, request: Request, timeout_s: float) -> Arrays: ...
    def config(self, model: str, timeout_s: float) -> Mapping[str, Any]: ...
    def metadata(self, timeout_s: float) -> Mapping[str, Any]: ...
    def ready(self, model: str, timeout_s: float) -> bool: ...
    def close(self) -> None: ...


def tensors(module: Any, request: Request) -> tuple[list[Any], list[Any]]:
    """The request's inputs and outputs as tritonclient's objects of either protocol."""
    binary = {"binary_data": True} if "http" in module.__name__ else {}
    inputs = []
    for tensor, array in request.inputs:
        item = module.InferInput(tensor.name, list(array.shape), tensor.dtype)
        item.set_data_from_numpy(array, **binary)
        inputs.append(item)
    return inputs, [module.InferRequestedOutput(name, **binary) for name in request.outputs]


def arrays(request: Request, result: Any) -> Arrays:
    """The answer's arrays by output name."""
    answer = {
        name: array for name in request.outputs if (array := result.as_numpy(name)) is not None
    }
    check_answer(request, answer)
    return answer


class GrpcTransport:
    """Blocking gRPC; one channel, shared by all threads."""

    def __init__(self, address: Address, headers: Mapping[str, str], timeout_s: float) -> None:
        import tritonclient.grpc as module

        self._module = module
        self._headers = dict(headers)
        self._client = module.InferenceServerClient(
            address.netloc, ssl=address.tls, channel_args=CHANNEL_OPTIONS
        )

    def infer(self, request: Request, timeout_s: float) -> Arrays:
        inputs, outputs = tensors(self._module, request)
        result = self._client.infer(
            request.model,
            inputs,
            outputs=outputs,
            client_timeout=timeout_s,
            headers=self._headers,
        )
        return arrays(request, result)

    def config(self, model: str, timeout_s: float) -> Mapping[str, Any]:
        answer = self._client.get_model_config(
            model, as_json=True, client_timeout=timeout_s, headers=self._headers
        )
        return dict(answer["config"])

    def metadata(self, timeout_s: float) -> Mapping[str, Any]:
        return dict(
            self._client.get_server_metadata(
                as_json=True, client_timeout=timeout_s, headers=self._headers
            )
        )

    def ready(self, model: str, timeout_s: float) -> bool:
        return bool(
            self._client.is_model_ready(model, client_timeout=timeout_s, headers=self._headers)
        )

    def close(self) -> None:
        self._client.close()


class HttpTransport:
    """Blocking HTTP; a connection a thread, since the library's client serves one thread only."""

    def __init__(self, address: Address, headers: Mapping[str, str], timeout_s: float) -> None:
        import tritonclient.http as module

        self._module = module
        self._headers = dict(headers)
        self._open: Callable[[], Any] = lambda: module.InferenceServerClient(
            address.netloc,
            ssl=address.tls,
            connection_timeout=timeout_s,
            network_timeout=timeout_s,
        )
        self._local = threading.local()
        self._lock = threading.Lock()
        self._clients: list[Any] = []

    def infer(self, request: Request, timeout_s: float) -> Arrays:
        inputs, outputs = tensors(self._module, request)
        result = self._client().infer(request.model, inputs, outputs=outputs, headers=self._headers)
        return arrays(request, result)

    def config(self, model: str, timeout_s: float) -> Mapping[str, Any]:
        return dict(self._client().get_model_config(model, headers=self._headers))

    def metadata(self, timeout_s: float) -> Mapping[str, Any]:
        return dict(self._client().get_server_metadata(headers=self._headers))

    def ready(self, model: str, timeout_s: float) -> bool:
        return bool(self._client().is_model_ready(model, headers=self._headers))

    def close(self) -> None:
        with self._lock:
            clients, self._clients = self._clients, []
        for client in clients:
            client.close()
        self._local = threading.local()

    def _client(self) -> Any:
        client = getattr(self._local, "client", None)
        if client is None:
            client = self._local.client = self._open()
            with self._lock:
                self._clients.append(client)
        return client


def connect(address: Address, headers: Mapping[str, str], timeout_s: float) -> Transport:
    """The blocking transport of an address. Nothing is sent yet."""
    kind = GrpcTransport if address.protocol == "grpc" else HttpTransport
    return kind(address, headers, timeout_s)
