"""Model folders that change all at once: staged beside the old ones, then renamed over them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from aesthetic_client.contract import AddOn
from aesthetic_client.errors import InputError

# Siblings of MODEL while it changes; hidden, and swept by the next export if one is interrupted.
_PARTIAL = ".{name}.partial-{pid}"  # the new one, growing
_OLD = ".{name}.old"  # the one before, for the moment between two renames
# Built, or left by tools: never part of a model's source.
_NOT_SOURCE = shutil.ignore_patterns(
    "__pycache__",
    "*.pyc",
    ".*",
    "*.onnx",
    "*.onnx.data",
    "*.plan",
    "*.safetensors",
    "provenance*.json",
)


def source_repository() -> Path:
    """The hand-written model repository: inside an installed package, or in its checkout.

    Raises InputError where there is neither.
    """
    here = Path(__file__).resolve().parent
    for candidate in (here / "model_repository", here.parents[1] / "model_repository"):
        if candidate.is_dir():
            return candidate
    raise InputError("the model configurations are not installed; install aesthetic-triton again")


def source_models(source: Path, add_ons: Iterable[AddOn] = ()) -> dict[str, Path]:
    """The hand-written models by name, and those of `add_ons`, which lie one folder deeper."""
    found = list(source.glob("*/config.pbtxt"))
    for add_on in add_ons:
        found += source.glob(f"{add_on.name}/*/config.pbtxt")
    return {path.parent.name: path.parent for path in found}


def check_target(target: Path, source: Path) -> None:
    """Raises InputError when `target` is the source or within it, or no folder at all."""
    resolved, origin = target.resolve(), source.resolve()
    if resolved == origin or origin in resolved.parents:
        raise InputError(
            f"{target} holds the model configurations' source, which is never written to; "
            "name another folder with --repository"
        )
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file; name a folder with --repository")


@contextlib.contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Make `target` and hold it: one export writes to a repository at a time.

    What an interrupted export has left is mended first. A folder made here and still empty at the
    end is removed. Raises InputError when another export is at work there.
    """
    made = not target.exists()
    target.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(target, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another export is writing to {target}; wait for it") from None
        _sweep(target)
        yield
    finally:
        if made and not any(target.iterdir()):
            target.rmdir()
        os.close(descriptor)


@contextlib.contextmanager
def staged(target: Path, names: list[str], remove: Iterable[str] = ()) -> Iterator[dict[str, Path]]:
    """A new, absent folder for each model; at the end they replace `target/NAME`, all or none.

    Models to `remove` go then too. When the block raises, nothing of `target` has changed and
    nothing is left behind.
    """
    stages = {name: target / _PARTIAL.format(name=name, pid=os.getpid()) for name in names}
    try:
        yield stages
        for name in remove:
            _remove(target / name)
        for name, stage in stages.items():
            _replace(target / name, stage)
    finally:
        for stage in stages.values():
            shutil.rmtree(stage, ignore_errors=True)


def copy_model(source: Path, stage: Path) -> Path:
    """Copy one model's source folder to `stage`; returns its version folder.

    Triton wants one even for an ensemble, whose version folder is empty.
    """
    shutil.copytree(source, stage, ignore=_NOT_SOURCE)
    version = stage / "1"
    version.mkdir(exist_ok=True)
    return version


def link_file(source: Path, folder: Path) -> None:
    """`source` in `folder` too, without a copy of its bytes where the file system can."""
    try:
        os.link(source, folder / source.name)
    except OSError:
        shutil.copy2(source, folder / source.name)


def _replace(final: Path, stage: Path) -> None:
    old = final.with_name(_OLD.format(name=final.name))
    if final.exists():
        final.rename(old)
    stage.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def _remove(final: Path) -> None:
    if final.exists():
        # named as what an interrupted export leaves behind, so that the next one sweeps it
        gone = final.rename(final.with_name(_PARTIAL.format(name=final.name, pid=os.getpid())))
        shutil.rmtree(gone, ignore_errors=True)


def _sweep(target: Path) -> None:
    for partial in target.glob(_PARTIAL.format(name="*", pid="*")):
        shutil.rmtree(partial)
    for old in target.glob(_OLD.format(name="*")):
        final = old.with_name(old.name[1 : -len(".old")])
        if final.exists():
            shutil.rmtree(old)
        else:  # interrupted between two renames
            old.rename(final)
