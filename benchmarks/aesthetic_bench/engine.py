"""The bare engine: the served model file in an engine of its own, in a loop.

Same file, same engine options as Triton's `clip_image`, no server. Run as a fresh process by
`children.run_module`.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .company import Ticks
from .measurements import Rate

ROUND_IMAGES = 8  # a batch size's turn: so many images, then the next size


def model_config(model_folder: Path, file: str = "config.pbtxt") -> dict[str, Any]:
    """A model's `config.pbtxt`, or a profile's, as Triton hands it to its backends."""
    from google.protobuf import json_format, text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    text = (model_folder / file).read_text("utf-8")
    config: dict[str, Any] = json_format.MessageToDict(
        text_format.Parse(text, ModelConfig()), preserving_proto_field_name=True
    )
    return config


def latest_version(model_folder: Path) -> str:
    """The version that Triton serves by default."""
    return max((path.name for path in model_folder.iterdir() if path.name.isdecimal()), key=int)


def time_batches(
    run_batch: Callable[[int], object], batches: Sequence[int], seconds: float
) -> list[Rate]:
    """Time `run_batch(size)`: sizes take turns of eight images, for `seconds` and one turn each.

    Turns, so that a machine whose speed drifts treats every batch size alike.
    """
    times: dict[int, list[float]] = {batch: [] for batch in batches}
    begin = time.perf_counter()
    for batch in itertools.cycle(batches):
        for _ in range(max(1, ROUND_IMAGES // batch)):
            before = time.perf_counter()
            run_batch(batch)
            times[batch].append(time.perf_counter() - before)
        if batch == batches[-1] and time.perf_counter() - begin >= seconds:
            break
    return [Rate(batch, tuple(seconds)) for batch, seconds in times.items()]


def cycled_batches(count: int) -> Callable[[int], list[int]]:
    """A function that gives the next `size` positions of `count`, round and round."""
    positions: Iterator[int] = itertools.cycle(range(count))
    return lambda size: [next(positions) for _ in range(size)]


def open_session(folder: Path, config: Mapping[str, Any]) -> tuple[Callable[[Any], Any], int]:
    """A function from pixels to embeddings, by the session that Triton's backend would open.

    Also the threads it was asked for; 0: one a core.
    """
    import onnxruntime

    from aesthetic_serve.backends.onnxruntime.options import run_options, session_options
    from aesthetic_serve.backends.onnxruntime.translation import DEFAULT_FILE
    from aesthetic_serve.backends.signature import artifact

    options, how = session_options(config), run_options(config)
    path = artifact(config, str(folder), latest_version(folder), DEFAULT_FILE)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output["name"] for output in config["output"]]

    def run(batch: Any) -> Any:
        return session.run(names, {config["input"][0]["name"]: batch}, how)[0]

    return run, options.intra_op_num_threads


def open_openvino(path: Path, config: Mapping[str, Any]) -> Callable[[Any], Any]:
    """A function from pixels to embeddings, run as Triton's `openvino` backend runs the file."""
    import openvino

    from aesthetic_client import contract
    from aesthetic_serve.backends.openvino.engine import Engine
    from aesthetic_serve.backends.openvino.options import options

    core = openvino.Core()
    engine = Engine(core, core.read_model(path), options(config), batching=True)
    outputs = [contract.EMBEDDING.name]
    return lambda batch: engine.run(outputs, {contract.PIXELS.name: batch})[0]


def open_engine(folder: Path, config: Mapping[str, Any]) -> tuple[Callable[[Any], Any], int]:
    """What Triton's backend runs for the tower: `open_session`, or its like in OpenVINO."""
    if config["backend"] != "openvino":
        return open_session(folder, config)
    from aesthetic_serve.backends.openvino.translation import DEFAULT_FILE
    from aesthetic_serve.backends.signature import artifact

    path = artifact(config, str(folder), latest_version(folder), DEFAULT_FILE)
    return open_openvino(path, config), 0


def measure(task: Mapping[str, Any]) -> dict[str, Any]:
    """Task: model_folder, config_file, pixels and embeddings (.npy, the latter written), batches,
    seconds."""
    folder = Path(task["model_folder"])
    config = model_config(folder, task["config_file"])
    begin = time.perf_counter()
    run, threads = open_engine(folder, config)
    load_s = time.perf_counter() - begin
    pixels = np.load(task["pixels"])

    def run_next(size: int) -> Any:
        return run(pixels[take(size)])

    batches: list[int] = task["batches"]
    take = cycled_batches(len(pixels))
    np.save(task["embeddings"], run(pixels))
    # The first run of a size allocates.
    for batch in (batches[0], *([batches[-1]] if len(pixels) < batches[-1] else [])):
        run_next(batch)
    before = Ticks.now()
    rates = time_batches(run_next, batches, task["seconds"])
    return {
        "intra_op_threads_asked": threads,
        "load_s": load_s,
        **Ticks.now().company_since(before),
        "rates": [rate.as_dict() for rate in rates],
    }


if __name__ == "__main__":
    given, answer = Path(sys.argv[1]), Path(sys.argv[2])
    answer.write_text(json.dumps(measure(json.loads(given.read_text("utf-8")))), "utf-8")
