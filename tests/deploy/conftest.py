"""The container's package, and the deployment's main files."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from deploy_files import DEPLOY, document

sys.path.insert(0, str(DEPLOY / "container"))  # as the image's working directory does


@pytest.fixture(scope="session")
def compose() -> dict[str, Any]:
    return document(DEPLOY / "compose.yaml")


@pytest.fixture(scope="session")
def dashboard() -> dict[str, Any]:
    text = (DEPLOY / "grafana" / "dashboards" / "aesthetic-triton.json").read_text("utf-8")
    return dict(json.loads(text))
