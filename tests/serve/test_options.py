"""Session options under the C++ backend's names."""

from __future__ import annotations

import onnxruntime as ort
import pytest

from aesthetic_serve.backends.onnxruntime.options import run_options, session_options
from aesthetic_serve.backends.signature import ConfigError


def config(**parameters: str) -> dict[str, object]:
    return {"parameters": {key: {"string_value": value} for key, value in parameters.items()}}


def test_defaults_are_onnx_runtimes_own() -> None:
    options = session_options({})
    assert options.intra_op_num_threads == 0
    assert options.execution_mode == ort.ExecutionMode.ORT_SEQUENTIAL
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    assert options.enable_cpu_mem_arena
    assert options.enable_mem_pattern
    assert run_options({}) is None


def test_parameters_are_read() -> None:
    options = session_options(
        config(
            intra_op_thread_count="3",
            inter_op_thread_count="2",
            execution_mode="1",
            enable_mem_arena="0",
            enable_mem_pattern="false",
        )
    )
    assert options.intra_op_num_threads == 3
    assert options.inter_op_num_threads == 2
    assert options.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert not options.enable_cpu_mem_arena
    assert not options.enable_mem_pattern


def test_session_entries_are_handed_on() -> None:
    options = session_options(config(**{"session.intra_op.allow_spinning": "0"}))
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_arena_shrinkage_is_a_run_option() -> None:
    options = run_options(config(**{"memory.enable_memory_arena_shrinkage": "cpu:0"}))
    assert options.get_run_config_entry("memory.enable_memory_arena_shrinkage") == "cpu:0"


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (-1, ort.GraphOptimizationLevel.ORT_ENABLE_BASIC),
        (0, ort.GraphOptimizationLevel.ORT_ENABLE_ALL),
        (1, ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED),
        (2, ort.GraphOptimizationLevel.ORT_DISABLE_ALL),
    ],
)
def test_graph_levels_mean_what_they_mean_in_the_cpp_backend(level: int, expected: object) -> None:
    options = session_options({"optimization": {"graph": {"level": level}}})
    assert options.graph_optimization_level == expected


def test_unknown_parameters_are_ignored() -> None:
    session_options(config(**{"provenance.weights": "seeded", "anything": "else"}))


@pytest.mark.parametrize(
    ("key", "value"),
    [("intra_op_thread_count", "two"), ("execution_mode", "2"), ("enable_mem_arena", "maybe")],
)
def test_a_value_that_means_nothing_is_refused_by_name(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} .*'{value}'"):
        session_options(config(**{key: value}))
