"""Heads fitted to one person's ratings: ridge regression, and what held-out ratings say of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesthetic_client.contract import EMBEDDING_DIM, SEEDED_WEIGHTS
from aesthetic_client.errors import EmbeddingError, InputError
from aesthetic_client.vectors import one_vector
from aesthetic_export.head_files import check_name, fitted_head, write_head
from aesthetic_export.heads import HeadWeights
from aesthetic_export.provenance import metadata_of
from aesthetic_guidance.statistics import Array, r_squared, rmse, spearman

FOLDS = 5
# Ridge penalties tried, in units of the mean variance along an axis of embedding space times n.
PENALTIES = np.logspace(-6, 3, 28)


@dataclass(frozen=True, eq=False)
class FitReport:
    """What held-out folds say of a fit. `figures` have names for people.

    `predicted` and `actual` (n,) are held-out predictions and what they should have been: ratings,
    or the chance that the first of a pair is preferred and whether it was. A penalty is chosen on
    the same folds, which flatters the figures a little: it is one number, from all the data.
    """

    method: str
    items: int
    folds: int
    seed: int
    figures: Mapping[str, float]
    predicted: Array
    actual: Array
    notes: tuple[str, ...] = ()
    labels: tuple[str, str] = ("held-out prediction", "rating")

    def summary(self) -> list[str]:
        """Lines for people."""
        figures = ", ".join(f"{name} {value:.4g}" for name, value in self.figures.items())
        return [
            f"{self.method} on {self.items} items; {self.folds} held-out folds say:",
            figures,
            *self.notes,
        ]


@dataclass(frozen=True, eq=False)
class FittedHead:
    """A fitted head, its report, and the provenance of the tower whose embeddings it was fitted on.

    Another tower's embeddings mean something else: a head is of use with its own alone.
    """

    weights: HeadWeights
    report: FitReport
    model: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.weights.source.name

    @property
    def seeded(self) -> bool:
        """Whether the tower's weights were random: the scores then mean nothing."""
        return SEEDED_WEIGHTS in str(self.model.get("weights", ""))

    def score(self, embeddings: NDArray[Any]) -> Array:
        """Scores (n,) of embeddings (n, 768), in float64; only their directions count."""
        value = unit_rows(embeddings)
        for weight, bias in self.weights.layers[:-1]:
            value = value @ weight.T + bias
            if self.weights.source.kind == "relu_mlp":
                value = np.maximum(value, 0)
        weight, bias = self.weights.layers[-1]
        scores: Array = (value @ weight.T + bias)[:, 0]
        return scores

    def write(self, path: Path) -> None:
        """As the file that `aesthetic export --add-head` takes; its metadata has the report."""
        report = {
            "method": self.report.method,
            "items": self.report.items,
            "folds": self.report.folds,
            "seed": self.report.seed,
            **self.report.figures,
        }
        known = {"report": json.dumps(report), **metadata_of(self.model)}
        write_head(Path(path), self.weights, known)


def fit_ridge(
    embeddings: NDArray[Any],
    ratings: NDArray[Any],
    *,
    name: str,
    folds: int = FOLDS,
    seed: int = 0,
    groups: Sequence[object] | None = None,
    model: Mapping[str, Any] | None = None,
) -> FittedHead:
    """A linear head for `ratings` (n,) of `embeddings` (n, 768), which are normalised first.

    Ridge regression (Hoerl and Kennard, 1970) with an unpenalised bias, in float64. One
    eigendecomposition a fold solves it for every penalty (Hastie et al., The Elements of
    Statistical Learning, 3.4.1); the one with the smallest held-out error is taken. Rows of one
    `groups` value, ratings of the same image for example, are held out together.
    Raises InputError for too few or constant ratings, EmbeddingError for bad embeddings.
    """
    check_name(name)
    x, y = checked_ratings(embeddings, ratings, folds)
    numbers = fold_numbers(range(len(y)) if groups is None else groups, folds, seed)
    held_out = np.empty((len(y), len(PENALTIES)))
    for number in range(folds):
        out = numbers == number
        weights, biases = _ridge_path(x[~out], y[~out])
        held_out[out] = x[out] @ weights + biases
    errors = np.mean((held_out - y[:, None]) ** 2, axis=0)
    best = int(np.argmin(errors))
    weights, biases = _ridge_path(x, y)
    layer = (weights[:, best][None], biases[best : best + 1])
    notes: tuple[str, ...] = ()
    if errors[best] >= y.var():
        notes = ("the held-out error is no smaller than that of the mean rating: nothing learnt",)
    report = rating_report(
        "ridge", held_out[:, best], y, folds, seed, {"penalty": float(PENALTIES[best])}, notes
    )
    return FittedHead(fitted_head(name, "affine", [layer]), report, dict(model or {}))


def rating_report(
    method: str,
    predicted: Array,
    actual: Array,
    folds: int,
    seed: int,
    further: Mapping[str, float],
    notes: tuple[str, ...] = (),
) -> FitReport:
    """The figures of held-out predictions of ratings."""
    figures = {
        "Spearman": spearman(predicted, actual),
        "RMSE": rmse(predicted, actual),
        "R2": r_squared(predicted, actual),
        "ratings' standard deviation": float(actual.std()),
        **further,
    }
    return FitReport(method, len(actual), folds, seed, figures, predicted, actual, notes)


def fold_numbers(groups: Sequence[object] | range, folds: int, seed: int) -> NDArray[np.int64]:
    """The fold (n,) of each row, 0 to folds - 1: groups stay together, at random by `seed`.

    Raises InputError for fewer groups than folds.
    """
    if folds < 2:
        raise InputError(f"held-out figures need 2 folds or more, got {folds}")
    rows: dict[object, int] = {}
    ids = np.array([rows.setdefault(group, len(rows)) for group in groups], dtype=np.int64)
    if len(rows) < folds:
        raise InputError(f"{len(rows)} different images are too few for {folds} folds")
    shuffled = np.random.default_rng(seed).permutation(len(rows))
    numbers: NDArray[np.int64] = shuffled[ids] % folds
    return numbers


def checked_ratings(
    embeddings: NDArray[Any], ratings: NDArray[Any], folds: int
) -> tuple[Array, Array]:
    """Unit rows (n, 768) and ratings (n,) in float64.

    Raises InputError for lengths that differ, NaN, fewer than two rows a fold, or equal ratings.
    """
    y = np.asarray(ratings, np.float64)
    x = unit_rows(embeddings)
    if y.shape != (len(x),):
        raise InputError(f"{len(x)} embeddings and ratings of shape {y.shape} do not go together")
    if not np.isfinite(y).all():
        raise InputError(f"ratings[{int(np.argmin(np.isfinite(y)))}] is NaN or infinite")
    if len(y) < 2 * folds:
        raise InputError(
            f"{len(y)} ratings are too few for {folds} folds; give {2 * folds} or more"
        )
    if np.ptp(y) == 0:
        raise InputError(f"all ratings are {y[0]:g}; there is nothing to learn from them")
    return x, y


def unit_rows(embeddings: NDArray[Any]) -> Array:
    """(n, 768) float64 rows of length 1. Raises EmbeddingError, naming the row."""
    array = np.asarray(embeddings)
    if array.ndim != 2 or array.shape[1] != EMBEDDING_DIM:
        raise EmbeddingError(f"expected embeddings (n, {EMBEDDING_DIM}), got {array.shape}")
    rows = [one_vector(row, f"embeddings[{at}]") for at, row in enumerate(array)]
    wide = np.array(rows, dtype=np.float64).reshape(-1, EMBEDDING_DIM)
    unit: Array = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return unit


def _ridge_path(x: Array, y: Array) -> tuple[Array, Array]:
    """Weights (768, p) and biases (p,) for every one of PENALTIES."""
    mean, level = x.mean(axis=0), y.mean()
    centred = x - mean
    gram = centred.T @ centred
    values, vectors = np.linalg.eigh(gram)
    penalties = PENALTIES * np.trace(gram) / EMBEDDING_DIM
    projected = vectors.T @ (centred.T @ (y - level))
    weights: Array = vectors @ (projected[:, None] / (values[:, None].clip(0) + penalties))
    return weights, level - mean @ weights
