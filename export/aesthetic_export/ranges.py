"""How near a module's fp16 numbers come to 65504, the largest that fp16 holds: every one of them.

Two figures. `value`: the largest fp16 result of any operation. `sum`: the largest sum of absolute
products, sum |a||b|, of any matrix product or convolution: no order of summation, and no split of
it, can pass through anything larger. Below the limit even fp16 accumulators would not overflow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

LIMIT = 65504.0

_aten = torch.ops.aten
_PRODUCTS: dict[Any, Callable[..., torch.Tensor]] = {
    _aten.mm.default: lambda a, b: a.abs() @ b.abs(),
    _aten.bmm.default: lambda a, b: a.abs() @ b.abs(),
    _aten.addmm.default: lambda c, a, b: c.abs() + a.abs() @ b.abs(),
    _aten.convolution.default: lambda image, weight, bias, *rest: _aten.convolution.default(
        image.abs(), weight.abs(), None if bias is None else bias.abs(), *rest
    ),
}


@dataclass(frozen=True)
class Ranges:
    """The largest magnitudes, and the operation that had them. `operations` were looked at."""

    value: float
    value_of: str
    sum: float
    sum_of: str
    operations: int

    def __bool__(self) -> bool:
        """Whether every fp16 number is one. False for a NaN too.

        `sum` has no part in it: above the limit it takes fp32 accumulators, which are the rule.
        """
        return self.value <= LIMIT

    def summary(self) -> str:
        return (
            f"fp16 values up to {self.value:.0f} ({self.value_of}), sums of products up to "
            f"{self.sum:.0f} ({self.sum_of}), of {LIMIT:.0f}"
        )

    def as_dict(self) -> dict[str, object]:
        return {"limit": LIMIT, **asdict(self)}


def ranges_of(module: nn.Module, *inputs: torch.Tensor) -> Ranges:
    """Run `module` on the CPU and look at every operation whose result is fp16."""
    return run_watched(module, *inputs)[1]


def run_watched(module: nn.Module, *inputs: torch.Tensor) -> tuple[torch.Tensor, Ranges]:
    """The module's output too. Matrix products are summed in fp32 and rounded to fp16 once."""
    watch = _Watch()
    with torch.no_grad(), watch:
        output = module(*inputs)
    value, value_of = watch.value
    product, sum_of = watch.sum
    return output, Ranges(value, value_of, product, sum_of, watch.operations)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.value, self.sum = (0.0, "none"), (0.0, "none")
        self.operations = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        half = any(isinstance(arg, torch.Tensor) and arg.dtype == torch.float16 for arg in args)
        if not (half and function in _PRODUCTS):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.dtype == torch.float16:
                self._note(result, function)
            return result
        # As tensor cores do it: fp32 sums, rounded once. A CPU's own fp16 would take minutes.
        exact = [arg.float() if isinstance(arg, torch.Tensor) else arg for arg in args]
        result = function(*exact).half()
        self.sum = _larger(self.sum, _PRODUCTS[function](*exact), self._note(result, function))
        return result

    def _note(self, result: torch.Tensor, function: Any) -> str:
        self.operations += 1
        name = f"{function.overloadpacket.__name__} {self.operations}"
        self.value = _larger(self.value, result, name)
        return name


def _larger(known: tuple[float, str], tensor: torch.Tensor, name: str) -> tuple[float, str]:
    largest = float(tensor.float().abs().max())
    if not known[0] < math.inf or largest <= known[0]:  # the first inf or NaN stays
        return known
    return largest, name
