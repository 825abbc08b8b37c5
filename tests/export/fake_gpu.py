"""A machine with a GPU, as far as making plans can tell.

Its driver is in C and its memory the host's; its TensorRT's plans are computed by ONNX Runtime.
"""

from __future__ import annotations

import ctypes
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from aesthetic_client.contract import PLANS, Tensor, model_named
from aesthetic_export.parity import onnx_session

DRIVER = r"""
#include <stdlib.h>
#include <string.h>
int devices = 1, live = 0, failing = 0;
static int context = 0;
int cuInit(unsigned flags) { return devices < 0 ? 100 : 0; }
int cuDeviceGetCount(int *count) { *count = devices; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDevicePrimaryCtxRetain(void **out, int device) { *out = &context; live++; return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { live--; return 0; }
int cuCtxSetCurrent(void *given) { return given == &context ? 0 : 201; }
int cuStreamCreate(void **out, unsigned flags) { *out = malloc(1); live++; return flags != 1; }
int cuStreamDestroy_v2(void *stream) { free(stream); live--; return 0; }
int cuStreamSynchronize(void *stream) { return failing; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "Test GPU", size); return 0; }
int cuDeviceGetAttribute(int *value, int which, int device) {
  *value = which == 75 ? 8 : which == 76 ? 9 : -1;
  return 0;
}
int cuDriverGetVersion(int *version) { *version = 13010; return 0; }
int cuMemAlloc_v2(unsigned long long *address, size_t size) {
  *address = (unsigned long long)malloc(size);
  live++;
  return 0;
}
int cuMemFree_v2(unsigned long long address) { free((void *)address); live--; return 0; }
int cuMemcpyHtoD_v2(unsigned long long to, const void *from, size_t size) {
  memcpy((void *)to, from, size);
  return 0;
}
int cuMemcpyDtoH_v2(void *to, unsigned long long from, size_t size) {
  memcpy(to, (void *)from, size);
  return 0;
}
int cuGetErrorName(int code, const char **name) {
  *name = code == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR_NO_DEVICE";
  return 0;
}
"""


class Network:
    pass


class Logger:
    class Severity:
        INTERNAL_ERROR, ERROR, WARNING = range(3)


class Monitor:
    pass


class Config:
    tf32 = True

    def __init__(self) -> None:
        self.cache = b""

    def clear_flag(self, flag: str) -> None:
        assert flag == BuilderFlag.TF32
        self.tf32 = False

    def add_optimization_profile(self, profile: Any) -> int:
        return 0

    def create_timing_cache(self, known: bytes) -> bytes:
        return known

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        self.cache = cache or b"timings"
        return cache in (b"", b"timings")

    def get_timing_cache(self) -> Config:
        return self

    def serialize(self) -> bytes:
        return self.cache


class Profile:
    def set_shape(self, name: str, smallest: Any, tuned: Any, largest: Any) -> None:
        assert (smallest[1:], largest[1:]) == (tuned[1:], tuned[1:])


class BuilderFlag:
    TF32 = "TF32"


class Builder:
    refused: ClassVar[tuple[str, ...]] = ()  # names of models that it does not build

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    create_network = staticmethod(lambda flags: Network())
    create_builder_config = staticmethod(Config)
    create_optimization_profile = staticmethod(Profile)

    def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
        assert not config.tf32
        if model_of(network.path) in self.refused:
            self.logger.log(Logger.Severity.WARNING, "not serious")
            self.logger.log(Logger.Severity.ERROR, "no tactic for node 7")
            return None
        monitor = config.progress_monitor
        monitor.phase_start("Building [engine]", None, 2)
        assert monitor.step_complete("Building [engine]", 0)
        monitor.phase_finish("Building [engine]")
        return str(network.path).encode()


class OnnxParser:
    num_errors = 0

    def __init__(self, network: Any, logger: Any) -> None:
        self.network = network

    def supports_model_v2(self, model: bytes, path: str) -> bool:
        return bool(model)

    def parse_from_file(self, path: str) -> bool:
        self.network.path = Path(path)
        return True


def model_of(path: Path) -> str:
    """The model whose version folder it is in, or will be in when the export ends."""
    return path.parent.parent.name.lstrip(".").partition(".partial")[0]


class Context:
    """Computes what the ONNX file computes, plus `errors`, from and to memory by its address."""

    errors: ClassVar[dict[str, float]] = {}  # by the model's name

    def __init__(self, path: Path) -> None:
        self.session = onnx_session(path)
        self.model = model_named(model_of(path))
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        largest = {plan.model: plan.max_batch for plan in PLANS}[self.model]
        return shape[0] <= largest and shape[0] == next(iter(self.shapes.values()))[0]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        if not stream:
            return False
        inputs = [self.given(tensor) for tensor in self.model.inputs]
        rows = [b"".join(item.tobytes() for item in row) for row in zip(*inputs, strict=True)]
        distinct = {row: number for number, row in enumerate(dict.fromkeys(rows))}
        order = [distinct[row] for row in rows]  # a full batch repeats
        first = np.unique(order, return_index=True)[1]
        names = [tensor.name for tensor in self.model.inputs]
        given = {name: array[first] for name, array in zip(names, inputs, strict=True)}
        results = self.session.run(None, given)
        error = self.errors.get(self.model.name, 0.0)
        for tensor, result in zip(self.model.outputs, results, strict=True):
            found = (result[order] + error).astype(np.float32)
            ctypes.memmove(self.addresses[tensor.name], found.ctypes.data, found.nbytes)
        return True

    def given(self, tensor: Tensor) -> np.ndarray:
        shape = self.shapes[tensor.name]
        dtype = np.dtype({"UINT8": np.uint8, "FP32": np.float32}[tensor.dtype])
        host = (ctypes.c_uint8 * (prod(shape) * dtype.itemsize)).from_address(
            self.addresses[tensor.name]
        )
        return np.frombuffer(host, dtype).reshape(shape)


class Runtime:
    def __init__(self, logger: Any) -> None:
        self.path: Path | None = None

    def deserialize_cuda_engine(self, plan: bytes) -> Runtime:
        self.path = Path(bytes(plan).decode())
        return self

    def create_execution_context(self) -> Context:
        assert self.path is not None
        return Context(self.path)


class FakeTensorRT:
    __version__ = "11.4.0.106"
    BuilderFlag = BuilderFlag
    ILogger, IProgressMonitor = Logger, Monitor
    Builder, OnnxParser, Runtime = Builder, OnnxParser, Runtime
