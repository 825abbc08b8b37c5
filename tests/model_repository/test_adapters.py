"""Adapters import what Triton's container has plus the client package's contract and pixels."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "model_repository"
DALI_PIPELINE = SOURCE / "dali" / "dali_decode" / "1" / "dali.py"
ADAPTERS = sorted(set(SOURCE.glob("**/1/*.py")) - {DALI_PIPELINE})
ALLOWED = {
    *("asyncio", "collections.abc", "ctypes", "json", "numpy", "pathlib"),
    "triton_python_backend_utils",
    *(f"aesthetic_client.{name}" for name in ("contract", "pixels", "tokenizer", "errors")),
    "dali_routing",  # a sibling
}
# Aesthetic gradients have one home, which needs torch; so does this model where it serves.
PERSONALIZE = SOURCE / "personalize" / "aesthetic_personalize" / "1" / "model.py"
ALLOWED_WITH_TORCH = {
    *ALLOWED,
    *("torch", "warnings", "aesthetic_client.vectors", "aesthetic_export.text_weights"),
    *(f"aesthetic_guidance.{name}" for name in ("personalize", "recipe_json", "text_models")),
}


def test_there_are_adapters() -> None:
    assert [str(path.relative_to(SOURCE)) for path in ADAPTERS] == [
        *("dali/preprocess_dali/1/dali_routing.py", "dali/preprocess_dali/1/model.py"),
        "personalize/aesthetic_personalize/1/model.py",
        "preprocess/1/model.py",
        "text/tokenize/1/model.py",
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
    assert imports_of(path) <= (ALLOWED_WITH_TORCH if path == PERSONALIZE else ALLOWED)


def test_the_dali_pipeline_imports_dali_alone() -> None:
    """Triton's DALI backend runs it with a Python that has nothing else."""
    assert imports_of(DALI_PIPELINE) == {"nvidia.dali", "nvidia.dali.plugin.triton"}
