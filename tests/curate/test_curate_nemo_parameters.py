"""The stage for NeMo Curator, in the real package: its filter's parameters."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

pytest.importorskip("nemo_curator", reason="nemo-curator needs Python 3.11")

from nemo_curator.stages.image.filters.aesthetic_filter import ImageAestheticFilterStage

from aesthetic_client import InputError
from aesthetic_curate.nemo import TritonAestheticStage


def test_parameters_are_those_of_the_original() -> None:
    original = inspect.signature(ImageAestheticFilterStage).parameters
    ours = inspect.signature(TritonAestheticStage).parameters
    assert list(ours)[: len(original)] == list(original)
    for name, parameter in original.items():
        assert ours[name].default == parameter.default, name
    methods = ("inputs", "setup", "setup_on_node", "process", "teardown")
    for method in methods:
        theirs = inspect.signature(getattr(ImageAestheticFilterStage, method)).parameters
        assert len(inspect.signature(getattr(TritonAestheticStage, method)).parameters) == len(
            theirs
        )
    assert TritonAestheticStage().inputs() == ImageAestheticFilterStage().inputs()
    assert TritonAestheticStage().outputs()[0] == ImageAestheticFilterStage().outputs()[0]


@pytest.mark.parametrize(
    "wrong", [{"source": "pixels"}, {"on_error": "ignore"}, {"model_inference_batch_size": 0}]
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        TritonAestheticStage(**wrong)
