"""The configs of the text models: the contract, their wiring, batching and warm-up."""

from __future__ import annotations

import struct

import pytest
from repository_configs import (
    SOURCE,
    check_batching,
    check_contract,
    check_style,
    check_warmup,
    check_wiring,
    parsed,
)

from aesthetic_client.contract import (
    AESTHETIC_PERSONALIZE,
    CLIP_TEXT,
    CLIP_TEXT_TOWER,
    PERSONALIZE,
    TEXT,
    TOKENIZE,
    Model,
)


def text_of(model: Model) -> str:
    add_on = TEXT if model in TEXT.models else PERSONALIZE
    return (SOURCE / add_on.name / model.name / "config.pbtxt").read_text()


@pytest.mark.parametrize("add_on", [TEXT, PERSONALIZE], ids=lambda add_on: add_on.name)
def test_the_folders_hold_the_add_ons_models_and_no_others(add_on) -> None:
    folders = {path.name for path in (SOURCE / add_on.name).iterdir() if path.is_dir()}
    assert folders == {model.name for model in add_on.models}


@pytest.mark.parametrize("model", [*TEXT.models, *PERSONALIZE.models], ids=lambda m: m.name)
def test_config_equals_the_contract(model: Model) -> None:
    check_contract(text_of(model), model, model.max_batch)
    check_style(text_of(model))


def test_clip_text_is_wired() -> None:
    check_wiring(
        parsed(text_of(CLIP_TEXT)), CLIP_TEXT, {part.name: part for part in TEXT.models[:2]}
    )
    assert CLIP_TEXT.max_batch <= min(TOKENIZE.max_batch, CLIP_TEXT_TOWER.max_batch)


@pytest.mark.parametrize("model", [TOKENIZE, CLIP_TEXT_TOWER], ids=lambda m: m.name)
def test_the_steps_batch_and_warm_up(model: Model) -> None:
    config = parsed(text_of(model))
    check_batching(config)
    assert check_warmup(config, model) == [1]
    assert [group.count for group in config.instance_group] == [1]


def test_tokenize_warms_up_with_a_prompt() -> None:
    data = (SOURCE / "text" / "tokenize" / "warmup" / "prompt").read_bytes()
    assert struct.unpack_from("<I", data)[0] == len(data) - 4
    assert data[4:] == b"a photo of a cat"


def test_personalising_is_never_batched_across_requests() -> None:
    config = parsed(text_of(AESTHETIC_PERSONALIZE))
    assert not config.HasField("dynamic_batching")
    assert [group.count for group in config.instance_group] == [1]
