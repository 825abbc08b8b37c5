"""What the tests of the launcher share."""

from __future__ import annotations

from pathlib import Path

import pytest
from serve_models import SUM_AND_DIFFERENCE_IO, sum_and_difference, write_model


@pytest.fixture(scope="session")
def scoring_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's own models over a toy tower; not to be changed."""
    from serve_models import write_scoring_repository

    return write_scoring_repository(tmp_path_factory.mktemp("scoring") / "repository")


@pytest.fixture
def adder_repository(tmp_path: Path) -> Path:
    """One small model that is none of the project's."""
    config = f'backend: "onnxruntime" max_batch_size: 8 {SUM_AND_DIFFERENCE_IO}'
    write_model(tmp_path / "repository" / "adder", config, **sum_and_difference())
    return tmp_path / "repository"
