"""The openvino backend's options and its engine, without a server."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import openvino
import pytest
from openvino_models import SIZE, four_only, product, weight

from aesthetic_serve.backends.batching import Failure, Request, answer
from aesthetic_serve.backends.openvino.engine import Engine, Streams, part_bounds
from aesthetic_serve.backends.openvino.options import Options, options
from aesthetic_serve.backends.openvino.translation import explain, model_tensors
from aesthetic_serve.backends.signature import ConfigError, ModelTensor


def config(max_batch_size: int = 8, **parameters: str) -> dict[str, Any]:
    given = {key: {"string_value": value} for key, value in parameters.items()}
    return {"max_batch_size": max_batch_size, "parameters": given}


def test_without_hints_batches_go_to_streams_and_single_items_to_all_threads() -> None:
    found = options(config())
    assert found.batches == {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "THROUGHPUT",
        "PERFORMANCE_HINT_NUM_REQUESTS": "8",
    }
    assert found.single == {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    assert options(config(max_batch_size=0)) == Options(found.single)


def test_parameters_have_the_names_of_the_cpp_backend() -> None:
    given = config(
        PERFORMANCE_HINT="throughput",
        NUM_STREAMS="3",
        INFERENCE_NUM_THREADS="2",
        COMPILATION_NUM_THREADS="0",
        HINT_BF16="YES",
        TARGET_DEVICE="cpu",
        ENABLE_BATCH_PADDING="YES",
        RESHAPE_IO_LAYERS="no",
        **{"provenance.weights": "seeded"},
    )
    assert options(given) == Options(
        {
            "INFERENCE_PRECISION_HINT": "bf16",
            "PERFORMANCE_HINT": "THROUGHPUT",
            "NUM_STREAMS": "3",
            "INFERENCE_NUM_THREADS": "2",
        }
    )
    assert options(config(NUM_STREAMS="auto")).batches["NUM_STREAMS"] == "AUTO"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("PERFORMANCE_HINT", "fast"),
        ("NUM_STREAMS", "many"),
        ("INFERENCE_NUM_THREADS", "-1"),
        ("HINT_BF16", "NO"),
        ("TARGET_DEVICE", "GPU"),
        ("RESHAPE_IO_LAYERS", "YES"),
        ("CPU_EXTENSION_PATH", "/layers.so"),
    ],
)
def test_what_means_nothing_or_is_not_done_here_is_refused_by_name(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"parameter {key}"):
        options(config(**{key: value}))


def test_a_model_says_its_tensors_in_tritons_terms() -> None:
    assert model_tensors(product().inputs) == {"x": ModelTensor("TYPE_FP32", (-1, SIZE))}
    assert model_tensors(four_only().inputs) == {"row": ModelTensor("TYPE_INT64", (-1, 1))}


@pytest.mark.parametrize("rows", range(10))
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_are_of_nearly_one_length_and_leave_nothing_out(rows: int, parts: int) -> None:
    bounds = part_bounds(rows, parts)
    assert [i for begin, end in bounds for i in range(begin, end)] == list(range(rows))
    sizes = [end - begin for begin, end in bounds]
    assert len(sizes) == min(rows, parts)
    assert not sizes or (max(sizes) - min(sizes) <= 1 and sizes == sorted(sizes, reverse=True))


@pytest.fixture(scope="module")
def core() -> openvino.Core:
    return openvino.Core()


def two_streams(core: openvino.Core, model: openvino.Model, **given: str) -> Engine:
    """As without hints on a machine of two cores, on any machine."""
    batches = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": "2", "INFERENCE_NUM_THREADS": "2"}
    single = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    return Engine(core, model, Options({**batches, **given}, {**single, **given}), batching=True)


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8])
def test_every_row_gets_its_own_result_however_the_batch_is_shared_out(
    core: openvino.Core, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    engine = two_streams(core, product())
    ran: Counter[tuple[Streams, int]] = Counter()
    run = Streams.run

    def counted(self: Streams, outputs: Any, feeds: Any) -> Any:
        ran.update((self, len(feed["x"])) for feed in feeds)
        return run(self, outputs, feeds)

    monkeypatch.setattr(Streams, "run", counted)
    x = np.random.default_rng(rows).standard_normal((rows, SIZE)).astype(np.float32)
    (y,) = engine.run(["y"], {"x": x})
    np.testing.assert_allclose(y, x @ weight(), rtol=1e-5, atol=1e-5)
    left = rows % 2
    assert ran[engine._single, 1] == left
    shared = {size: count for (who, size), count in ran.items() if who is engine._streams}
    assert shared == {0: {}, 2: {1: 2}, 6: {2: 2, 1: 2}, 8: {2: 4}}[rows - left]


def test_results_are_not_overwritten_by_the_next_run(core: openvino.Core) -> None:
    engine = two_streams(core, product())
    first, second = (np.full((1, SIZE), value, np.float32) for value in (1, 2))
    (kept,) = engine.run(["y"], {"x": first})
    engine.run(["y"], {"x": second})
    np.testing.assert_allclose(kept, first @ weight(), rtol=1e-4, atol=1e-5)


def test_inputs_that_do_not_lie_in_one_piece_are_read_right(core: openvino.Core) -> None:
    x = np.random.default_rng(1).standard_normal((2, 2 * SIZE)).astype(np.float32)[:, ::2]
    (y,) = two_streams(core, product()).run(["y"], {"x": x})
    np.testing.assert_allclose(y, x @ weight(), rtol=1e-5, atol=1e-5)


def test_fp32_is_fp32_and_bfloat16_is_asked_for(core: openvino.Core) -> None:
    """OpenVINO itself computes in bfloat16 on a CPU that has it, unless it is told otherwise."""
    x = np.random.default_rng(2).standard_normal((4, SIZE)).astype(np.float32)
    exact = x.astype(np.float64) @ weight()
    errors = {}
    for hint in ({}, {"HINT_BF16": "YES"}):
        engine = Engine(core, product(), options(config(**hint)), batching=True)
        (y,) = engine.run(["y"], {"x": x})
        errors[engine.precision] = float(np.abs(y - exact).max())
    assert errors["f32"] < 1e-4
    if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert errors["bf16"] > 1e-3


def test_a_failing_request_fails_alone_and_the_next_one_is_answered(core: openvino.Core) -> None:
    engine = two_streams(core, four_only())
    requests = [Request({"row": np.array([[row]], np.int64)}, ("value",)) for row in (4, 9, 4)]
    for _ in range(2):
        good, bad, other = answer(engine.run, requests, batching=True, explain=explain)
        assert isinstance(bad, Failure) and not bad.callers_fault
        assert bad.message.startswith("openvino: ") and "mismatch" in bad.message
        assert "src/" not in bad.message and ".cpp" not in bad.message
        assert isinstance(good, dict) and isinstance(other, dict)
        assert good["value"].item() == other["value"].item() == 14
