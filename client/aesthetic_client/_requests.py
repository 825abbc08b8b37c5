"""A request for any model of the contract, from values that are checked against it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesthetic_client._wire import Request, Rows
from aesthetic_client.contract import ADD_ONS, DType, Model, Tensor
from aesthetic_client.errors import InputError, NotServedError

_NUMPY: dict[DType, type[np.generic]] = {
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP32": np.float32,
}


def model_request(
    model: Model, inputs: Mapping[str, Any], outputs: Iterable[str] | None = None
) -> Request:
    """A request for `outputs`, or all of them. Numbers are neither cast nor copied.

    Ensembles are asked for everything: Triton would drop a step none of whose outputs is asked for.
    Raises InputError for names, types, dims and batches other than the contract's.
    """
    wanted = [tensor.name for tensor in model.inputs]
    if not isinstance(inputs, Mapping):
        kind = type(inputs).__name__
        raise InputError(f"{model.name} takes a mapping of {_listed(wanted)}; got {kind}")
    if set(inputs) != set(wanted):
        raise InputError(f"{model.name} takes {_listed(wanted)}; got {_listed(inputs)}")
    rows = tuple(_rows(tensor, inputs[tensor.name]) for tensor in model.inputs)
    counts = {part.tensor.name: len(part) for part in rows}
    if len(set(counts.values())) != 1:
        listed = _listed(f"{count} of {name}" for name, count in counts.items())
        raise InputError(f"{model.name} takes as many of one input as of the others; got {listed}")
    count = len(rows[0])
    if not 1 <= count <= model.max_batch:
        raise InputError(f"{model.name} takes 1 to {model.max_batch} items a request, got {count}")
    asked = asked_outputs(model, outputs)
    if model.steps:
        asked = asked_outputs(model, None)
    return Request(model.name, rows, asked)


@contextmanager
def add_on_named(model: Model) -> Iterator[None]:
    """A NotServedError about a model of an add-on says how that is added."""
    try:
        yield
    except NotServedError as error:
        names = [add_on.name for add_on in ADD_ONS if model in add_on.models]
        if not names:
            raise
        raise NotServedError(
            f"{error.message}; {model.name} is added with `aesthetic export --with {names[0]}`"
        ) from error


def asked_outputs(model: Model, outputs: Iterable[str] | None) -> tuple[str, ...]:
    """The names in `outputs`, or of all of the model's. Raises InputError for an unknown one."""
    known = tuple(tensor.name for tensor in model.outputs)
    if outputs is None:
        return known
    if isinstance(outputs, str) or not isinstance(outputs, Iterable):
        outputs = (outputs,)
    asked = list(outputs)
    if not asked or not all(isinstance(name, str) and name in known for name in asked):
        raise InputError(f"{model.name} gives {_listed(known)}; asked for {_listed(asked)}")
    return tuple(dict.fromkeys(asked))


def _rows(tensor: Tensor, values: Any) -> Rows:
    if tensor.dtype == "BYTES":
        return Rows(tensor, _elements(tensor.name, values))
    array = _array(tensor, values)
    fits = array.ndim == 1 + len(tensor.dims) and all(
        wanted in (-1, found) for wanted, found in zip(tensor.dims, array.shape[1:], strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if dim < 0 else str(dim) for dim in tensor.dims)
        raise InputError(f"{tensor.name}: expected shape (n, {wanted}), got {array.shape}")
    return Rows(Tensor(tensor.name, tensor.dtype, array.shape[1:]), array)


def _array(tensor: Tensor, values: Any) -> NDArray[Any]:
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{tensor.name}: not an array: {error}") from None
    if array.dtype != (expected := np.dtype(_NUMPY[tensor.dtype])):
        raise InputError(f"{tensor.name}: expected {expected}, got {array.dtype}: cast it first")
    return array


def _elements(name: str, values: Any) -> list[bytes]:
    """One `bytes` an item, of n or (n, 1) `bytes` or `str`."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        kind = type(values).__name__
        raise InputError(f"{name}: expected a sequence of bytes or str, got {kind}")
    if isinstance(values, np.ndarray) and values.shape[1:] == (1,):
        values = values[:, 0]
    return [_element(f"{name}[{row}]", value) for row, value in enumerate(values)]


def _element(position: str, value: object) -> bytes:
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise InputError("a str that UTF-8 cannot encode", position=position) from None
    if not isinstance(value, bytes):
        kind = type(value).__name__
        raise InputError(f"expected bytes or str, got {kind}", position=position)
    return value


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(str, names)) or "nothing"
