"""The deployment files as data, and the programs that check them."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "serve" / "deploy"

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")


class Loader(yaml.SafeLoader):  # type: ignore[misc,name-defined]
    """YAML with Compose's `!reset`."""


Loader.add_constructor("!reset", lambda loader, node: None)


def documents(path: Path) -> list[dict[str, Any]]:
    """The YAML documents of a file."""
    return [part for part in yaml.load_all(path.read_text("utf-8"), Loader) if part is not None]


def document(path: Path) -> dict[str, Any]:
    (only,) = documents(path)
    return only


def program(name: str, package: str) -> str:
    """A program of this environment or of the machine; skips where there is none."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: pip install {package}")
    return found


def needs(module: str, package: str) -> Any:
    """A module of the `deploy-test` packages; skips where it is missing."""
    if importlib.util.find_spec(module.split(".")[0]) is None:
        pytest.skip(f"{module} is not installed: pip install {package}")
    return importlib.import_module(module)


def kustomize(folder: Path) -> list[dict[str, Any]]:
    """What `kubectl apply -k` would send."""
    for command in (["kubectl", "kustomize"], ["kustomize", "build"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, folder], capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            return [part for part in yaml.safe_load_all(done.stdout) if part]
    pytest.skip("neither kubectl nor kustomize is installed")


def manifests() -> Iterator[Path]:
    """Every YAML file of the deployment."""
    yield from sorted(path for path in DEPLOY.rglob("*.yaml"))
