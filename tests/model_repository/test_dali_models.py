"""The optional DALI models: their configs, and the whole way of a file on the real Triton."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from dali_parts import DALI_SOURCE, NOT_FOR_DALI, add_dali_models, further_images
from repository_configs import (
    COMPOSING,
    SOURCE,
    check_batching,
    check_contract,
    check_style,
    check_warmup,
    check_wiring,
    config_of,
    parsed,
)
from tritonclient import grpc
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException

from aesthetic_client import contract
from aesthetic_client.contract import (
    AESTHETIC,
    AESTHETIC_DALI,
    DALI,
    DALI_DECODE,
    PREPROCESS_DALI,
    Model,
)
from aesthetic_client.pixels import prepare_pixels
from generated_images import generated

KIND = model_config_pb2.ModelInstanceGroup.Kind


def text_of(model: Model) -> str:
    return (DALI_SOURCE / model.name / "config.pbtxt").read_text()


def test_the_folder_holds_the_optional_models_and_no_others() -> None:
    folders = {path.name for path in DALI_SOURCE.iterdir() if path.is_dir()}
    assert folders == {model.name for model in DALI.models}
    assert not {model.name for model in DALI.models} & {m.name for m in contract.MODELS}


@pytest.mark.parametrize("model", DALI.models, ids=lambda model: model.name)
def test_config_equals_the_contract(model: Model) -> None:
    check_contract(text_of(model), model, model.max_batch)
    check_style(text_of(model))
    assert (DALI_SOURCE / model.name / "1").is_dir(), "Triton wants a version folder"


def test_the_ensemble_answers_as_aesthetic_does() -> None:
    composing = {part.name: part for part in (*COMPOSING, PREPROCESS_DALI)}
    check_wiring(parsed(text_of(AESTHETIC_DALI)), AESTHETIC_DALI, composing)
    for each in (AESTHETIC_DALI.inputs, AESTHETIC_DALI.outputs, AESTHETIC_DALI.max_batch):
        assert each in (AESTHETIC.inputs, AESTHETIC.outputs, AESTHETIC.max_batch)
    for step in AESTHETIC_DALI.steps:
        assert AESTHETIC_DALI.max_batch <= contract.model_named(step).max_batch


def test_dali_decode_takes_ragged_batches_on_a_gpu() -> None:
    config = parsed(text_of(DALI_DECODE))
    assert config.backend == "dali" and config.default_model_filename == "dali.py"
    assert [field.allow_ragged_batch for field in config.input] == [True]
    check_batching(config)
    (group,) = config.instance_group
    assert group.kind == KIND.KIND_GPU and group.count == 1


def test_dali_decode_warms_up_with_the_image_of_preprocess() -> None:
    config = parsed(text_of(DALI_DECODE))
    assert check_warmup(config, DALI_DECODE) == [1]
    sample = config.model_warmup[0].inputs[contract.ENCODED.name]
    data = (DALI_SOURCE / DALI_DECODE.name / "warmup" / sample.input_data_file).read_bytes()
    assert list(sample.dims) == [len(data)]
    # Without the length that a BYTES tensor begins with.
    assert data == (SOURCE / "preprocess" / "warmup" / "image").read_bytes()[4:]


def test_the_router_accepts_what_preprocess_accepts() -> None:
    config = parsed(text_of(PREPROCESS_DALI))
    check_batching(config)
    accepting = dict(config_of(contract.PREPROCESS).parameters)
    for how in ("mode", "provenance.preprocessing"):  # that model's own way to decode
        accepting.pop(how)
    assert dict(config.parameters) == accepting
    (group,) = config.instance_group
    assert group.kind == KIND.KIND_CPU
    # Each process waits for one batch: together they must be able to fill DALI's.
    assert group.count * PREPROCESS_DALI.max_batch >= DALI_DECODE.max_batch


# --- the whole way, on the real Triton --------------------------------------------------------


@pytest.fixture(scope="module", params=["pillow", "dali"])
def url(
    request: pytest.FixtureRequest,
    tiny_repository: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """The tiny tower with the DALI models; Triton's DALI backend has a Python stand-in."""
    from aesthetic_serve import EmbeddedServer

    if request.param == "dali" and importlib.util.find_spec("nvidia.dali") is None:
        pytest.skip("DALI is not installed: pip install nvidia-dali-cuda130")
    copy = shutil.copytree(tiny_repository, tmp_path_factory.mktemp("dali") / "repository")
    add_dali_models(copy, request.param)
    with EmbeddedServer(copy, start_timeout_s=60) as server:
        yield server.grpc_url.removeprefix("grpc://")


def ask(client: grpc.InferenceServerClient, model: Model, files: list[bytes]) -> list[object]:
    """What becomes of each file, 32 at once, one a request: an array or the error's text."""
    name = model.outputs[0].name

    def one(data: bytes) -> object:
        image = grpc.InferInput(contract.IMAGE.name, [1, 1], "BYTES")
        image.set_data_from_numpy(np.array([[data]], dtype=object))
        try:
            return client.infer(model.name, [image]).as_numpy(name)[0]
        except InferenceServerException as error:
            return str(error.message())

    with ThreadPoolExecutor(32) as pool:
        return list(pool.map(one, files))


def decoded(client: grpc.InferenceServerClient) -> tuple[int, int]:
    """(images answered, batches run) by `dali_decode` so far."""
    (model,) = client.get_inference_statistics(DALI_DECODE.name, as_json=True)["model_stats"]
    return int(model.get("inference_count", 0)), int(model.get("execution_count", 0))


@pytest.mark.triton
def test_files_are_decoded_in_batches_and_equal_the_references(url: str) -> None:
    files = dict([*generated(), *further_images()])
    with grpc.InferenceServerClient(url) as client:
        before = decoded(client)
        results = ask(client, PREPROCESS_DALI, list(files.values()))
        expected = len(files) - len(NOT_FOR_DALI)
        deadline = time.monotonic() + 10  # Triton counts after it has sent the answers
        while decoded(client)[0] - before[0] < expected and time.monotonic() < deadline:
            time.sleep(0.05)
        images, batches = (now - then for now, then in zip(decoded(client), before, strict=True))
    for (name, data), pixels in zip(files.items(), results, strict=True):
        assert isinstance(pixels, np.ndarray), f"{name}: {pixels}"
        difference = np.abs(pixels.astype(int) - prepare_pixels(data))
        assert difference.max() <= (0 if name in NOT_FOR_DALI else 2), name
    assert images == expected
    assert batches < images, "one request an image, and yet batches"


@pytest.mark.triton
def test_a_corrupt_file_fails_alone(url: str) -> None:
    """It passes for whole, fails its batch, and its neighbours are decoded by the CPU."""
    files = dict(further_images())
    data = files["checkerboard.png"]
    broken = data[: len(data) // 2] + bytes(50) + data[-12:]
    good = [files["sampling-0.jpg"], files["profile.png"], files["thin.jpg"]]
    sent = [*good, broken, *good, data[:200], *good]
    with grpc.InferenceServerClient(url) as client:
        results = ask(client, PREPROCESS_DALI, sent)
        same = ask(client, contract.PREPROCESS, [broken, data[:200]])
    for data, result in zip(sent, results, strict=True):
        if data in good:
            assert isinstance(result, np.ndarray), result
            assert np.abs(result.astype(int) - prepare_pixels(data)).max() <= 2
    assert [results[3], results[7]] == same
    assert all(isinstance(message, str) and "broken or cut off" in message for message in same)


@pytest.mark.triton
def test_scores_equal_those_of_aesthetic(url: str, photographs: list[Path]) -> None:
    files = [path.read_bytes() for path in photographs]
    with grpc.InferenceServerClient(url) as client:
        by_dali = ask(client, AESTHETIC_DALI, files)
        by_cpu = ask(client, AESTHETIC, files)
    # The tiny tower exaggerates: see test_dali_parity.
    np.testing.assert_allclose(np.array(by_dali), np.array(by_cpu), atol=0.1)


@pytest.mark.triton
def test_several_images_in_a_request(url: str) -> None:
    files = dict(generated())
    names = ["444.jpg", "mode-P.png", "500x333.png"]
    image = grpc.InferInput(contract.IMAGE.name, [3, 1], "BYTES")
    image.set_data_from_numpy(np.array([[files[name]] for name in names], dtype=object))
    with grpc.InferenceServerClient(url) as client:
        pixels = client.infer(PREPROCESS_DALI.name, [image]).as_numpy(contract.PIXELS.name)
        assert pixels.shape == (3, *contract.PIXELS.dims)
        for name, each in zip(names, pixels, strict=True):
            assert np.abs(each.astype(int) - prepare_pixels(files[name])).max() <= 2
        image.set_data_from_numpy(np.array([[files[names[0]]], [b"no"], [b""]], dtype=object))
        with pytest.raises(InferenceServerException, match="not an image file"):
            client.infer(PREPROCESS_DALI.name, [image])
