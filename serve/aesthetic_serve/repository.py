"""Is the model repository there, and complete? Asked before starting, answered with a command."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from aesthetic_client import contract
from aesthetic_serve.errors import RepositoryError

# The server hands model names to a shell, so a folder's name must not mean anything there.
_PLAIN_NAME = re.compile(r"[\w.+-]+")


def check_repository(repository: Path, config_name: str | None = None) -> frozenset[str]:
    """The names of the models in it. Raises RepositoryError with what is missing, and the cure."""
    models = frozenset(_model_names(repository, config_name))
    if not models:
        state = "holds no model" if repository.is_dir() else "does not exist"
        raise RepositoryError(f"the model repository {repository} {state}; {_cure(repository)}")
    for name in sorted(models):
        if not _PLAIN_NAME.fullmatch(name):
            raise RepositoryError(
                f"model folder '{name}': use letters, digits, and . _ + - in a model's name"
            )
    missing = [part for model in contract.MODELS for part in _missing(repository, model, models)]
    if missing:
        raise RepositoryError(
            f"the model repository {repository} is not complete, it lacks "
            f"{', '.join(dict.fromkeys(missing))}; {_cure(repository)}"
        )
    return models


def _model_names(repository: Path, config_name: str | None) -> Iterator[str]:
    if not repository.is_dir():
        return
    configs = ["config.pbtxt", *([f"configs/{config_name}.pbtxt"] if config_name else [])]
    for folder in repository.iterdir():
        if any((folder / config).is_file() for config in configs):
            yield folder.name


def _missing(repository: Path, model: contract.Model, models: frozenset[str]) -> Iterator[str]:
    """What a contract model in the repository lacks; nothing for one that is not there at all."""
    if model.name not in models:
        return
    if model.steps:
        yield from (f"{step}/config.pbtxt" for step in model.steps if step not in models)
        if not _versions(repository / model.name):
            yield f"{model.name}/1/"  # an ensemble's version folder is empty, but must exist
        return
    # model.onnx, or model.plan under a GPU's config; a `.data` beside it is not the model itself.
    wanted = "model.py" if model == contract.PREPROCESS else "model.onnx"
    files = [f for v in _versions(repository / model.name) for f in v.glob("model.*")]
    if not any(file.suffix in (".py", ".onnx", ".plan", ".xml") for file in files):
        yield f"{model.name}/1/{wanted}"


def _versions(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and path.name.isdecimal()]


def _cure(repository: Path) -> str:
    return f"make it with: aesthetic export --repository {repository}"
