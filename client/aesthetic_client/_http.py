"""One inference or question over HTTP, and its answer, by tritonclient: blocking and asyncio."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from aesthetic_client._address import Address
from aesthetic_client._wire import Arrays, Request, check_answer


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
        # A copy: the library adds the request's own headers to it, and threads share this one.
        headers = dict(self._headers)
        result = self._client().infer(request.model, inputs, outputs=outputs, headers=headers)
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


class AsyncHttpTransport:
    """HTTP over asyncio, opened on first use, in the loop. Deadlines are set by who awaits."""

    def __init__(self, address: Address, headers: Mapping[str, str]) -> None:
        self._address = address
        self._headers = dict(headers)
        self._client: Any = None
        self._module: Any = None

    async def infer(self, request: Request, timeout_s: float) -> Arrays:
        client = self._opened()
        inputs, outputs = tensors(self._module, request)
        headers = dict(self._headers)  # a copy, as above
        result = await client.infer(request.model, inputs, outputs=outputs, headers=headers)
        return arrays(request, result)

    async def config(self, model: str, timeout_s: float) -> Mapping[str, Any]:
        return dict(await self._opened().get_model_config(model, headers=self._headers))

    async def metadata(self, timeout_s: float) -> Mapping[str, Any]:
        return dict(await self._opened().get_server_metadata(headers=self._headers))

    async def ready(self, model: str, timeout_s: float) -> bool:
        return bool(await self._opened().is_model_ready(model, headers=self._headers))

    async def close(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()

    def _opened(self) -> Any:
        if self._client is None:
            import tritonclient.http.aio as module

            self._module = module
            self._client = module.InferenceServerClient(self._address.netloc, ssl=self._address.tls)
        return self._client


def tensors(module: Any, request: Request) -> tuple[list[Any], list[Any]]:
    """The request's inputs and outputs as tritonclient's objects for HTTP."""
    inputs = []
    for rows in request.inputs:
        array = rows.array()
        item = module.InferInput(rows.tensor.name, list(array.shape), rows.tensor.dtype)
        item.set_data_from_numpy(array, binary_data=True)
        inputs.append(item)
    return inputs, [module.InferRequestedOutput(n, binary_data=True) for n in request.outputs]


def arrays(request: Request, result: Any) -> Arrays:
    """The answer's arrays by output name."""
    answer = {
        name: array for name in request.outputs if (array := result.as_numpy(name)) is not None
    }
    check_answer(request, answer)
    return answer
