"""One inference or question over HTTP, and its answer, by tritonclient: blocking and asyncio."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from tritonclient.utils import InferenceServerException

from aesthetic_client._address import Address
from aesthetic_client._connections import Answer, Connections
from aesthetic_client._wire import Arrays, Request, check_answer

# Of a body's JSON, behind which the tensors' bytes come.
JSON_BYTES = "Inference-Header-Content-Length"


class HttpTransport:
    """Blocking HTTP: tritonclient's messages over connections that all threads share."""

    def __init__(self, address: Address, headers: Mapping[str, str], timeout_s: float) -> None:
        import tritonclient.http as module

        self._module = module
        self._library = module.InferenceServerClient
        self._headers = dict(headers)
        self._connections = Connections(address, timeout_s)

    def infer(self, request: Request, timeout_s: float) -> Arrays:
        inputs, outputs = tensors(self._module, request)
        body, json_bytes = self._library.generate_request_body(inputs, outputs=outputs)
        path = f"/v2/models/{quote(request.model)}/infer"
        headers = {**self._headers, JSON_BYTES: str(json_bytes)}
        answer = _accepted(self._connections.exchange("POST", path, headers, body))
        stated = answer.headers.get(JSON_BYTES)
        result = self._library.parse_response_body(
            answer.body,
            header_length=None if stated is None else int(stated),
            content_encoding=answer.headers.get("Content-Encoding"),
        )
        return arrays(request, result)

    def config(self, model: str, timeout_s: float) -> Mapping[str, Any]:
        return dict(json.loads(_accepted(self._get(f"/v2/models/{quote(model)}/config")).body))

    def metadata(self, timeout_s: float) -> Mapping[str, Any]:
        return dict(json.loads(_accepted(self._get("/v2")).body))

    def ready(self, model: str, timeout_s: float) -> bool:
        return self._get(f"/v2/models/{quote(model)}/ready").status == 200

    def close(self) -> None:
        self._connections.close()

    def _get(self, path: str) -> Answer:
        return self._connections.exchange("GET", path, self._headers)


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
        # A copy: the library adds the request's own headers to it, and tasks share this one.
        headers = dict(self._headers)
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


def _accepted(answer: Answer) -> Answer:
    """The answer, or what tritonclient raises for its status: the server's words and the number."""
    if answer.status == 200:
        return answer
    try:
        words = str(json.loads(answer.body)["error"])
    except (ValueError, KeyError, TypeError):  # a proxy's page
        words = answer.reason
    raise InferenceServerException(words, str(answer.status))
