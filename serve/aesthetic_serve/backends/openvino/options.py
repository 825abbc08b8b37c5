"""OpenVINO's properties out of a Triton model config, under the C++ backend's own names.

| `parameters` | meaning |
|---|---|
| `PERFORMANCE_HINT` | `LATENCY`, `THROUGHPUT`, `CUMULATIVE_THROUGHPUT` |
| `NUM_STREAMS` | a number, `AUTO` or `NUMA` |
| `INFERENCE_NUM_THREADS`, `COMPILATION_NUM_THREADS` | numbers; 0: OpenVINO chooses |
| `HINT_BF16` | `YES`: bfloat16 where the CPU has it |
| `TARGET_DEVICE` | `CPU` |
| `SKIP_OV_DYNAMIC_BATCHSIZE`, `ENABLE_BATCH_PADDING` | accepted; any batch is run as it is |
| `RESHAPE_IO_LAYERS`, `CPU_EXTENSION_PATH` | refused where they are set |

Without `PERFORMANCE_HINT` and `NUM_STREAMS` the model is compiled twice, once for each hint: see
engine.py. Other parameters (`provenance.*` for one) are none of this backend's business and are
ignored, as in the C++ backend.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aesthetic_serve.backends.parameters import choice, count, parameters
from aesthetic_serve.backends.signature import ConfigError

PRECISION = "INFERENCE_PRECISION_HINT"
HINT = "PERFORMANCE_HINT"
HINT_REQUESTS = "PERFORMANCE_HINT_NUM_REQUESTS"
STREAMS = "NUM_STREAMS"
YES = {"yes": True}  # the C++ backend takes nothing else
HINTS = {name.lower(): name for name in ("LATENCY", "THROUGHPUT", "CUMULATIVE_THROUGHPUT")}
NAMED_STREAMS = {"auto": "AUTO", "numa": "NUMA"}
REFUSED = {
    "RESHAPE_IO_LAYERS": "this backend takes a model's own shapes; reshape it before it is saved",
    "CPU_EXTENSION_PATH": "this backend knows no layers but OpenVINO's own",
}

Properties = dict[str, str]


@dataclass(frozen=True)
class Options:
    """Properties to compile with: for batches, and for single items where those get their own."""

    batches: Properties
    single: Properties | None = None

    @property
    def bf16(self) -> bool:
        return self.batches[PRECISION] == "bf16"


def options(config: Mapping[str, Any]) -> Options:
    """Raises ConfigError on a value that means nothing, and on what this backend cannot do."""
    given = parameters(config)
    _refuse(given)
    # Always said: OpenVINO's own choice would be bfloat16.
    common = {PRECISION: "bf16" if choice(given, "HINT_BF16", YES, default=False) else "f32"}
    for key in ("INFERENCE_NUM_THREADS", "COMPILATION_NUM_THREADS"):
        if number := count(given, key):
            common[key] = str(number)
    if HINT not in given and STREAMS not in given:
        single = {**common, HINT: "LATENCY"}
        largest = int(config.get("max_batch_size", 0))
        if not largest:
            return Options(single)
        # More streams than a batch has rows would never all work.
        return Options({**common, HINT: "THROUGHPUT", HINT_REQUESTS: str(largest)}, single)
    if HINT in given:
        common[HINT] = choice(given, HINT, HINTS, default="")
    if STREAMS in given:
        common[STREAMS] = _streams(given)
    return Options(common)


def _streams(given: Mapping[str, str]) -> str:
    text = given[STREAMS].lower()
    return NAMED_STREAMS[text] if text in NAMED_STREAMS else str(count(given, STREAMS))


def _refuse(given: Mapping[str, str]) -> None:
    for key, reason in REFUSED.items():
        if given.get(key, "").lower() not in ("", "no"):
            raise ConfigError(f"parameter {key}: {reason}")
    device = given.get("TARGET_DEVICE", "CPU")
    if device.upper() != "CPU":
        raise ConfigError(f"parameter TARGET_DEVICE: this backend runs on the CPU, not '{device}'")
