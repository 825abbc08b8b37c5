"""What the clients need of a protocol. The libraries are imported when one is connected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from aesthetic_client._address import Address
from aesthetic_client._wire import Arrays, Request


class Transport(Protocol):
    """Blocking and thread-safe. Raises the libraries' own exceptions."""

    def infer(self, request: Request, timeout_s: float) -> Arrays: ...
    def config(self, model: str, timeout_s: float) -> Mapping[str, Any]: ...
    def metadata(self, timeout_s: float) -> Mapping[str, Any]: ...
    def ready(self, model: str, timeout_s: float) -> bool: ...
    def close(self) -> None: ...


class AsyncTransport(Protocol):
    """The same, awaited."""

    async def infer(self, request: Request, timeout_s: float) -> Arrays: ...
    async def config(self, model: str, timeout_s: float) -> Mapping[str, Any]: ...
    async def metadata(self, timeout_s: float) -> Mapping[str, Any]: ...
    async def ready(self, model: str, timeout_s: float) -> bool: ...
    async def close(self) -> None: ...


def connect(address: Address, headers: Mapping[str, str], timeout_s: float) -> Transport:
    """The blocking transport of an address. Nothing is sent yet."""
    if address.protocol == "grpc":
        from aesthetic_client._grpc import GrpcTransport

        return GrpcTransport(address, headers)
    from aesthetic_client._http import HttpTransport

    return HttpTransport(address, headers, timeout_s)


def connect_async(address: Address, headers: Mapping[str, str]) -> AsyncTransport:
    """The asyncio transport of an address, which opens on first use, in the loop."""
    if address.protocol == "grpc":
        from aesthetic_client._grpc import AsyncGrpcTransport

        return AsyncGrpcTransport(address, headers)
    from aesthetic_client._http import AsyncHttpTransport

    return AsyncHttpTransport(address, headers)
