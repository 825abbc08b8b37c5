"""The profiles for GPUs: what their configs say, and what is known without a GPU."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from repository_configs import (
    COMPOSING,
    check_batching,
    check_contract,
    check_style,
    check_warmup,
    config_of,
    parsed,
    path_of,
)
from tritonclient.grpc import model_config_pb2

from aesthetic_client import Client, contract
from aesthetic_client.contract import (
    CLIP_IMAGE,
    DEFAULT_PROFILE,
    MODELS,
    ONNX_CUDA,
    PLANS,
    PROFILES,
    TENSORRT,
    Model,
    Plan,
    Profile,
)

KIND = model_config_pb2.ModelInstanceGroup.Kind
GPU_PROFILES = [ONNX_CUDA, TENSORRT]
OPTIONAL_PLANS = [plan for plan in PLANS if plan.optional]
# The C++ backend reads these from `parameters` last of all, and writes its defaults where they are
# not there: named as accelerator options they would be overwritten in silence.
CUDA_PARAMETERS = {
    "cudnn_conv_algo_search": {"0", "1", "2"},  # exhaustive, heuristic, default
    "arena_extend_strategy": {"0", "1"},  # next power of two, same as requested
    "do_copy_in_default_stream": {"0", "1"},
    "gpu_mem_limit": set(),
}
# What else ONNX Runtime's CUDA provider knows; it refuses to load with any other name.
CUDA_OPTIONS = {"use_tf32", "cudnn_conv_use_max_workspace", "use_ep_level_unified_stream"}


def cuda_options(config: model_config_pb2.ModelConfig) -> dict[str, str]:
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert [accelerator.name for accelerator in accelerators] == ["cuda"]
    return dict(accelerators[0].parameters)


def check_graphs(text: str) -> None:
    """Each size that has a CUDA graph is warmed up, and so is the largest batch."""
    config = parsed(text)
    cuda = config.optimization.cuda
    assert cuda.graphs
    captured = [spec.batch_size for spec in cuda.graph_spec]
    assert captured == sorted(set(captured)) and captured[0] == 1
    assert captured[-1] <= config.max_batch_size
    # Without shapes and bounds of its own, a graph is for exactly its batch size.
    assert all(
        not spec.input and not spec.HasField("graph_lower_bound") for spec in cuda.graph_spec
    )
    assert check_warmup(config, CLIP_IMAGE) == [*captured, config.max_batch_size]
    assert not config.dynamic_batching.preferred_batch_size, "the graphs are declared"


def check_cuda_options(text: str) -> None:
    config = parsed(text)
    options = cuda_options(config)
    assert set(options) <= CUDA_OPTIONS
    assert options["use_tf32"] == "0"
    for key, values in CUDA_PARAMETERS.items():
        if key in config.parameters and values:
            assert config.parameters[key].string_value in values


@pytest.mark.parametrize("profile", GPU_PROFILES, ids=lambda profile: profile.name)
def test_the_tower_asks_for_a_gpu_and_preprocessing_for_the_cpu(profile: Profile) -> None:
    (tower,) = config_of(CLIP_IMAGE, profile).instance_group
    assert tower.kind == KIND.KIND_GPU and tower.count == {"tensorrt": 2}.get(profile.backend, 1)
    (decoder,) = config_of(contract.PREPROCESS, profile).instance_group
    assert decoder.kind == KIND.KIND_CPU and decoder.count > 2


@pytest.mark.parametrize("profile", GPU_PROFILES, ids=lambda profile: profile.name)
def test_preprocessing_differs_only_in_its_processes(profile: Profile) -> None:
    """The same limits, the same pixels: a profile must not change a score's meaning."""
    configs = [config_of(contract.PREPROCESS, each) for each in (DEFAULT_PROFILE, profile)]
    assert configs[0] != configs[1]
    for config in configs:
        config.ClearField("instance_group")
    assert configs[0] == configs[1]


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name or "default")
@pytest.mark.parametrize("model", COMPOSING, ids=lambda model: model.name)
def test_fp32_is_fp32_on_a_gpu_too(model: Model, profile: Profile) -> None:
    """ONNX Runtime's CUDA provider multiplies fp32 in TF32 unless told otherwise."""
    config = config_of(model, profile)
    if config.backend == "onnxruntime":
        check_cuda_options(path_of(model, profile).read_text())


def test_onnx_cuda_sets_each_option_on_purpose() -> None:
    config = config_of(CLIP_IMAGE, ONNX_CUDA)
    assert {key: value.string_value for key, value in config.parameters.items()} == {
        "cudnn_conv_algo_search": "1",
        "arena_extend_strategy": "1",
        "do_copy_in_default_stream": "1",
        "intra_op_thread_count": "1",
    }
    assert config.optimization.HasField("graph") and config.optimization.graph.level == 0
    sizes = check_warmup(config, CLIP_IMAGE)
    assert sizes == sorted(sizes, reverse=True), "the arena grows once, for the largest batch"
    assert sizes[0] == config.max_batch_size and contract.MAX_IMAGE_BATCH in sizes


def test_tensorrt_warms_up_each_graph() -> None:
    text = path_of(CLIP_IMAGE, TENSORRT).read_text()
    check_graphs(text)
    captured = {spec.batch_size for spec in parsed(text).optimization.cuda.graph_spec}
    assert captured == set(range(1, contract.MAX_IMAGE_BATCH + 1))


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.model.name)
def test_each_plan_is_served_by_tensorrt_up_to_its_largest_batch(plan: Plan) -> None:
    config = config_of(plan.model, TENSORRT)
    assert (config.backend, config.default_model_filename) == ("tensorrt", TENSORRT.artifact)
    assert config.max_batch_size == plan.max_batch
    assert 1 < plan.opt_batch <= plan.max_batch
    # Its provenance is appended; what a CPU needs has no place here.
    assert not config.parameters and not config.optimization.HasField("execution_accelerators")
    models = (*MODELS, *contract.OPTIONAL_MODELS)
    assert [model for model in models if config_of(model, TENSORRT).backend == "tensorrt"] == [
        each.model for each in PLANS
    ]


@pytest.mark.parametrize("plan", OPTIONAL_PLANS, ids=lambda plan: plan.model.name)
def test_an_optional_plan_is_one_instance_without_graphs_warmed_up_at_both_ends(plan: Plan) -> None:
    text = path_of(plan.model, TENSORRT).read_text()
    check_contract(text, plan.model, plan.max_batch)
    check_style(text)
    config = parsed(text)
    (group,) = config.instance_group
    assert (group.kind, group.count) == (KIND.KIND_GPU, 1)
    assert not config.HasField("optimization")
    assert check_warmup(config, plan.model) == [1, plan.max_batch]


@pytest.mark.parametrize("plan", OPTIONAL_PLANS, ids=lambda plan: plan.model.name)
def test_without_its_plan_a_model_is_served_as_in_the_default_profile(plan: Plan) -> None:
    """config.pbtxt is what Triton takes when an export leaves configs/tensorrt.pbtxt out."""
    assert plan.source == DEFAULT_PROFILE
    plain, planned = (config_of(plan.model, each) for each in (DEFAULT_PROFILE, TENSORRT))
    assert plain.backend == "onnxruntime" and not plain.default_model_filename
    for field in ("max_batch_size", "input", "output", "dynamic_batching"):
        assert getattr(plain, field) == getattr(planned, field)


@pytest.mark.parametrize(
    ("profile", "check", "old", "new"),
    [
        (TENSORRT, check_graphs, "      { batch_size: 3 },\n", ""),
        (TENSORRT, check_graphs, "batch_size: 128\n    inputs", "batch_size: 64\n    inputs"),
        (TENSORRT, check_graphs, "{ batch_size: 8 }", "{ batch_size: 256 }"),
        (TENSORRT, check_graphs, "graphs: true", "graphs: false"),
        (
            TENSORRT,
            lambda text: check_batching(parsed(text)),
            "dynamic_batching {",
            "dynamic_batching { preferred_batch_size: [ 256 ]",
        ),
        (
            ONNX_CUDA,
            lambda text: check_batching(parsed(text)),
            "dynamic_batching {",
            "dynamic_batching { default_queue_policy { max_queue_size: 64 }",
        ),
        (ONNX_CUDA, check_cuda_options, '"use_tf32" value: "0"', '"use_tf32" value: "1"'),
        (ONNX_CUDA, check_cuda_options, "cudnn_conv_use_max_workspace", "arena_extend_strategy"),
        (
            ONNX_CUDA,
            check_cuda_options,
            '"cudnn_conv_algo_search" value { string_value: "1"',
            '"cudnn_conv_algo_search" value { string_value: "HEURISTIC"',
        ),
    ],
)
def test_planted_faults_are_caught(
    profile: Profile, check: Callable[[str], None], old: str, new: str
) -> None:
    text = path_of(CLIP_IMAGE, profile).read_text()
    check(text)
    assert old in text
    with pytest.raises(AssertionError):
        check(text.replace(old, new, 1))


@pytest.mark.parametrize("profile", GPU_PROFILES, ids=lambda profile: profile.name)
def test_a_planted_fault_in_the_largest_batch_is_caught(profile: Profile) -> None:
    text = path_of(CLIP_IMAGE, profile).read_text()
    with pytest.raises(AssertionError):
        check_contract(text.replace("size: 128", "size: 64", 1), CLIP_IMAGE, profile.max_batch)


@pytest.fixture
def one_decoder(tiny_repository: Path, tmp_path: Path) -> Path:
    """A copy that decodes in one process for a GPU too: on two cores 16 start for 15 s or more."""
    copy = shutil.copytree(tiny_repository, tmp_path / "repository")
    decoder = copy / contract.PREPROCESS.name / "configs" / f"{ONNX_CUDA.name}.pbtxt"
    decoder.write_text(re.sub(r"count: \d+", "count: 1", decoder.read_text()))
    return copy


@pytest.mark.triton
def test_without_a_gpu_a_profile_is_refused_by_name(one_decoder: Path) -> None:
    from aesthetic_serve import EmbeddedServer
    from aesthetic_serve.errors import ServeError

    with pytest.raises(ServeError, match="KIND_GPU but no GPUs are available"):
        EmbeddedServer(one_decoder, config_name=ONNX_CUDA.name).start()


@pytest.mark.triton
def test_onnx_cuda_serves_but_for_the_gpu(
    tiny_repository: Path, one_decoder: Path, photographs: list[Path]
) -> None:
    """With its KIND_GPU taken out, Triton takes every other line, and warms up at 128."""
    from aesthetic_serve import EmbeddedServer

    version = one_decoder / CLIP_IMAGE.name / "1"
    # The data file keeps its name: the ONNX file refers to it.
    (version / DEFAULT_PROFILE.artifact).rename(version / ONNX_CUDA.artifact)
    config = one_decoder / CLIP_IMAGE.name / "configs" / f"{ONNX_CUDA.name}.pbtxt"
    config.write_text(config.read_text().replace("kind: KIND_GPU ", ""))
    scores = {}
    for repository, name in ((tiny_repository, None), (one_decoder, ONNX_CUDA.name)):
        with (
            EmbeddedServer(repository, start_timeout_s=60, config_name=name) as server,
            Client(server.grpc_url) as client,
        ):
            scores[name] = [result.score for result in client.score_many(photographs[:4])]
    assert scores[ONNX_CUDA.name] == pytest.approx(scores[None], abs=1e-4)
