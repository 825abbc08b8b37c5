"""config.pbtxt against the ONNX file: what fits, and the words where it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aesthetic_serve.backends.signature import (
    ConfigError,
    ModelTensor,
    artifact,
    check_instances,
    check_signature,
)

INPUTS = {"pixels": ModelTensor("TYPE_UINT8", (-1, 224, 224, 3))}
OUTPUTS = {"embedding": ModelTensor("TYPE_FP32", (-1, 768))}


def config(**changes: Any) -> dict[str, Any]:
    """A config that fits; `pixels=` and `embedding=` change a tensor, others a field."""
    pixels = {"name": "pixels", "data_type": "TYPE_UINT8", "dims": ["224", 224, 3]}
    embedding = {"name": "embedding", "data_type": "TYPE_FP32", "dims": [768]}
    return {
        "max_batch_size": 8,
        "input": [{**pixels, **changes.pop("pixels", {})}],
        "output": [{**embedding, **changes.pop("embedding", {})}],
        **changes,
    }


def test_a_fitting_config_passes() -> None:
    check_signature(config(), "model.onnx", INPUTS, OUTPUTS)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pixels": {"name": "image"}}, ["'image'", "'pixels'"]),
        ({"embedding": {"name": "score"}}, ["output 'score'", "model.onnx has 'embedding'"]),
        ({"pixels": {"data_type": "TYPE_FP32"}}, ["says TYPE_FP32", "model.onnx has TYPE_UINT8"]),
        ({"embedding": {"data_type": "TYPE_BF16"}}, ["TYPE_BF16", "not supported"]),
        ({"pixels": {"dims": [3, 224, 224]}}, ["[-1, 3, 224, 224]", "[-1, 224, 224, 3]"]),
        ({"embedding": {"dims": [512]}}, ["[-1, 512]", "[-1, 768]"]),
        ({"embedding": {"dims": [-1]}}, ["[-1, -1]", "[-1, 768]"]),
        ({"embedding": {"dims": [768, 1]}}, ["[-1, 768, 1]", "[-1, 768]"]),
        ({"max_batch_size": 0}, ["[224, 224, 3]", "[-1, 224, 224, 3]"]),
        ({"input": []}, ["inputs none", "'pixels'"]),
        ({"pixels": {"optional": True}}, ["'pixels' is optional", "max_batch_size"]),
    ],
)
def test_a_misfit_names_both_sides(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_signature(config(**changes), "model.onnx", INPUTS, OUTPUTS)
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_fixed_batch_axis_is_refused() -> None:
    fixed = {"pixels": ModelTensor("TYPE_UINT8", (1, 224, 224, 3))}
    with pytest.raises(ConfigError, match=r"max_batch_size > 0, but the first axis .* is fixed"):
        check_signature(config(), "model.onnx", fixed, OUTPUTS)


def test_an_input_may_be_narrower_than_the_model_allows() -> None:
    free = {"pixels": ModelTensor("TYPE_UINT8", (-1, -1, -1, 3))}
    check_signature(config(), "model.onnx", free, OUTPUTS)


def test_a_reshape_counts_as_the_shape() -> None:
    reshaped = config(embedding={"dims": [1, 768], "reshape": {"shape": [768]}})
    check_signature(reshaped, "model.onnx", INPUTS, OUTPUTS)


def test_outputs_may_be_left_out() -> None:
    more = {**OUTPUTS, "hidden": ModelTensor("TYPE_FP32", (-1, 257, 1024))}
    check_signature(config(), "model.onnx", INPUTS, more)


def test_a_scalar_of_a_model_without_batching() -> None:
    scalar = {"embedding": ModelTensor("TYPE_FP32", ())}
    fixed = {"pixels": ModelTensor("TYPE_UINT8", (224, 224, 3))}
    given = config(max_batch_size=0, embedding={"dims": [1]})
    check_signature(given, "model.onnx", fixed, scalar)


def test_the_file_is_found_by_its_configured_name(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "tower.onnx").touch()
    found = artifact({"default_model_filename": "tower.onnx"}, str(tmp_path), "1", "model.onnx")
    assert found == tmp_path / "1" / "tower.onnx"
    with pytest.raises(ConfigError, match=r"there is no 1/model\.onnx"):
        artifact({}, str(tmp_path), "1", "model.onnx")


def test_a_gpu_instance_is_refused() -> None:
    check_instances("CPU")
    with pytest.raises(ConfigError, match="KIND_GPU; this backend runs on the CPU"):
        check_instances("GPU")
