"""A web server for downloads, fp16 exports, a C compiler, and a GPU that is made up of it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import fake_gpu
import onnx
import pytest
import torch
from tensorrt_exports import FITTING
from torch import nn

from aesthetic_client import contract, plans
from aesthetic_export import cuda, exporting, repository, sources
from aesthetic_export.half import HalfTower
from aesthetic_export.modules import ClipImage
from aesthetic_export.onnx_export import onnx_from_module
from towers import tiny_tower


class FileServer(NamedTuple):
    url: str
    folder: Path
    requests: list[tuple[str, str | None]]  # path, Range header


class _Handler(SimpleHTTPRequestHandler):
    """Sends files and ranges of them. Under /cut/ a whole file breaks off half-way."""

    def __init__(self, *args: object, log: list[tuple[str, str | None]], **kwargs: object) -> None:
        self.requests = log
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.requests.append((self.path, wanted))
        if self.path == "/busy":
            return self.send_error(503)
        path = Path(self.translate_path(self.path.removeprefix("/cut")))
        if not path.is_file():
            return self.send_error(404)
        data = path.read_bytes()
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        stop = len(data) // 2 if self.path.startswith("/cut/") and not wanted else len(data)
        self.wfile.write(data[start:stop])

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture(scope="session", autouse=True)
def remembered_exports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """`build_repository` exports equal modules to ONNX once: seconds each, some sixty times."""
    folder = tmp_path_factory.mktemp("remembered")
    made: dict[str, tuple[Path, ...]] = {}

    def remembering(
        module: nn.Module, model: contract.Model, target: Path, **options: Any
    ) -> tuple[Path, ...]:
        metadata = options.pop("metadata", None) or {}
        key = _content_of(module, model, options)
        if key not in made:
            (folder / key).mkdir()
            made[key] = onnx_from_module(module, model, folder / key, **options)
        graph = onnx.load(str(made[key][0]), load_external_data=False)
        onnx.helper.set_model_props(graph, dict(metadata))
        (target / made[key][0].name).write_bytes(graph.SerializeToString())
        for data in made[key][1:]:
            shutil.copy(data, target)
        return tuple(target / path.name for path in made[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repository, "onnx_from_module", remembering)
        yield


def _content_of(module: nn.Module, model: contract.Model, options: dict[str, Any]) -> str:
    """A hash of everything that an export depends on."""
    content = hashlib.sha256(f"{module!r} {model} {options}".encode())
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return content.hexdigest()


@pytest.fixture
def file_server(tmp_path: Path) -> Iterator[FileServer]:
    """A web server on this machine, over an empty folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    log: list[tuple[str, str | None]] = []
    handler = partial(_Handler, directory=str(folder), log=log)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield FileServer(f"http://127.0.0.1:{server.server_port}", folder, log)
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def full_fp16_repository(
    full_repository: Path,
    shared_data: Path,
    photographs: list[Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """full_repository with the fp16 tower beside the fp32 one, added by the command; a minute."""
    folder = tmp_path_factory.mktemp("full-fp16")
    (folder / "images").mkdir()
    for path in photographs[:3]:  # ONNX Runtime computes fp16 slowly on a CPU
        shutil.copy(path, folder / "images")
    target = shutil.copytree(full_repository, folder / "repository", copy_function=os.link)
    done = subprocess.run(
        [
            *(sys.executable, "-W", "error", "-m", "aesthetic_client.cli", "export"),
            *("--weights", "seeded:0", "--repository", target, "--precision", "fp16"),
            *("--model", "clip_image", "--weights-dir", shared_data / "heads"),
            *("--images", folder / "images"),
        ],
        env={**os.environ, "AESTHETIC_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="session")
def half_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny tower's fp16 ONNX file."""
    folder = tmp_path_factory.mktemp("half")
    path, _ = onnx_from_module(
        ClipImage(HalfTower(tiny_tower().module)),
        contract.CLIP_IMAGE,
        folder,
        artifact=contract.ONNX_CUDA.artifact,
        external_data=True,
    )
    return path


@pytest.fixture(scope="session")
def compile_c(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """C source to a shared library of that name."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) to make stand-ins for NVIDIA's libraries with")

    def compiled(name: str, source: str) -> Path:
        folder = tmp_path_factory.mktemp("library")
        (folder / "source.c").write_text(source)
        options = ("-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", folder / name)
        subprocess.run([compiler, *options, folder / "source.c"], check=True)
        return folder / name

    return compiled


@pytest.fixture(scope="session")
def driver(compile_c: Callable[..., Path]) -> Path:
    """The made-up GPU's driver, as a shared library."""
    return compile_c("libtestcuda.so.1", fake_gpu.DRIVER)


@pytest.fixture
def machine(driver: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ctypes.CDLL]:
    """A GPU, TensorRT, tiny towers, a cache of its own. Nothing may be left on the GPU."""
    library = ctypes.CDLL(str(driver))
    monkeypatch.setattr(cuda, "LIBRARY", str(driver))
    monkeypatch.setattr(exporting, "load_tensorrt", fake_gpu.FakeTensorRT)
    monkeypatch.setattr(sources, "seeded_tower", tiny_tower)
    monkeypatch.setattr(plans, "this_machine", lambda: FITTING)
    monkeypatch.setenv("AESTHETIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AESTHETIC_WEIGHTS_DIR", raising=False)
    yield library
    assert ctypes.c_int.in_dll(library, "live").value == 0


@pytest.fixture(scope="session")
def planned(
    driver: Path, tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A repository to which the command has added what was missing and the plans; its stderr."""
    folder = tmp_path_factory.mktemp("planned")
    target = shutil.copytree(tiny_repository, folder / "repository")
    code = (
        "import sys; import fake_gpu, towers\n"
        "from aesthetic_client import cli\n"
        "from aesthetic_export import cuda, exporting, sources\n"
        f"cuda.LIBRARY = {str(driver)!r}\n"
        "exporting.load_tensorrt = fake_gpu.FakeTensorRT\n"
        "sources.seeded_tower = towers.tiny_tower\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    options = ("--target", "tensorrt", "--weights", "seeded:0", "--head-weights", "seeded:0")
    tests = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, "export", "--repository", target, *options],
        env={
            **os.environ,
            "AESTHETIC_CACHE": str(folder / "cache"),
            "PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{target}\n"
    return target, done.stderr


@pytest.fixture
def again(planned: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of `planned`, to be changed."""
    return shutil.copytree(planned[0], tmp_path / "again")
