"""Heads that users fit themselves, as files: what `aesthetic guide fit` writes and export adds.

A safetensors file with `layers.N.weight` (outputs, inputs) and `layers.N.bias` (outputs,), from 0
on, float32 or float64. Its metadata has `format`, the head's `name` and `kind` ("affine": no
activation between the layers, "relu_mlp": ReLU after each but the last), and what else its maker
knows, as strings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from aesthetic_client import contract
from aesthetic_client.errors import InputError
from aesthetic_export.files import PinnedFile, sha256_of
from aesthetic_export.heads import Array, HeadSource, HeadWeights, Kind

FORMAT = "aesthetic-head-1"
FITTED = "fitted"  # the `weights` of such a head,
FITTED_ON_SEEDED = f"fitted on a tower whose weights are {contract.SEEDED_WEIGHTS}"  # or this
_KINDS: dict[str, Kind] = {"affine": "affine", "relu_mlp": "relu_mlp"}
_TOWER_WEIGHTS = f"{contract.PROVENANCE_PREFIX}weights"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._+-]{0,63}")
_RESERVED = frozenset(
    tensor.name
    for model in (*contract.MODELS, *contract.OPTIONAL_MODELS)
    for tensor in (*model.inputs, *model.outputs)
)


def fitted_head(
    name: str,
    kind: Kind,
    layers: Sequence[tuple[Array, Array]],
    file: PinnedFile | None = None,
    weights: str = FITTED,
) -> HeadWeights:
    """A head of one's own from its layers: (outputs, inputs) weights and (outputs,) biases.

    Raises InputError for a name that cannot be served, or layers that do not chain from 768 to 1.
    """
    check_name(name)
    shapes = tuple((weight.shape[0], weight.shape[1]) for weight, _ in layers)
    widths = [contract.EMBEDDING_DIM, *(outputs for outputs, _ in shapes)]
    chained = [inputs for _, inputs in shapes] == widths[:-1] and widths[-1] == 1
    biases = [bias.shape for _, bias in layers] == [(outputs,) for outputs, _ in shapes]
    if not (layers and chained and biases):
        raise InputError(f"the head {name} has layers {shapes}, expected a chain from 768 to 1")
    if not all(np.isfinite(array).all() for layer in layers for array in layer):
        raise InputError(f"the head {name} has weights that are NaN or infinite")
    source = HeadSource(name, file or PinnedFile(f"{name}.safetensors", "", ""), "", kind, shapes)
    wide = tuple((weight.astype(np.float64), bias.astype(np.float64)) for weight, bias in layers)
    return HeadWeights(source, wide, weights)


def check_name(name: str) -> None:
    """Raises InputError for what cannot name a served output, or names one of ours."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} cannot name a head: begin with a letter, then letters, digits and . _ + -, "
            "64 in all"
        )
    if contract.output_name(name) in _RESERVED or name in {head.name for head in contract.HEADS}:
        raise InputError(f"{name!r} is the name of a tensor or head that is served already")


def write_head(path: Path, head: HeadWeights, known: Mapping[str, str]) -> None:
    """The head as a file, affine ones in float64, others in float32; `known` joins its metadata.

    Raises InputError for a path that does not end in .safetensors.
    """
    from safetensors.numpy import save_file

    if path.suffix != ".safetensors":
        raise InputError(f"{path}: name a file that ends in .safetensors")
    dtype = np.float64 if head.source.kind == "affine" else np.float32
    tensors = {}
    for number, (weight, bias) in enumerate(head.layers):
        tensors[f"layers.{number}.weight"] = np.ascontiguousarray(weight, dtype)
        tensors[f"layers.{number}.bias"] = np.ascontiguousarray(bias, dtype)
    named = {"format": FORMAT, "name": head.source.name, "kind": head.source.kind}
    partial = path.with_name(f"{path.name}.partial")
    save_file(tensors, partial, {**known, **named})
    partial.replace(path)


def read_head(path: Path) -> HeadWeights:
    """The head of a file. Raises InputError for a file that is no head, and says why."""
    metadata, tensors = _read(path)
    if metadata.get("format") != FORMAT or metadata.get("kind") not in _KINDS:
        raise InputError(f"{path} is no head file; `aesthetic guide fit` writes them")
    count = len(tensors) // 2
    names = [(f"layers.{at}.weight", f"layers.{at}.bias") for at in range(count)]
    if sorted(tensors) != sorted(name for pair in names for name in pair) or any(
        tensors[weight].ndim != 2 for weight, _ in names
    ):
        raise InputError(f"{path} has tensors {sorted(tensors)}, expected layers.0.weight, ...")
    layers = [(tensors[weight], tensors[bias]) for weight, bias in names]
    itself = PinnedFile(path.name, "", sha256_of(path), path.stat().st_size)
    seeded = contract.SEEDED_WEIGHTS in metadata.get(_TOWER_WEIGHTS, "")
    weights = FITTED_ON_SEEDED if seeded else FITTED
    return fitted_head(metadata.get("name", ""), _KINDS[metadata["kind"]], layers, itself, weights)


def tower_of(path: Path) -> dict[str, str]:
    """The provenance of the tower that a head was fitted on, {} where its file does not say."""
    metadata = _read(path)[0]
    if _TOWER_WEIGHTS not in metadata:
        return {}
    prefix = contract.PROVENANCE_PREFIX
    return {key.removeprefix(prefix): text for key, text in metadata.items() if prefix in key}


def _read(path: Path) -> tuple[dict[str, str], dict[str, Array]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
            return file.metadata() or {}, tensors
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a readable safetensors file ({error})") from None
