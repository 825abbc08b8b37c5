"""The hand-written configs equal the contract. No server: Triton's own protobuf reads them."""

from __future__ import annotations

import io
import re
import struct
from pathlib import Path

import pytest
from google.protobuf import text_format
from PIL import Image
from tritonclient.grpc import model_config_pb2

from aesthetic_client import contract
from aesthetic_client.contract import MODELS, Model, Tensor
from aesthetic_client.pixels import DEFAULT_OPTIONS, PixelOptions

SOURCE = Path(__file__).parents[2] / "model_repository"
TRITON_TYPES = {"BYTES": "TYPE_STRING", "UINT8": "TYPE_UINT8", "FP32": "TYPE_FP32"}
FIELD_ORDER = (
    *("name", "backend", "platform", "max_batch_size", "input", "output"),
    *("ensemble_scheduling", "instance_group", "dynamic_batching", "model_warmup", "parameters"),
)
COMPOSING = [model for model in MODELS if not model.steps]
ENSEMBLES = [model for model in MODELS if model.steps]


def text_of(model: Model) -> str:
    return (SOURCE / model.name / "config.pbtxt").read_text()


def config_of(model: Model) -> model_config_pb2.ModelConfig:
    return text_format.Parse(text_of(model), model_config_pb2.ModelConfig())


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


def named(model: str) -> Model:
    return contract.model_named(model)


def test_the_repository_holds_the_contracts_models_and_no_others() -> None:
    folders = {path.name for path in SOURCE.iterdir() if path.is_dir()}
    assert folders == {model.name for model in MODELS}
    for model in MODELS:
        assert (SOURCE / model.name / "1").is_dir(), "Triton wants a version folder"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_config_equals_the_contract(model: Model) -> None:
    config = config_of(model)
    assert config.name == model.name
    assert config.max_batch_size == model.max_batch
    assert tensors(config.input) == list(model.inputs)
    assert tensors(config.output) == list(model.outputs)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_configs_read_the_same_way(model: Model) -> None:
    text = text_of(model)
    assert text.startswith("# "), "each config begins with what the model is for"
    fields = list(dict.fromkeys(re.findall(r"^(\w+)", text, re.MULTILINE)))
    assert fields == [name for name in FIELD_ORDER if name in fields]
    assert max(len(line) for line in text.splitlines() if line.startswith("#")) <= 100


@pytest.mark.parametrize("model", COMPOSING, ids=lambda model: model.name)
def test_composing_models_batch_and_warm_up(model: Model) -> None:
    config = config_of(model)
    assert config.HasField("dynamic_batching")
    # A queue policy or priority makes some requests wait 500 ms; none by default.
    batching = config.dynamic_batching
    assert not batching.HasField("default_queue_policy") and not batching.priority_levels
    assert [group.count for group in config.instance_group] in ([1], [2])
    # Both CPU and GPU machines must load it.
    kind = model_config_pb2.ModelInstanceGroup.Kind.KIND_AUTO
    assert all(group.kind == kind for group in config.instance_group)
    (warmup,) = config.model_warmup
    assert warmup.batch_size == 1
    for tensor in model.inputs:
        sample = warmup.inputs[tensor.name]
        assert model_config_pb2.DataType.Name(sample.data_type) == TRITON_TYPES[tensor.dtype]
        assert tuple(sample.dims) == tensor.dims


def test_preprocess_warms_up_with_a_real_image() -> None:
    config = config_of(contract.PREPROCESS)
    name = config.model_warmup[0].inputs[contract.IMAGE.name].input_data_file
    data = (SOURCE / "preprocess" / "warmup" / name).read_bytes()
    (length,) = struct.unpack_from("<I", data)
    assert length == len(data) - 4
    assert Image.open(io.BytesIO(data[4:])).convert("RGB").getextrema() != ((0, 0),) * 3


def test_preprocess_states_the_default_limits() -> None:
    parameters = config_of(contract.PREPROCESS).parameters
    stated = {key: value.string_value for key, value in parameters.items()}
    assert set(stated) == {"formats", "max_pixels", "max_decode_ms", "exif_orientation"}
    assert PixelOptions.from_parameters(stated) == DEFAULT_OPTIONS


@pytest.mark.parametrize("model", ENSEMBLES, ids=lambda model: model.name)
def test_ensemble_is_wired(model: Model) -> None:
    """Every step's inputs exist by then, under one name, with the same dtype and dims."""
    config = config_of(model)
    steps = config.ensemble_scheduling.step
    assert tuple(step.model_name for step in steps) == model.steps
    assert not config.instance_group and not config.model_warmup
    known = {tensor.name: tensor for tensor in model.inputs}
    for step in steps:
        composing = named(step.model_name)
        assert model.max_batch <= composing.max_batch
        assert dict(step.input_map) == {item.name: item.name for item in composing.inputs}
        assert dict(step.output_map) == {item.name: item.name for item in composing.outputs}
        for tensor in composing.inputs:
            assert known[tensor.name] == tensor
        known |= {tensor.name: tensor for tensor in composing.outputs}
    for tensor in model.outputs:
        assert known[tensor.name] == tensor


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("dims: [ 224, 224, 3 ]", "dims: [ 3, 224, 224 ]"),
        ("TYPE_UINT8", "TYPE_FP32"),
        ('name: "pixels"', 'name: "pixel"'),
        ("max_batch_size: 8", "max_batch_size: 9"),
    ],
)
def test_planted_faults_are_caught(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = text_of(contract.CLIP_IMAGE)
    assert old in text
    monkeypatch.setitem(globals(), "text_of", lambda _: text.replace(old, new, 1))
    with pytest.raises(AssertionError):
        test_config_equals_the_contract(contract.CLIP_IMAGE)


def test_a_misspelt_field_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    text = text_of(contract.CLIP_IMAGE).replace("dynamic_batching", "dynamic_batchin")
    monkeypatch.setitem(globals(), "text_of", lambda _: text)
    with pytest.raises(text_format.ParseError):
        config_of(contract.CLIP_IMAGE)
