"""A Triton model config's `parameters`: strings, read as what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from aesthetic_serve.backends.signature import ConfigError

Value = TypeVar("Value")


def parameters(config: Mapping[str, Any]) -> dict[str, str]:
    """The config's `parameters` as plain strings."""
    given: Mapping[str, Any] = config.get("parameters") or {}
    return {key: str(value.get("string_value", "")) for key, value in given.items()}


def count(given: Mapping[str, str], key: str, default: int = 0) -> int:
    """A number of threads or the like, from 0. Raises ConfigError for anything else."""
    text = given.get(key, str(default))
    if not text.isdecimal():
        raise ConfigError(f"parameter {key} must be a whole number from 0, not '{text}'")
    return int(text)


def choice(
    given: Mapping[str, str], key: str, values: Mapping[str, Value], *, default: Value
) -> Value:
    """What the text means by `values`, whose keys are lower-case. Raises ConfigError."""
    text = given.get(key)
    if text is None:
        return default
    if text.lower() not in values:
        raise ConfigError(f"parameter {key} must be one of {', '.join(values)}, not '{text}'")
    return values[text.lower()]
