"""Pixels handed to the server in a shared-memory region: what a bulk client here would save."""

from __future__ import annotations

from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from aesthetic_client import contract

from .inputs import Pixels


class SharedMemoryWay:
    """A region with every image's pixels, registered with the server; a context manager."""

    def __init__(self, grpc_url: str, pixels: Pixels) -> None:
        # Not tritonclient's own regions: they want setuptools.
        import tritonclient.grpc

        self._grpc = tritonclient.grpc
        self._client: Any = self._grpc.InferenceServerClient(grpc_url.removeprefix("grpc://"))
        self._size, self._count = pixels[0].nbytes, len(pixels)
        self._region = SharedMemory(create=True, size=pixels.nbytes)
        np.ndarray(pixels.shape, np.uint8, self._region.buf)[:] = pixels

    def __enter__(self) -> SharedMemoryWay:
        name = self._region.name
        self._client.register_system_shared_memory(name, f"/{name}", self._size * self._count)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.unregister_system_shared_memory(self._region.name)
        self._client.close()
        self._region.close()
        self._region.unlink()

    def send(self, number: int) -> Any:
        """Score the pixels of that number, counted round and round."""
        tensor = contract.PIXELS
        given = self._grpc.InferInput(tensor.name, [1, *tensor.dims], tensor.dtype)
        offset = number % self._count * self._size
        given.set_shared_memory(self._region.name, self._size, offset=offset)
        answer = self._client.infer(contract.AESTHETIC_PIXELS.name, [given])
        return answer.as_numpy(contract.DEFAULT_HEAD.output)
