"""The hand-written configs equal the contract. No server: Triton's own protobuf reads them."""

from __future__ import annotations

import io
import struct

import pytest
from google.protobuf import text_format
from PIL import Image
from repository_configs import (
    COMPOSING,
    ENSEMBLES,
    SOURCE,
    check_batching,
    check_contract,
    check_style,
    check_warmup,
    check_wiring,
    config_of,
    parsed,
    path_of,
)
from tritonclient.grpc import model_config_pb2

from aesthetic_client import contract
from aesthetic_client.contract import MODELS, Model
from aesthetic_client.pixels import DEFAULT_OPTIONS, PixelOptions


def test_the_repository_holds_the_contracts_models_and_no_others() -> None:
    folders = {path.parent.name for path in SOURCE.glob("*/config.pbtxt")}
    assert folders == {model.name for model in MODELS}
    for model in MODELS:
        assert (SOURCE / model.name / "1").is_dir(), "Triton wants a version folder"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_config_equals_the_contract(model: Model) -> None:
    check_contract(path_of(model).read_text(), model, model.max_batch)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_configs_read_the_same_way(model: Model) -> None:
    check_style(path_of(model).read_text())


@pytest.mark.parametrize("model", COMPOSING, ids=lambda model: model.name)
def test_composing_models_batch_and_warm_up(model: Model) -> None:
    config = config_of(model)
    check_batching(config)
    assert check_warmup(config, model) == [1]
    assert [group.count for group in config.instance_group] in ([1], [2])
    # Both CPU and GPU machines must load it.
    kind = model_config_pb2.ModelInstanceGroup.Kind.KIND_AUTO
    assert all(group.kind == kind for group in config.instance_group)


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
    assert set(stated) == {
        *("formats", "max_pixels", "max_decode_ms", "exif_orientation", "mode"),
        "provenance.preprocessing",
    }
    assert PixelOptions.from_parameters(stated) == DEFAULT_OPTIONS
    assert stated["provenance.preprocessing"] == DEFAULT_OPTIONS.preprocessing_id


@pytest.mark.parametrize("model", ENSEMBLES, ids=lambda model: model.name)
def test_ensemble_is_wired(model: Model) -> None:
    check_wiring(config_of(model), model, {part.name: part for part in COMPOSING})
    assert all(model.max_batch <= contract.model_named(step).max_batch for step in model.steps)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("dims: [ 224, 224, 3 ]", "dims: [ 3, 224, 224 ]"),
        ("TYPE_UINT8", "TYPE_FP32"),
        ('name: "pixels"', 'name: "pixel"'),
        ("max_batch_size: 8", "max_batch_size: 9"),
    ],
)
def test_planted_faults_are_caught(old: str, new: str) -> None:
    text = path_of(contract.CLIP_IMAGE).read_text()
    assert old in text
    with pytest.raises(AssertionError):
        check_contract(text.replace(old, new, 1), contract.CLIP_IMAGE, 8)


def test_a_misspelt_field_is_caught() -> None:
    text = path_of(contract.CLIP_IMAGE).read_text()
    with pytest.raises(text_format.ParseError):
        parsed(text.replace("dynamic_batching", "dynamic_batchin"))


def test_a_planted_fault_in_an_ensemble_is_caught() -> None:
    config = config_of(contract.AESTHETIC)
    config.ensemble_scheduling.step[1].input_map["pixels"] = "image"
    with pytest.raises(AssertionError):
        check_wiring(config, contract.AESTHETIC, {part.name: part for part in COMPOSING})
