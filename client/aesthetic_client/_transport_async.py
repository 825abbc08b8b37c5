"""The asyncio twins of `_transport`: same calls, awaited. Opened on first use, in the loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aesthetic_client._address import Address
from aesthetic_client._transport import CHANNEL_OPTIONS, arrays, tensors
from aesthetic_client._wire import Arrays, Request


class AsyncTransport:
    """gRPC or HTTP over asyncio. Deadlines of HTTP calls are set by the caller, who awaits them."""

    def __init__(self, address: Address, headers: Mapping[str, str]) -> None:
        self._address = address
        self._headers = dict(headers)
        self._grpc = address.protocol == "grpc"
        self._client: Any = None
        self._module: Any = None

    async def infer(self, request: Request, timeout_s: float) -> Arrays:
        client = self._opened()
        inputs, outputs = tensors(self._module, request)
        result = await client.infer(
            request.model, inputs, outputs=outputs, **self._options(timeout_s)
        )
        return arrays(request, result)

    async def config(self, model: str, timeout_s: float) -> Mapping[str, Any]:
        client = self._opened()
        if not self._grpc:
            return dict(await client.get_model_config(model, **self._options(timeout_s)))
        answer = await client.get_model_config(model, as_json=True, **self._options(timeout_s))
        return dict(answer["config"])

    async def metadata(self, timeout_s: float) -> Mapping[str, Any]:
        as_json = {"as_json": True} if self._grpc else {}
        return dict(await self._opened().get_server_metadata(**as_json, **self._options(timeout_s)))

    async def ready(self, model: str, timeout_s: float) -> bool:
        return bool(await self._opened().is_model_ready(model, **self._options(timeout_s)))

    async def close(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()

    def _options(self, timeout_s: float) -> dict[str, Any]:
        deadline = {"client_timeout": timeout_s} if self._grpc else {}
        return {"headers": self._headers, **deadline}

    def _opened(self) -> Any:
        if self._client is not None:
            return self._client
        if self._grpc:
            import tritonclient.grpc.aio as module

            self._client = module.InferenceServerClient(
                self._address.netloc, ssl=self._address.tls, channel_args=CHANNEL_OPTIONS
            )
        else:
            import tritonclient.http.aio as module

            self._client = module.InferenceServerClient(self._address.netloc, ssl=self._address.tls)
        self._module = module
        return self._client
