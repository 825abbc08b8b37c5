"""The hand-written configs, read by Triton's own protobuf, and what must hold for each of them."""

from __future__ import annotations

import re
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from aesthetic_client.contract import ADD_ONS, MODELS, Model, Profile, Tensor

SOURCE = Path(__file__).parents[2] / "model_repository"
TRITON_TYPES = {
    "BYTES": "TYPE_STRING",
    **{name: f"TYPE_{name}" for name in ("UINT8", "INT32", "INT64", "FP32")},
}
FIELD_ORDER = (
    *("name", "backend", "platform", "max_batch_size", "default_model_filename"),
    *("input", "output", "ensemble_scheduling", "instance_group", "dynamic_batching"),
    *("optimization", "model_warmup", "parameters"),
)
COMPOSING = [model for model in MODELS if not model.steps]
ENSEMBLES = [model for model in MODELS if model.steps]


def path_of(model: Model, profile: Profile | None = None) -> Path:
    """The file Triton reads: `configs/NAME.pbtxt` where there is one, else `config.pbtxt`."""
    folder = SOURCE / next((a.name for a in ADD_ONS if model in a.models), "") / model.name
    if profile is not None and profile.name:
        path = folder / "configs" / f"{profile.name}.pbtxt"
        if path.is_file():
            return path
    return folder / "config.pbtxt"


def parsed(text: str) -> model_config_pb2.ModelConfig:
    """Raises ParseError for a field that Triton does not know."""
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def config_of(model: Model, profile: Profile | None = None) -> model_config_pb2.ModelConfig:
    return parsed(path_of(model, profile).read_text())


def tensors(fields: object) -> list[Tensor]:
    names = {value: key for key, value in TRITON_TYPES.items()}
    return [
        Tensor(
            field.name,
            names[model_config_pb2.DataType.Name(field.data_type)],
            tuple(field.dims),
        )
        for field in fields
    ]


def check_contract(text: str, model: Model, max_batch: int) -> None:
    config = parsed(text)
    assert config.name == model.name
    assert config.max_batch_size == max_batch
    assert tensors(config.input) == list(model.inputs)
    assert tensors(config.output) == list(model.outputs)


def check_style(text: str) -> None:
    assert text.startswith("# "), "each config begins with what the model is for"
    fields = list(dict.fromkeys(re.findall(r"^(\w+)", text, re.MULTILINE)))
    assert fields == [name for name in FIELD_ORDER if name in fields]
    assert max(len(line) for line in text.splitlines() if line.startswith("#")) <= 100


def check_batching(config: model_config_pb2.ModelConfig) -> None:
    assert config.HasField("dynamic_batching")
    batching = config.dynamic_batching
    # A queue policy or priority makes some requests wait 500 ms; none by default.
    assert not batching.HasField("default_queue_policy") and not batching.priority_levels
    assert not batching.priority_queue_policy
    assert batching.max_queue_delay_microseconds <= 5000
    assert all(size <= config.max_batch_size for size in batching.preferred_batch_size)


def check_warmup(config: model_config_pb2.ModelConfig, model: Model) -> list[int]:
    """Every warm-up sends the model's inputs; returns their batch sizes."""
    for warmup in config.model_warmup:
        assert 1 <= warmup.batch_size <= config.max_batch_size
        assert set(warmup.inputs) == {tensor.name for tensor in model.inputs}
        for tensor in model.inputs:
            sample = warmup.inputs[tensor.name]
            assert model_config_pb2.DataType.Name(sample.data_type) == TRITON_TYPES[tensor.dtype]
            assert len(sample.dims) == len(tensor.dims)
            assert all(
                want in (-1, got) for want, got in zip(tensor.dims, sample.dims, strict=True)
            )
    names = [warmup.name for warmup in config.model_warmup]
    assert len(set(names)) == len(names)
    return [warmup.batch_size for warmup in config.model_warmup]


def check_wiring(
    config: model_config_pb2.ModelConfig, model: Model, composing: dict[str, Model]
) -> None:
    """Every step's inputs exist by then, under one name, with the same dtype and dims."""
    steps = config.ensemble_scheduling.step
    assert tuple(step.model_name for step in steps) == model.steps
    assert not config.instance_group and not config.model_warmup
    known = {tensor.name: tensor for tensor in model.inputs}
    for step in steps:
        part = composing[step.model_name]
        assert dict(step.input_map) == {item.name: item.name for item in part.inputs}
        assert dict(step.output_map) == {item.name: item.name for item in part.outputs}
        for tensor in part.inputs:
            assert known[tensor.name] == tensor
        known |= {tensor.name: tensor for tensor in part.outputs}
    for tensor in model.outputs:
        assert known[tensor.name] == tensor
