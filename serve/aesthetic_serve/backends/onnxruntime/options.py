"""ONNX Runtime options out of a Triton model config, under the C++ backend's own names.

| config | meaning |
|---|---|
| `parameters: intra_op_thread_count` | threads inside an operator; 0 or none: one a core |
| `parameters: inter_op_thread_count` | threads across operators, in parallel mode only |
| `parameters: execution_mode` | 0 sequential (default), 1 parallel |
| `parameters: enable_mem_arena`, `enable_mem_pattern` | 0 or 1 |
| `parameters: memory.enable_memory_arena_shrinkage` | e.g. `cpu:0`, applied after each run |
| `parameters: session.*` | handed to ONNX Runtime as they are |
| `optimization { graph { level } }` | -1 basic, 0 all (default), 1 extended, 2 none |

Other parameters (`provenance.*` for one) are none of this backend's business and are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnxruntime

from aesthetic_serve.backends.onnxruntime.signature import ConfigError

SHRINKAGE = "memory.enable_memory_arena_shrinkage"
SESSION_PREFIX = "session."
ERRORS_ONLY = 3  # ONNX Runtime's log severity


def parameters(config: Mapping[str, Any]) -> dict[str, str]:
    """The config's `parameters` as plain strings."""
    given: Mapping[str, Any] = config.get("parameters") or {}
    return {key: str(value.get("string_value", "")) for key, value in given.items()}


def session_options(config: Mapping[str, Any]) -> Any:
    """An `onnxruntime.SessionOptions` for the config. Raises ConfigError on an unusable value."""
    given = parameters(config)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.graph_optimization_level = _graph_level(config)
    # 0 is ONNX Runtime's own "choose for me", as in the C++ backend.
    options.intra_op_num_threads = _count(given, "intra_op_thread_count")
    options.inter_op_num_threads = _count(given, "inter_op_thread_count")
    if _choice(given, "execution_mode", {"0": False, "1": True}, default=False):
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    options.enable_cpu_mem_arena = _switch(given, "enable_mem_arena")
    options.enable_mem_pattern = _switch(given, "enable_mem_pattern")
    for key, value in given.items():
        if key.startswith(SESSION_PREFIX):
            options.add_session_config_entry(key, value)
    return options


def run_options(config: Mapping[str, Any]) -> Any:
    """An `onnxruntime.RunOptions` for the config, or None where the defaults do."""
    shrinkage = parameters(config).get(SHRINKAGE)
    if not shrinkage:
        return None
    options = onnxruntime.RunOptions()
    options.add_run_config_entry(SHRINKAGE, shrinkage)
    return options


def _graph_level(config: Mapping[str, Any]) -> Any:
    levels = onnxruntime.GraphOptimizationLevel
    graph = (config.get("optimization") or {}).get("graph") or {}
    return {
        -1: levels.ORT_ENABLE_BASIC,
        1: levels.ORT_ENABLE_EXTENDED,
        2: levels.ORT_DISABLE_ALL,
    }.get(int(graph.get("level", 0)), levels.ORT_ENABLE_ALL)


def _count(given: Mapping[str, str], key: str) -> int:
    text = given.get(key, "0")
    if not text.isdecimal():
        raise ConfigError(f"parameter {key} must be a whole number of threads, not '{text}'")
    return int(text)


def _switch(given: Mapping[str, str], key: str) -> bool:
    return _choice(given, key, {"0": False, "1": True, "false": False, "true": True}, default=True)


def _choice(
    given: Mapping[str, str], key: str, values: Mapping[str, bool], *, default: bool
) -> bool:
    text = given.get(key)
    if text is None:
        return default
    if text.lower() not in values:
        raise ConfigError(f"parameter {key} must be one of {', '.join(values)}, not '{text}'")
    return values[text.lower()]
