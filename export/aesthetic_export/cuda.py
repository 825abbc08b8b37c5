"""A GPU through its driver, libcuda.so.1: memory, one stream, and what it is. No other package.

The driver is there wherever a GPU can be used; torch or cuda-python need not be.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from aesthetic_client.errors import InputError

LIBRARY = "libcuda.so.1"
DRIVER_VERSION_FILE = Path("/proc/driver/nvidia/version")
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CUdevice_attribute
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING

Array = npt.NDArray[np.generic]


class CudaError(RuntimeError):
    """A call of the driver that failed, and the driver's word for it."""


@dataclass(frozen=True)
class Device:
    """`driver` is the package's version, `580.95.05`; `cuda` the newest CUDA that it can run."""

    name: str
    compute_capability: str
    driver: str | None
    cuda: str


class Gpu:
    """The first visible GPU. Close it, or use it in a `with`: memory goes back then."""

    def __init__(self) -> None:
        """Raises InputError where there is no driver, or no GPU."""
        try:
            self._cuda = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise InputError(f"this needs a GPU, and there is no NVIDIA driver ({error})") from None
        self._allocated: list[ctypes.c_uint64] = []
        self._context = ctypes.c_void_p()
        self._stream = ctypes.c_void_p()
        self._device = ctypes.c_int()
        try:
            self._open()
        except CudaError as error:
            self.close()
            raise InputError(f"this needs a GPU, and there is none to be used ({error})") from None

    def _open(self) -> None:
        count = ctypes.c_int()
        self._call("cuInit", ctypes.c_uint(0))
        self._call("cuDeviceGetCount", ctypes.byref(count))
        if count.value < 1:
            raise InputError("this needs a GPU, and none is visible")
        self._call("cuDeviceGet", ctypes.byref(self._device), ctypes.c_int(0))
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self._call("cuCtxSetCurrent", self._context)
        self._call("cuStreamCreate", ctypes.byref(self._stream), ctypes.c_uint(_NON_BLOCKING))

    @property
    def stream(self) -> int:
        return int(self._stream.value or 0)

    def describe(self) -> Device:
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, ctypes.c_int(len(name)), self._device)
        cuda = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(cuda))
        major, minor = map(self._attribute, (_CAPABILITY_MAJOR, _CAPABILITY_MINOR))
        return Device(
            name.value.decode(),
            f"{major}.{minor}",
            driver_version(),
            f"{cuda.value // 1000}.{cuda.value % 1000 // 10}",
        )

    def allocate(self, size_bytes: int) -> int:
        """The address of new memory on the GPU."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size_bytes))
        self._allocated.append(address)
        return address.value

    def upload(self, array: Array, address: int) -> None:
        """`array`, which must be contiguous, to the GPU; returns when it is there."""
        host = ctypes.c_void_p(array.ctypes.data)
        self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), host, ctypes.c_size_t(array.nbytes))

    def download(self, address: int, array: Array) -> None:
        """The reverse, into `array`."""
        host = ctypes.c_void_p(array.ctypes.data)
        self._call("cuMemcpyDtoH_v2", host, ctypes.c_uint64(address), ctypes.c_size_t(array.nbytes))

    def synchronize(self) -> None:
        """Wait for the stream. Raises CudaError for what has failed on it."""
        self._call("cuStreamSynchronize", self._stream)

    def close(self) -> None:
        """Give everything back. After a failed kernel every call fails; that error came first."""
        with contextlib.suppress(CudaError):
            while self._allocated:
                self._call("cuMemFree_v2", self._allocated.pop())
            if self._stream:
                self._call("cuStreamDestroy_v2", self._stream)
            if self._context:
                self._call("cuDevicePrimaryCtxRelease_v2", self._device)
        self._stream, self._context = ctypes.c_void_p(), ctypes.c_void_p()

    def __enter__(self) -> Gpu:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _attribute(self, which: int) -> int:
        value = ctypes.c_int()
        args = (ctypes.byref(value), ctypes.c_int(which), self._device)
        self._call("cuDeviceGetAttribute", *args)
        return value.value

    def _call(self, function: str, *arguments: object) -> None:
        code = getattr(self._cuda, function)(*arguments)
        if code:
            word = ctypes.c_char_p()
            self._cuda.cuGetErrorName(ctypes.c_int(code), ctypes.byref(word))
            raise CudaError(f"{function}: {(word.value or b'error').decode()} ({code})")


def driver_version(file: Path = DRIVER_VERSION_FILE) -> str | None:
    """The NVIDIA driver's version, None where it does not say."""
    try:
        found = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", file.read_text("utf-8"))
    except OSError:
        return None
    return found[1] if found else None
