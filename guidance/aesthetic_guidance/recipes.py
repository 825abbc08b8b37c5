"""How a prompt is personalised, as settings. Without torch: commands and requests carry them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from aesthetic_client.errors import InputError

STEPS = 10
LEARNING_RATE = 1e-4
LARGEST_LEARNING_RATE = 1e30  # beyond, PyTorch's optimisers overflow
Optimizer = Literal["adam", "ascent"]


@dataclass(frozen=True)
class Recipe:
    """How to personalise. `weight` blends the hidden states: 0 the original's, 1 the personalised.

    `slerp` blends along the arc instead of the straight line; `negative` moves away from the
    embedding. Numbers of NumPy and PyTorch become Python's. Raises InputError for what makes no
    sense.
    """

    steps: int = STEPS
    lr: float = LEARNING_RATE
    optimizer: Optimizer = "adam"
    weight: float = 1.0
    slerp: bool = False
    negative: bool = False

    def __post_init__(self) -> None:
        self._convert(_whole, "steps")
        self._convert(_number, "lr", "weight")
        self._convert(_yes_or_no, "slerp", "negative")
        if self.steps < 0:
            raise InputError(f"steps={self.steps!r} is not a whole number from 0 on")
        if not 0 < self.lr <= LARGEST_LEARNING_RATE:
            raise InputError(
                f"lr={self.lr} is not a positive number up to {LARGEST_LEARNING_RATE:g}"
            )
        if self.optimizer not in get_args(Optimizer):
            names = ", ".join(get_args(Optimizer))
            raise InputError(f"optimizer={self.optimizer!r} is not one of {names}")
        check_share("weight", self.weight)

    def _convert(self, convert: Callable[[str, Any], object], *names: str) -> None:
        for name in names:
            object.__setattr__(self, name, convert(name, getattr(self, name)))


def check_share(name: str, value: float) -> None:
    """Raises InputError for what is not from 0 to 1."""
    if not 0 <= value <= 1:
        raise InputError(f"{name}={value} is not from 0 to 1")


def _whole(name: str, value: Any) -> int:
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise InputError(f"{name}={value!r} is not a whole number from 0 on")


def _number(name: str, value: Any) -> float:
    """A text is none, though float() reads it; nor is an integer larger than any float."""
    try:
        if not isinstance(value, (str, bytes, bytearray, bool, np.bool_)):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise InputError(f"{name}={value!r} is not a number")


def _yes_or_no(name: str, value: Any) -> bool:
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise InputError(f"{name}={value!r} is not True or False")
