"""Every call that the builder and the runner make, against the signatures of the real bindings.

The code runs to its end over classes made from them (trt_signatures.py): a name, a parameter or a
number of arguments that TensorRT does not have fails here, without its libraries.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trt_signatures import Signatures, dump

from aesthetic_client import contract
from aesthetic_client.contract import GRADIENT_PLAN, HEADS_PLAN, TOWER_PLAN
from aesthetic_export.tensorrt_builder import Batches, make_logger, make_monitor, plan_from_onnx
from aesthetic_export.tensorrt_runner import PlanRunner

TYPES = {"UINT8": np.uint8, "FP32": np.float32}
# Another version's bindings, unpacked, e.g. of 10.x: named to look at them by hand.
OTHER = os.environ.get("AESTHETIC_TENSORRT_BINDINGS")


@pytest.fixture(scope="module")
def dumped(compile_c) -> dict[str, Any]:
    if OTHER:
        major = int(os.environ["AESTHETIC_TENSORRT_MAJOR"])
        return dump(compile_c, major, Path(OTHER))
    if importlib.util.find_spec("tensorrt_bindings") is None:
        pytest.skip("tensorrt-cu13-bindings is not installed")
    return dump(compile_c, 11)


@pytest.fixture
def real(dumped) -> Signatures:
    return Signatures(dumped)


class HostGpu:
    """Only what PlanRunner asks of a GPU."""

    stream = 7

    def allocate(self, size_bytes: int) -> int:
        return size_bytes

    def upload(self, array: np.ndarray, address: int) -> None: ...

    def download(self, address: int, array: np.ndarray) -> None:
        array[:] = 1

    def synchronize(self) -> None: ...


@pytest.mark.parametrize("plan", contract.PLANS, ids=lambda plan: plan.model.name)
def test_the_builder_calls_what_there_is(real, tmp_path, plan):
    onnx = tmp_path / "model.onnx"
    onnx.write_bytes(b"graph")
    cache = tmp_path / "cache"
    built = plan_from_onnx(
        real.module(),
        onnx,
        model=plan.model,
        batches=Batches.of(plan),
        timing_cache=cache,
        on_phase=lambda *_: None,
    )
    assert built == cache.read_bytes() == b"serialized"
    assert {
        "Builder.__init__",
        "Builder.create_network",
        "Builder.create_builder_config",
        "Builder.create_optimization_profile",
        "Builder.build_serialized_network",
        "OnnxParser.__init__",
        "OnnxParser.supports_model_v2",
        "OnnxParser.parse_from_file",
        "IOptimizationProfile.set_shape",
        "IBuilderConfig.add_optimization_profile",
        "IBuilderConfig.builder_optimization_level =",
        "IBuilderConfig.clear_flag",
        "IBuilderConfig.progress_monitor =",
        "IBuilderConfig.create_timing_cache",
        "IBuilderConfig.set_timing_cache",
        "IBuilderConfig.get_timing_cache",
        "ITimingCache.serialize",
    } <= set(real.calls)


def test_fp32_is_multiplied_as_fp32(real):
    """TF32 is the one flag that the builder clears, and TensorRT has it, enabled by default."""
    assert "TF32" in real.classes["BuilderFlag"]["values"]
    assert real.parameters("IBuilderConfig", "clear_flag")[0][0] == [("flag", False)]


@pytest.mark.parametrize(
    ("plan", "dims"),
    [
        (TOWER_PLAN, [(768,)]),
        (HEADS_PLAN, [(1,)] * 5),
        (GRADIENT_PLAN, [(1,), (3, 224, 224), (768,)]),
    ],
    ids=["tower", "heads", "gradient"],
)
def test_the_runner_calls_what_there_is(real, plan, dims):
    gpu: Any = HostGpu()
    runner = PlanRunner(real.module(), b"plan", gpu, model=plan.model, max_batch=4)
    given = [np.zeros((2, *tensor.dims), TYPES[tensor.dtype]) for tensor in plan.model.inputs]
    found = runner.run(*given)
    assert [(array.shape, array.dtype) for array in found] == [((2, *n), np.float32) for n in dims]
    assert real.calls[1:] == [
        "Runtime.__init__",
        "Runtime.deserialize_cuda_engine",
        "ICudaEngine.create_execution_context",
        *["IExecutionContext.set_input_shape"] * len(given),
        *["IExecutionContext.set_tensor_address"] * (len(given) + len(dims)),
        "IExecutionContext.execute_async_v3",
    ]


def test_the_parsers_errors_are_asked_for_by_what_there_is(real):
    for method in ("node_operator", "node_name", "desc"):
        assert real.parameters("ParserError", method)[0][0] == []
    assert real.parameters("OnnxParser", "get_error")[0][0] == [("index", False)]
    assert real.member("OnnxParser", "num_errors") == 0


@pytest.mark.parametrize("base", ["ILogger", "IProgressMonitor"])
def test_what_is_overridden_has_the_declared_parameters(real, base):
    trt = real.module()
    made = make_logger(trt) if base == "ILogger" else make_monitor(trt, lambda *_: None)
    ours = {
        name: list(inspect.signature(value).parameters)
        for name, value in type(made).__dict__.items()
        if inspect.isfunction(value) and not name.startswith("_") and name != "reasons"
    }
    assert ours
    for name, parameters in ours.items():
        declared = [parameter for parameter, _ in real.parameters(base, name)[0][0]]
        assert parameters[1:] == declared


def test_this_check_can_fail(real):
    trt = real.module()
    builder = trt.Builder(make_logger(trt))
    with pytest.raises(AttributeError, match="Builder has no build_cuda_engine"):
        builder.build_cuda_engine  # noqa: B018
    with pytest.raises(TypeError, match="takes"):
        builder.create_network(0, 1)
    with pytest.raises(TypeError, match="takes"):
        builder.create_network(flag=0)
    with pytest.raises(TypeError, match="takes"):
        builder.build_serialized_network(None)
    config = builder.create_builder_config()
    with pytest.raises(AttributeError, match="IBuilderConfig has no max_workspace_size"):
        config.max_workspace_size = 1
    with pytest.raises(TypeError, match="takes"):
        config.set_timing_cache(cache=None)
    if real.version.startswith("11."):
        assert not hasattr(trt.BuilderFlag, "FP16")  # strongly typed, nothing else
