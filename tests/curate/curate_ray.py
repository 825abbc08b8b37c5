"""A small Ray on this machine, with a token of its own, that reports to nobody."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# Without one, Ray keeps one in ~/.ray; a process remembers the first that it used.
TOKEN = secrets.token_hex(32)

# Ray warns of its own doings; what is ours stays an error.
RAY_WARNINGS = (
    "ignore::DeprecationWarning:ray",
    "ignore::ResourceWarning:ray",
)


@contextmanager
def local_ray(cpus: int = 2) -> Iterator[None]:
    """Ray with so many workers, its files in a temporary folder."""
    import ray

    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: sockets lie in it
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environment.setenv("RAY_AUTH_TOKEN", TOKEN)
        environment.delenv("RAY_ADDRESS", raising=False)
        try:
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=100 * 2**20,
                _temp_dir=str(folder),
            )
            yield
        finally:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)
