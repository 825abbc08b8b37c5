"""`pip install .` alone gives a client that scores: no torch, no Pillow, a few MB of our own."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from generated_images import encoded, texture

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.install, pytest.mark.timeout(600)]


def run(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=400, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment with the base install."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    run(sys.executable, "-m", "venv", folder)
    run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", wheel)
    return folder / "bin"


def test_the_wheel_carries_the_repository_and_is_small(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    packaged = "aesthetic_export/model_repository"
    for source in (ROOT / "model_repository").rglob("*"):
        tracked = source.suffix in (".pbtxt", ".py") or source.parent.name == "warmup"
        if source.is_file() and tracked and "__pycache__" not in source.parts:
            assert f"{packaged}/{source.relative_to(ROOT / 'model_repository')}" in names
    assert {
        "aesthetic_client/py.typed",
        "aesthetic_serve/backends/onnxruntime/model.py",
        "aesthetic_serve/backends/openvino/model.py",
        "aesthetic_serve/canary.jpg",
    } <= names
    assert not any(
        name.endswith((".onnx", ".pyc", ".nbi", ".nbc", ".safetensors")) for name in names
    )
    assert wheel.stat().st_size < 1_000_000  # sources alone; no artifact is that small


def test_the_base_install_has_neither_torch_nor_pillow(bare: Path) -> None:
    names = {
        line.split("==")[0].lower()
        for line in run(bare / "python", "-m", "pip", "freeze").stdout.splitlines()
    }
    assert "tritonclient" in names and "numpy" in names
    assert not names & {
        "torch",
        "pillow",
        "numba",
        "onnx",
        "onnxruntime",
        "nvidia-pytriton",
        "rich",
    }


@pytest.mark.triton
def test_the_base_install_scores(bare: Path, tiny_server: Any, tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(encoded(Image.fromarray(texture(90, 70, 3)), "JPEG"))
    for url in (tiny_server.grpc_url, tiny_server.http_url):
        table = run(bare / "aesthetic", "score", photo, "--url", url).stdout
        program = (
            "import sys\nfrom aesthetic_client import Client\n"
            "with Client(sys.argv[1]) as client: print(client.score(sys.argv[2]).score)"
        )
        score = float(run(bare / "python", "-c", program, url, photo).stdout)
        assert f"{score:.3f}" in table


def test_the_base_install_names_the_missing_extra(bare: Path) -> None:
    assert "serve" in run(bare / "aesthetic", "--help").stdout
    for command, extra in (("serve", "serve"), ("export", "export")):
        done = subprocess.run(
            [bare / "aesthetic", command], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 2
        assert f"pip install 'aesthetic-triton[{extra}]'" in done.stderr
        assert "Traceback" not in done.stderr
