"""The published aesthetic heads: where each comes from, how it is read, what it computes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from aesthetic_client import contract
from aesthetic_client.errors import InputError
from aesthetic_export.files import FileStore, PinnedFile, checked

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[np.float64]
# affine: linear layers without activation between them. relu_mlp: ReLU after each but the last.
# scaled_affine: one linear layer on sqrt(768) times its own L2 normalisation of the input.
Kind = Literal["affine", "relu_mlp", "scaled_affine"]

_FIVE_LAYERS = ((1024, 768), (128, 1024), (64, 128), (16, 64), (1, 16))
_ONE_LAYER = ((1, 768),)
_SEEDED_SPREAD = 16.0  # the length of a seeded head's folded weight; the default head's is 18


@dataclass(frozen=True)
class HeadSource:
    """A published head as data. `shapes` are its linear layers' (outputs, inputs), in order."""

    name: str
    file: PinnedFile
    licence: str
    kind: Kind
    shapes: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class HeadWeights:
    """A head's layers, unfolded: float64 (outputs, inputs) weights and (outputs,) biases."""

    source: HeadSource
    layers: tuple[tuple[Array, Array], ...]
    weights: str = "published"
    seed: int | None = None

    @property
    def seeded(self) -> bool:
        return self.weights == contract.SEEDED_WEIGHTS


def _raw(repository: str, commit: str, path: str, sha256: str, size_bytes: int) -> PinnedFile:
    url = f"https://raw.githubusercontent.com/{repository}/{commit}/{path.replace('+', '%2B')}"
    return PinnedFile(path.rsplit("/", 1)[-1], url, sha256, size_bytes)


_IMPROVED = (
    "christophschuhmann/improved-aesthetic-predictor",
    "6934dd81792f086e613a121dbce43082cb8be85e",
)
_LAION = ("LAION-AI/aesthetic-predictor", "6d122adad522ab246644d9dc1c6d7a3810ee255f")
_SIMULACRA = (
    "crowsonkb/simulacra-aesthetic-models",
    "701f7678b305acf8a0634350365a86beb95dd87d",
)

HEAD_SOURCES: dict[str, HeadSource] = {
    source.name: source
    for source in (
        HeadSource(
            "sac+logos+ava1-l14-linearMSE",
            _raw(
                *_IMPROVED,
                "sac+logos+ava1-l14-linearMSE.pth",
                "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
                3714759,
            ),
            "Apache-2.0",
            "affine",
            _FIVE_LAYERS,
        ),
        HeadSource(
            "ava+logos-l14-linearMSE",
            _raw(
                *_IMPROVED,
                "ava+logos-l14-linearMSE.pth",
                "390a3aafaf3b37d57148f9b22f30556de38343064b7d915acfa80d3812b4c9ff",
                3714759,
            ),
            "Apache-2.0",
            "affine",
            _FIVE_LAYERS,
        ),
        HeadSource(
            "ava+logos-l14-reluMSE",
            _raw(
                *_IMPROVED,
                "ava+logos-l14-reluMSE.pth",
                "0af3254c651d55b7ea851429c20f26ec880bb0169805a4df85b814bd7966f3e4",
                3714887,
            ),
            "Apache-2.0",
            "relu_mlp",
            _FIVE_LAYERS,
        ),
        HeadSource(
            "sa_0_4_vit_l_14_linear",
            _raw(
                *_LAION,
                "sa_0_4_vit_l_14_linear.pth",
                "2cd4e60f4f24ae3bcd57b847b13c1f3ba27edc28cc1a7f9ce74ee9f421243cba",
                4071,
            ),
            "MIT",
            "affine",
            _ONE_LAYER,
        ),
        HeadSource(
            "sac_public_2022_06_29_vit_l_14_linear",
            _raw(
                *_SIMULACRA,
                "models/sac_public_2022_06_29_vit_l_14_linear.pth",
                "f77d1d0f4bb04b0ff8e60c5747fd0bfff0cc4a85263a6106627522c06eae85c6",
                4135,
            ),
            "MIT",
            "scaled_affine",
            _ONE_LAYER,
        ),
    )
}


def published_heads(store: FileStore) -> tuple[HeadWeights, ...]:
    """Every head of the contract, in its order, with its published weights.

    Raises InputError: WrongFileError for a hash, UnreachableError for a silent host.
    """
    return tuple(_published(HEAD_SOURCES[head.name], store) for head in contract.HEADS)


def seeded_heads(seed: int) -> tuple[HeadWeights, ...]:
    """Heads of the true shapes and kinds with random weights, marked as such.

    Scores spread around 5 by a few units, as real ones do, so that comparisons mean something.
    """
    random = np.random.default_rng(seed)

    def layers(source: HeadSource) -> tuple[tuple[Array, Array], ...]:
        drawn = []
        for outputs, inputs in source.shapes:
            gain = _SEEDED_SPREAD if inputs == contract.EMBEDDING_DIM else 1.0
            weight = random.standard_normal((outputs, inputs)) * gain / np.sqrt(inputs)
            drawn.append((weight.astype(np.float32).astype(np.float64), np.zeros(outputs)))
        drawn[-1] = (drawn[-1][0], np.full(1, 5.0))
        return tuple(drawn)

    return tuple(
        HeadWeights(source, layers(source), contract.SEEDED_WEIGHTS, seed)
        for source in (HEAD_SOURCES[head.name] for head in contract.HEADS)
    )


def layers_from_state(
    state: Mapping[str, torch.Tensor], source: HeadSource
) -> tuple[tuple[Array, Array], ...]:
    """The linear layers of a head's state dict, in order, as float64.

    Raises InputError when they are not the published ones' names and shapes.
    """

    def position(name: str) -> int:  # layers.11.weight -> 11; a head of one layer has no number
        number = re.search(r"\d+", name)
        return int(number[0]) if number else 0

    weights = sorted((name for name in state if name.endswith("weight")), key=position)
    shapes = tuple(tuple(state[name].shape) for name in weights)
    biases = [f"{name.removesuffix('weight')}bias" for name in weights]
    if shapes != source.shapes or sorted([*weights, *biases]) != sorted(state):
        raise InputError(f"{source.file.name} has layers {shapes}, expected {source.shapes}")
    return tuple(
        (state[weight].double().numpy(), state[bias].double().numpy())
        for weight, bias in zip(weights, biases, strict=True)
    )


def fold(head: HeadWeights) -> tuple[Array, float]:
    """An affine head as one weight (768,) and one bias, both float64.

    `scaled_affine` heads get their sqrt(768) folded in; their normalisation stays with the caller.
    Raises ValueError for a head that is not affine.
    """
    if head.source.kind == "relu_mlp":
        raise ValueError(f"{head.source.name} has activations; it cannot be folded")
    weight = np.eye(contract.EMBEDDING_DIM)
    bias = np.zeros(contract.EMBEDDING_DIM)
    for layer_weight, layer_bias in head.layers:
        weight, bias = layer_weight @ weight, layer_weight @ bias + layer_bias
    if head.source.kind == "scaled_affine":
        weight = weight * np.sqrt(contract.EMBEDDING_DIM)
    return weight[0], float(bias[0])


def _published(source: HeadSource, store: FileStore) -> HeadWeights:
    """One head, from its safetensors in the cache, which is made on first use."""
    from safetensors.torch import save_file

    from aesthetic_export.checkpoints import read_pickle

    given = store.local(source.file.name)
    if given:
        checked(given, source.file.sha256)  # before the cache: a wrong file is never passed over
    converted = store.cache / "heads" / f"{source.file.sha256}.safetensors"
    if (state := _read_converted(converted)) is None:
        state = dict(read_pickle(given or store.obtain(source.file)))
        layers_from_state(state, source)  # refuse before anything is kept
        converted.parent.mkdir(parents=True, exist_ok=True)
        partial = converted.with_suffix(".partial")
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, partial)
        partial.replace(converted)
    return HeadWeights(source, layers_from_state(state, source))


def _read_converted(path: Path) -> dict[str, torch.Tensor] | None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (FileNotFoundError, SafetensorError):
        return None  # absent or damaged: made anew
