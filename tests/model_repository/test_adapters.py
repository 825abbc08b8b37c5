"""Adapters import what Triton's container has plus the client package's contract and pixels."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "model_repository"
DALI_PIPELINE = SOURCE / "dali" / "dali_decode" / "1" / "dali.py"
ADAPTERS = sorted(set(SOURCE.glob("**/1/*.py")) - {DALI_PIPELINE})
ALLOWED = {
    *("asyncio", "collections.abc", "json", "numpy", "triton_python_backend_utils"),
    *(f"aesthetic_client.{name}" for name in ("contract", "pixels", "errors")),
    "dali_routing",  # a sibling
}


def test_there_are_adapters() -> None:
    assert [str(path.relative_to(SOURCE)) for path in ADAPTERS] == [
        *("dali/preprocess_dali/1/dali_routing.py", "dali/preprocess_dali/1/model.py"),
        "preprocess/1/model.py",
    ]


def imports_of(path: Path) -> set[str]:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module))
    return imported


@pytest.mark.parametrize(
    "path", ADAPTERS, ids=lambda path: f"{path.parent.parent.name}/{path.stem}"
)
def test_imports(path: Path) -> None:
    assert imports_of(path) <= ALLOWED


def test_the_dali_pipeline_imports_dali_alone() -> None:
    """Triton's DALI backend runs it with a Python that has nothing else."""
    assert imports_of(DALI_PIPELINE) == {"nvidia.dali", "nvidia.dali.plugin.triton"}
