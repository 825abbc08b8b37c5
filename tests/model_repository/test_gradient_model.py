"""The gradient add-on's config: as hand-written as the others, and by the same rules."""

from __future__ import annotations

from repository_configs import (
    SOURCE,
    check_batching,
    check_contract,
    check_style,
    check_warmup,
    config_of,
    parsed,
)

from aesthetic_client import contract
from aesthetic_client.contract import AESTHETIC_GRADIENT, GRADIENT

FOLDER = SOURCE / GRADIENT.name
TEXT = (FOLDER / AESTHETIC_GRADIENT.name / "config.pbtxt").read_text()


def test_the_folder_holds_the_add_ons_model_and_no_other() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {model.name for model in GRADIENT.models}
    assert (FOLDER / AESTHETIC_GRADIENT.name / "1").is_dir(), "Triton wants a version folder"


def test_its_config_equals_the_contract_and_reads_as_the_others() -> None:
    check_contract(TEXT, AESTHETIC_GRADIENT, AESTHETIC_GRADIENT.max_batch)
    check_style(TEXT)
    config = parsed(TEXT)
    check_batching(config)
    assert check_warmup(config, AESTHETIC_GRADIENT) == [1]
    assert [group.count for group in config.instance_group] == [1]
    assert config.optimization == config_of(contract.CLIP_IMAGE).optimization  # no TF32 here either
