"""Triton Inference Server on this machine: started, supervised and stopped.

```python
from aesthetic_serve import EmbeddedServer

with EmbeddedServer(repository) as server:
    Client(server.grpc_url).score("photo.jpg")
```
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aesthetic_serve.errors import (
        GaveUpError,
        PortError,
        RepositoryError,
        ServeError,
        SetupError,
        StartError,
    )
    from aesthetic_serve.server import EmbeddedServer

__all__ = [
    "EmbeddedServer",
    "GaveUpError",
    "PortError",
    "RepositoryError",
    "ServeError",
    "SetupError",
    "StartError",
]


def __getattr__(name: str) -> Any:
    # Lazy, because Triton's Python processes import this package for its backend alone.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "server" if name == "EmbeddedServer" else "errors"
    return getattr(importlib.import_module(f"aesthetic_serve.{home}"), name)
