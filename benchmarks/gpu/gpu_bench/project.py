"""The project's own modules, from the checkout, on a machine where nothing of it is installed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

CLIENT = Path(__file__).parents[3] / "client"


def project_module(name: str) -> ModuleType:
    """`aesthetic_client.NAME` for a module that needs neither tritonclient nor a network.

    Where the package itself cannot be imported for want of tritonclient, its modules are taken from
    their folder without running its `__init__`. Raises ImportError.
    """
    if str(CLIENT) not in sys.path:
        sys.path.append(str(CLIENT))
    try:
        importlib.import_module("aesthetic_client")
    except ImportError:
        bare = ModuleType("aesthetic_client")
        bare.__path__ = [str(CLIENT / "aesthetic_client")]
        sys.modules["aesthetic_client"] = bare
    return importlib.import_module(f"aesthetic_client.{name}")
