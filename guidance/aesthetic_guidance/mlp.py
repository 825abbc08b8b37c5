"""Heads fitted to ratings by a small network, in the shape of the improved aesthetic predictor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aesthetic_client.contract import EMBEDDING_DIM
from aesthetic_export.head_files import check_name, fitted_head
from aesthetic_guidance.fitting import (
    FOLDS,
    FittedHead,
    checked_ratings,
    fold_numbers,
    rating_report,
)
from aesthetic_guidance.statistics import Array

if TYPE_CHECKING:
    import torch

Layers = list[tuple[Array, Array]]


@dataclass(frozen=True)
class MlpSettings:
    """Widths and dropout as published (christophschuhmann/improved-aesthetic-predictor,
    simple_inference.py), with the ReLU between layers that its `reluMSE` weights have.

    Adam's `lr`; training stops after `patience` epochs without a smaller error on the `watched`
    share of the training rows, at `epochs` at the latest, and the best epoch is kept.
    """

    widths: tuple[int, ...] = (1024, 128, 64, 16)
    dropout: tuple[float, ...] = (0.2, 0.2, 0.1, 0.0)
    lr: float = 1e-3
    batch: int = 256
    epochs: int = 200
    patience: int = 12
    watched: float = 0.1


def fit_mlp(
    embeddings: NDArray[Any],
    ratings: NDArray[Any],
    *,
    name: str,
    folds: int = FOLDS,
    seed: int = 0,
    groups: Sequence[object] | None = None,
    model: Mapping[str, Any] | None = None,
    settings: MlpSettings | None = None,
) -> FittedHead:
    """A network of five layers for `ratings` (n,) of `embeddings` (n, 768), normalised first.

    Trained once a fold for the held-out figures, and once on everything. Below a few thousand
    ratings ridge is usually as good: compare their reports. Raises as fit_ridge does.
    """
    check_name(name)
    settings = settings or MlpSettings()
    x, y = checked_ratings(embeddings, ratings, folds)
    numbers = fold_numbers(range(len(y)) if groups is None else groups, folds, seed)
    held_out = np.empty(len(y))
    for number in range(folds):
        out = numbers == number
        held_out[out] = _applied(_trained(x[~out], y[~out], settings, seed), x[out])
    report = rating_report("MLP", held_out, y, folds, seed, {})
    layers = _trained(x, y, settings, seed)
    return FittedHead(fitted_head(name, "relu_mlp", layers), report, dict(model or {}))


def _trained(x: Array, y: Array, settings: MlpSettings, seed: int) -> Layers:
    """The layers of the best epoch, which take embeddings and give ratings as they are."""
    import torch

    centre, spread = x.mean(axis=0), float(x.std(axis=0).mean()) or 1.0
    level, deviation = float(y.mean()), float(y.std()) or 1.0
    inputs = torch.from_numpy((x - centre) / spread).float()
    targets = torch.from_numpy((y - level) / deviation).float()[:, None]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(settings)
        _train(network, inputs, targets, settings)
    layers: Layers = [
        (layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy())
        for layer in network
        if isinstance(layer, torch.nn.Linear)
    ]
    # Standardisation becomes part of the outer layers: the served head takes plain embeddings.
    weight, bias = layers[0]
    layers[0] = weight / spread, bias - weight @ centre / spread
    weight, bias = layers[-1]
    layers[-1] = weight * deviation, bias * deviation + level
    return layers


def _network(settings: MlpSettings) -> torch.nn.Sequential:
    from torch import nn

    parts: list[nn.Module] = []
    inputs = EMBEDDING_DIM
    for width, dropout in zip(settings.widths, settings.dropout, strict=True):
        parts += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(dropout)]
        inputs = width
    return nn.Sequential(*parts, nn.Linear(inputs, 1))


def _train(
    network: torch.nn.Sequential, x: torch.Tensor, y: torch.Tensor, settings: MlpSettings
) -> None:
    """Leaves the network with its best epoch's weights, in eval mode."""
    import torch
    from torch.nn import functional

    order = torch.randperm(len(x))
    watched = order[: max(1, round(settings.watched * len(x)))]
    used = order[len(watched) :]
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.lr)
    best, best_state, waited = float("inf"), network.state_dict(), 0
    for _ in range(settings.epochs):
        network.train()
        shuffled = used[torch.randperm(len(used))]
        for start in range(0, len(used), settings.batch):
            batch = shuffled[start : start + settings.batch]
            optimizer.zero_grad()
            loss = functional.mse_loss(network(x[batch]), y[batch])
            torch.autograd.backward(loss)
            optimizer.step()
        network.eval()
        with torch.no_grad():
            error = float(functional.mse_loss(network(x[watched]), y[watched]))
        if error < best:
            best, waited = error, 0
            best_state = {name: value.clone() for name, value in network.state_dict().items()}
        elif (waited := waited + 1) >= settings.patience:
            break
    network.load_state_dict(best_state)
    network.eval()


def _applied(layers: Layers, x: Array) -> Array:
    for weight, bias in layers[:-1]:
        x = np.maximum(x @ weight.T + bias, 0)
    weight, bias = layers[-1]
    predicted: Array = (x @ weight.T + bias)[:, 0]
    return predicted
