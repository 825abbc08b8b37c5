"""Adapters import what Triton's container has plus the client package's contract and pixels."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ADAPTERS = sorted((Path(__file__).parents[2] / "model_repository").glob("*/1/*.py"))
ALLOWED = {
    *("json", "numpy", "triton_python_backend_utils"),
    *(f"aesthetic_client.{name}" for name in ("contract", "pixels", "errors")),
}


def test_there_are_adapters() -> None:
    assert [path.parent.parent.name for path in ADAPTERS] == ["preprocess"]


@pytest.mark.parametrize("path", ADAPTERS, ids=lambda path: path.parent.parent.name)
def test_imports(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module))
    assert imported <= ALLOWED
