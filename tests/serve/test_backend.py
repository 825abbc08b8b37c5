"""The onnxruntime backend inside the real server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from onnx import helper
from serve_models import (
    LOOKUP_IO,
    SUM_AND_DIFFERENCE_IO,
    lookup,
    sum_and_difference,
    write_model,
)
from serve_processes import processes_of, wait_for
from tritonclient.utils import InferenceServerException

from aesthetic_serve import EmbeddedServer, StartError

pytestmark = pytest.mark.triton

TIMEOUT_S = 20
# Long enough for four requests of one thread to meet in one batch.
GATHER = "dynamic_batching { preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 2000000 }"


def write_models(repository: Path) -> None:
    """Every kind of model and config that the backend knows, in one repository."""
    adder = sum_and_difference()
    io = SUM_AND_DIFFERENCE_IO
    write_model(repository / "backend", f'backend: "onnxruntime" max_batch_size: 8 {io}', **adder)
    write_model(
        repository / "platform",
        f'platform: "onnxruntime_onnx" default_model_filename: "adder.onnx" max_batch_size: 8 {io}',
        file="adder.onnx",
        **adder,
    )
    write_model(
        repository / "unbatched",
        f'backend: "onnxruntime" max_batch_size: 0 {io}'.replace("[ 4 ]", "[ -1, 4 ]"),
        **adder,
    )
    write_model(
        repository / "any_size",
        f'backend: "onnxruntime" max_batch_size: 8 {io}'.replace("[ 4 ]", "[ -1 ]"),
        **sum_and_difference(size="M"),
    )
    write_model(
        repository / "two_instances",
        f'backend: "onnxruntime" max_batch_size: 8 {io}'.replace(
            "{ count: 1 }", "{ count: 2 kind: KIND_CPU }"
        ),
        **adder,
    )
    for count in (1, 3):
        parameter = (
            f'parameters {{ key: "intra_op_thread_count" value {{ string_value: "{count}" }} }}'
        )
        write_model(
            repository / f"threads_{count}",
            f'backend: "onnxruntime" max_batch_size: 8 {io} {parameter}'
            'parameters { key: "provenance.weights" value { string_value: "x" } }'
            "optimization { graph { level: 1 } }",
            **adder,
        )
    write_model(
        repository / "lookup",
        f'backend: "onnxruntime" max_batch_size: 8 {GATHER} {LOOKUP_IO}',
        **lookup(),
    )
    write_model(
        repository / "echo",
        'backend: "onnxruntime" max_batch_size: 8 instance_group [ { count: 1 } ]'
        'input [ { name: "text" data_type: TYPE_STRING dims: [ 1 ] } ]'
        'output [ { name: "same" data_type: TYPE_STRING dims: [ 1 ] } ]',
        nodes=[helper.make_node("Identity", ["text"], ["same"])],
        inputs=[("text", 8, ["N", 1])],
        outputs=[("same", 8, ["N", 1])],
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    repository = tmp_path_factory.mktemp("models")
    write_models(repository)
    with EmbeddedServer(repository, start_timeout_s=60) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: EmbeddedServer) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as client:
        yield client


def tensor(name: str, array: np.ndarray) -> triton.InferInput:
    kinds = {"float32": "FP32", "int64": "INT64", "object": "BYTES"}
    given = triton.InferInput(name, list(array.shape), kinds[array.dtype.name])
    given.set_data_from_numpy(array)
    return given


def add(client: Any, model: str, a: np.ndarray, b: np.ndarray, *outputs: str) -> Any:
    asked = [triton.InferRequestedOutput(name) for name in outputs] or None
    return client.infer(
        model, [tensor("a", a), tensor("b", b)], outputs=asked, client_timeout=TIMEOUT_S
    )


@pytest.mark.parametrize("model", ["backend", "platform", "unbatched", "two_instances", "any_size"])
def test_inputs_and_outputs_are_told_apart(client: Any, model: str) -> None:
    a, b = np.arange(12, dtype=np.float32).reshape(3, 4), np.full((3, 4), 10, np.float32)
    result = add(client, model, a, b)
    np.testing.assert_array_equal(result.as_numpy("s"), a + b)
    np.testing.assert_array_equal(result.as_numpy("d"), a - b)


def test_a_free_dimension_takes_any_size(client: Any) -> None:
    for size in (1, 7):
        a = np.ones((2, size), np.float32)
        assert add(client, "any_size", a, a).as_numpy("s").shape == (2, size)


def test_only_requested_outputs_are_returned(client: Any) -> None:
    a = np.ones((1, 4), np.float32)
    result = add(client, "backend", a, a, "d")
    assert [output.name for output in result.get_response().outputs] == ["d"]


def test_strings_pass(client: Any) -> None:
    words = np.array([["grün".encode()], [b""]], np.object_)
    result = client.infer("echo", [tensor("text", words)], client_timeout=TIMEOUT_S)
    assert result.as_numpy("same").tolist() == words.tolist()


def test_requests_are_batched_and_the_bad_one_fails_alone(client: Any) -> None:
    def executions() -> int:
        (model,) = client.get_inference_statistics("lookup").model_stats
        return int(model.execution_count)

    answers: Queue[tuple[int, Any, Any]] = Queue()
    before = executions()
    for row in (0, 9, 2, 3):
        client.async_infer(
            "lookup",
            [tensor("row", np.array([[row]], np.int64))],
            lambda result, error, row=row: answers.put((row, result, error)),
            client_timeout=TIMEOUT_S,
        )
    got = {row: (result, error) for row, result, error in (answers.get(timeout=30) for _ in "1234")}
    # Triton counts an execution after it has sent the answers.
    wait_for(lambda: executions() > before, "the execution counted")
    assert executions() - before == 1, "the four requests were to be one batch"
    for row in (0, 2, 3):
        assert got[row][1] is None
        assert got[row][0].as_numpy("value").tolist() == [[10 + row]]
    message = got[9][1].message()
    assert "idx=9" in message
    assert not re.search(r"/\w+/|0x[0-9a-f]", message), f"a path or an address: {message}"
    assert "Traceback" not in message


def test_wrong_sizes_are_refused_by_the_server(client: Any) -> None:
    with pytest.raises(InferenceServerException, match=r"\[1,5\]|\[5\]"):
        a = np.ones((1, 5), np.float32)
        add(client, "backend", a, a)


def stub_threads(server: EmbeddedServer, instance: str) -> int:
    import os

    for pid in processes_of(os.getpid()):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if words[0].endswith(b"stub") and instance.encode() in words:
            return len(list(Path(f"/proc/{pid}/task").iterdir()))
    raise AssertionError(f"no process for {instance}")


def test_the_thread_parameter_reaches_onnx_runtime(server: EmbeddedServer) -> None:
    # ONNX Runtime starts one thread less than the count; the caller is the other.
    assert stub_threads(server, "threads_3_0_0") - stub_threads(server, "threads_1_0_0") == 2


def test_each_instance_has_its_process(server: EmbeddedServer) -> None:
    assert stub_threads(server, "two_instances_0_0") > 0
    assert stub_threads(server, "two_instances_0_1") > 0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            {"io": SUM_AND_DIFFERENCE_IO.replace("[ 4 ]", "[ 5 ]")},
            r"input 'a': config.pbtxt says \[-1, 5\] with the batch axis, model.onnx has \[-1, 4\]",
        ),
        (
            {"io": SUM_AND_DIFFERENCE_IO.replace("TYPE_FP32", "TYPE_FP16")},
            "input 'a': config.pbtxt says TYPE_FP16, model.onnx has TYPE_FP32",
        ),
        (
            {"io": SUM_AND_DIFFERENCE_IO.replace('"s"', '"sum"')},
            "config.pbtxt has output 'sum', model.onnx has 'd', 's'",
        ),
        ({"batch": 1}, r"first axis of model.onnx's \[1, 4\] is fixed"),
        ({"file": "other.onnx"}, r"there is no 1/model\.onnx in the model's folder"),
        (
            {"extra": 'parameters { key: "execution_mode" value { string_value: "7" } }'},
            "parameter execution_mode must be one of 0, 1, not '7'",
        ),
    ],
)
def test_a_config_that_does_not_fit_ends_the_start(
    tmp_path: Path, wrong: dict[str, Any], words: str
) -> None:
    io, extra = wrong.get("io", SUM_AND_DIFFERENCE_IO), wrong.get("extra", "")
    write_model(
        tmp_path / "adder",
        f'backend: "onnxruntime" max_batch_size: 8 {io} {extra}',
        file=wrong.get("file", "model.onnx"),
        **sum_and_difference(batch=wrong.get("batch", "N")),
    )
    with pytest.raises(StartError, match=f"unable to load model 'adder': .*{words}"):
        EmbeddedServer(tmp_path, start_timeout_s=30).start()


def test_a_gpu_instance_is_refused(tmp_path: Path) -> None:
    io = SUM_AND_DIFFERENCE_IO.replace("count: 1", "count: 1 kind: KIND_GPU")
    write_model(
        tmp_path / "adder",
        f'backend: "onnxruntime" max_batch_size: 8 {io}',
        **sum_and_difference(),
    )
    with pytest.raises(StartError, match="KIND_GPU"):
        EmbeddedServer(tmp_path, start_timeout_s=30).start()


def test_a_file_that_is_no_model_ends_the_start(tmp_path: Path) -> None:
    config = f'backend: "onnxruntime" max_batch_size: 8 {SUM_AND_DIFFERENCE_IO}'
    write_model(tmp_path / "adder", config, **sum_and_difference())
    (tmp_path / "adder" / "1" / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(StartError, match=r"unable to load model 'adder': .*model\.onnx"):
        EmbeddedServer(tmp_path, start_timeout_s=30).start()
