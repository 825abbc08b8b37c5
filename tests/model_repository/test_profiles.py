"""The profiles, `--model-config-name`: what all configs say, and those of OpenVINO."""

from __future__ import annotations

import re

import pytest
from repository_configs import (
    ENSEMBLES,
    SOURCE,
    check_batching,
    check_contract,
    check_style,
    check_warmup,
    config_of,
    parsed,
    path_of,
)
from tritonclient.grpc import model_config_pb2

from aesthetic_client import contract
from aesthetic_client.contract import (
    BF16,
    CLIP_IMAGE,
    DEFAULT_PROFILE,
    INT8,
    MODELS,
    PROFILES,
    Model,
    Profile,
)

KIND = model_config_pb2.ModelInstanceGroup.Kind
OPENVINO_PROFILES = [BF16, INT8]
BACKENDS_OWN_ARTIFACT = {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}
# What the C++ openvino backend reads, and the values that it takes
# (github.com/triton-inference-server/openvino_backend, README.md and src/openvino.cc, August 2026).
OPENVINO_PARAMETERS = {
    "HINT_BF16": "yes",
    "ENABLE_BATCH_PADDING": "yes|no",
    "SKIP_OV_DYNAMIC_BATCHSIZE": "yes|no",
    "RESHAPE_IO_LAYERS": "yes|no",
    "NUM_STREAMS": r"auto|numa|\d+",
    "INFERENCE_NUM_THREADS": r"\d+",
    "COMPILATION_NUM_THREADS": r"\d+",
    "PERFORMANCE_HINT": "latency|throughput|cumulative_throughput",
    "TARGET_DEVICE": "cpu",
}


def max_batch(model: Model, profile: Profile) -> int:
    return profile.max_batch if model == CLIP_IMAGE else model.max_batch


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name or "default")
def test_each_profile_has_every_model_as_the_contract_says(model: Model, profile: Profile) -> None:
    text = path_of(model, profile).read_text()
    check_contract(text, model, max_batch(model, profile))
    check_style(text)
    if not model.steps:
        check_batching(parsed(text))
        assert 1 in check_warmup(parsed(text), model)


def test_there_is_no_config_of_an_unknown_profile() -> None:
    """Triton falls back to config.pbtxt in silence, so a misspelt name would go unnoticed."""
    names = {profile.name for profile in PROFILES if profile.name}
    for path in SOURCE.rglob("configs/*"):
        assert path.suffix == ".pbtxt" and path.stem in names
    assert {path.stem for path in (SOURCE / CLIP_IMAGE.name / "configs").iterdir()} == names


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name or "default")
def test_a_profile_serves_its_artifact_with_its_backend(profile: Profile) -> None:
    config = config_of(CLIP_IMAGE, profile)
    assert config.backend == profile.backend
    file = config.default_model_filename or BACKENDS_OWN_ARTIFACT[config.backend]
    assert file == profile.artifact


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name or "default")
@pytest.mark.parametrize("model", ENSEMBLES, ids=lambda model: model.name)
def test_no_ensembles_batch_exceeds_a_steps(model: Model, profile: Profile) -> None:
    largest = config_of(model, profile).max_batch_size
    for step in model.steps:
        assert largest <= config_of(contract.model_named(step), profile).max_batch_size


@pytest.mark.parametrize("profile", OPENVINO_PROFILES, ids=lambda profile: profile.name)
def test_openvino_serves_the_tower_on_the_cpu_and_nothing_else_changes(profile: Profile) -> None:
    config = config_of(CLIP_IMAGE, profile)
    (tower,) = config.instance_group
    # Without a kind, Triton would give it to the GPU that another model is there for.
    assert (tower.kind, tower.count) == (KIND.KIND_CPU, 1)
    assert profile.max_batch == DEFAULT_PROFILE.max_batch == config.max_batch_size
    others = [model for model in MODELS if model != CLIP_IMAGE]
    assert all(path_of(model, profile) == path_of(model) for model in others)


@pytest.mark.parametrize("profile", OPENVINO_PROFILES, ids=lambda profile: profile.name)
def test_openvinos_parameters_are_the_cpp_backends(profile: Profile) -> None:
    config = config_of(CLIP_IMAGE, profile)
    given = {key: value.string_value for key, value in config.parameters.items()}
    for key, value in given.items():
        assert re.fullmatch(OPENVINO_PARAMETERS[key], value.lower())
    assert given["HINT_BF16"] == given["ENABLE_BATCH_PADDING"] == "YES"
    # Its count of padded rows is wrong from a full batch on, unless a smaller one came first.
    assert check_warmup(config, CLIP_IMAGE) == [1, config.max_batch_size]
