"""A web server for downloads, fp16 exports, and a C compiler for stand-in libraries."""

from __future__ import annotations

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

import onnx
import pytest
import torch
from torch import nn

from aesthetic_client import contract
from aesthetic_export import repository
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
