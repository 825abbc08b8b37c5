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

from aesthetic_serve.backends.parameters import choice, count, parameters

SHRINKAGE = "memory.enable_memory_arena_shrinkage"
SESSION_PREFIX = "session."
SWITCH = {"0": False, "1": True, "false": False, "true": True}
ERRORS_ONLY = 3  # ONNX Runtime's log severity


def session_options(config: Mapping[str, Any]) -> Any:
    """An `onnxruntime.SessionOptions` for the config. Raises ConfigError on an unusable value."""
    given = parameters(config)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.graph_optimization_level = _graph_level(config)
    # 0 is ONNX Runtime's own "choose for me", as in the C++ backend.
    options.intra_op_num_threads = count(given, "intra_op_thread_count")
    options.inter_op_num_threads = count(given, "inter_op_thread_count")
    if choice(given, "execution_mode", {"0": False, "1": True}, default=False):
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    options.enable_cpu_mem_arena = choice(given, "enable_mem_arena", SWITCH, default=True)
    options.enable_mem_pattern = choice(given, "enable_mem_pattern", SWITCH, default=True)
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
