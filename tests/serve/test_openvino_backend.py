"""The openvino backend inside the real server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from openvino_models import (
    FOUR_ONLY_IO,
    PRODUCT_IO,
    SIZE,
    four_only,
    parameter,
    product,
    weight,
    write_openvino,
)
from serve_models import SUM_AND_DIFFERENCE_IO, sum_and_difference, write_model
from serve_processes import wait_for

from aesthetic_serve import EmbeddedServer, StartError

pytestmark = pytest.mark.triton

TIMEOUT_S = 20
# Long enough for three requests of one thread to meet in one batch.
GATHER = "dynamic_batching { preferred_batch_size: [ 3 ] max_queue_delay_microseconds: 2000000 }"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[triton.InferenceServerClient]:
    models = tmp_path_factory.mktemp("models")
    write_openvino(models / "plain", PRODUCT_IO)
    named = 'default_model_filename: "model.bf16.xml"' + parameter("HINT_BF16", "YES")
    write_openvino(models / "bf16", f"{PRODUCT_IO} {named}", file="model.bf16.xml")
    unbatched = PRODUCT_IO.replace(f"[ {SIZE} ]", f"[ -1, {SIZE} ]")
    write_openvino(models / "unbatched", unbatched, batch=0)
    write_openvino(models / "four_only", f"{GATHER} {FOUR_ONLY_IO}", four_only)
    write_model(
        models / "onnx",
        'backend: "openvino" default_model_filename: "model.onnx" max_batch_size: 8'
        + SUM_AND_DIFFERENCE_IO,
        **sum_and_difference(),
    )
    with (
        EmbeddedServer(models, start_timeout_s=60) as server,
        triton.InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as client,
    ):
        yield client


def tensor(name: str, array: np.ndarray) -> triton.InferInput:
    given = triton.InferInput(
        name, list(array.shape), {"float32": "FP32", "int64": "INT64"}[array.dtype.name]
    )
    given.set_data_from_numpy(array)
    return given


def multiply(client: Any, model: str, x: np.ndarray) -> np.ndarray:
    result = client.infer(model, [tensor("x", x)], client_timeout=TIMEOUT_S)
    return result.as_numpy("y")


@pytest.mark.parametrize("model", ["plain", "unbatched"])
@pytest.mark.parametrize("rows", [1, 5, 8])
def test_a_batch_of_any_size_is_computed_in_fp32(client: Any, model: str, rows: int) -> None:
    x = np.random.default_rng(rows).standard_normal((rows, SIZE)).astype(np.float32)
    np.testing.assert_allclose(multiply(client, model, x), x @ weight(), rtol=1e-5, atol=1e-5)


def test_the_bfloat16_hint_reaches_openvino(client: Any) -> None:
    x = np.random.default_rng(0).standard_normal((4, SIZE)).astype(np.float32)
    difference = np.abs(multiply(client, "bf16", x) - x @ weight())
    assert difference.max() < 0.5
    if "avx512_bf16" in Path("/proc/cpuinfo").read_text():
        assert difference.max() > 1e-3


def test_onnx_files_are_served_too(client: Any) -> None:
    a, b = np.arange(12, dtype=np.float32).reshape(3, 4), np.full((3, 4), 10, np.float32)
    result = client.infer("onnx", [tensor("a", a), tensor("b", b)], client_timeout=TIMEOUT_S)
    np.testing.assert_array_equal(result.as_numpy("s"), a + b)
    np.testing.assert_array_equal(result.as_numpy("d"), a - b)


def test_requests_are_batched_and_the_bad_one_fails_alone(client: Any) -> None:
    def executions() -> int:
        (model,) = client.get_inference_statistics("four_only").model_stats
        return int(model.execution_count)

    answers: Queue[tuple[int, Any, Any]] = Queue()
    before = executions()
    for index, row in enumerate((4, 9, 4)):
        client.async_infer(
            "four_only",
            [tensor("row", np.array([[row]], np.int64))],
            lambda result, error, index=index: answers.put((index, result, error)),
            client_timeout=TIMEOUT_S,
        )
    got = {i: (result, error) for i, result, error in (answers.get(timeout=30) for _ in "123")}
    # Triton counts an execution after it has sent the answers.
    wait_for(lambda: executions() > before, "the execution counted")
    assert executions() - before == 1, "the three requests were to be one batch"
    for index in (0, 2):
        assert got[index][1] is None
        assert got[index][0].as_numpy("value").tolist() == [[14]]
    message = got[1][1].message()
    assert "openvino: " in message and "mismatch" in message
    assert not re.search(r"/\w+/|0x[0-9a-f]|\.cpp", message), f"a path or an address: {message}"


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (
            lambda folder: write_openvino(folder, PRODUCT_IO, lambda: product(batch=1)),
            r"first axis of model.xml's \[1, 64\] is fixed",
        ),
        (
            lambda folder: (
                write_openvino(folder, PRODUCT_IO),
                (folder / "1" / "model.xml").write_text("no model"),
            ),
            "openvino cannot open model.xml: ",
        ),
        (
            lambda folder: write_openvino(folder, PRODUCT_IO + parameter("TARGET_DEVICE", "GPU")),
            "parameter TARGET_DEVICE: this backend runs on the CPU, not 'GPU'",
        ),
    ],
    ids=["fixed batch", "no model", "another device"],
)
def test_what_cannot_be_served_ends_the_start(tmp_path: Path, broken: Any, words: str) -> None:
    broken(tmp_path / "product")
    with pytest.raises(StartError, match=f"unable to load model 'product': .*{words}"):
        EmbeddedServer(tmp_path, start_timeout_s=30).start()
