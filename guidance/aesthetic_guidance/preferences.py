"""Heads fitted to pairwise choices: of two images, which one is preferred."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesthetic_client.errors import InputError
from aesthetic_export.head_files import check_name, fitted_head
from aesthetic_guidance.fitting import FOLDS, FitReport, FittedHead, fold_numbers, unit_rows
from aesthetic_guidance.statistics import Array

# L2 penalties tried, in units of a quarter of the mean squared difference along an axis times n:
# a quarter is the largest curvature of the logistic loss.
PENALTIES = np.logspace(-3, 2, 11)
_STEPS = 50  # of Newton's method, which takes five to fifteen
_SETTLED = 1e-10  # a step that changes the loss by less, relatively, is the last


def fit_preferences(
    winners: NDArray[Any],
    losers: NDArray[Any],
    *,
    name: str,
    folds: int = FOLDS,
    seed: int = 0,
    model: Mapping[str, Any] | None = None,
) -> FittedHead:
    """A linear head from pairs: `winners` (n, 768) were preferred to `losers` (n, 768).

    Bradley and Terry's model (1952): the log-odds that one image is preferred are the difference of
    their scores. Weights by penalised maximum likelihood; the penalty of the smallest held-out log
    loss is taken. Pairs say nothing about the level: scores are around 0 (the bias makes the mean
    of all images 0), and only their differences mean something. An image may be in pairs of several
    folds. Raises InputError for too few pairs or lengths that differ.
    """
    check_name(name)
    ahead, behind = unit_rows(winners), unit_rows(losers)
    if len(ahead) != len(behind):
        raise InputError(f"{len(ahead)} winners and {len(behind)} losers do not go together")
    if len(ahead) < 2 * folds:
        raise InputError(f"{len(ahead)} pairs are too few for {folds} folds")
    differences = ahead - behind
    if not differences.any():
        raise InputError("every winner is its own loser; there is nothing to learn from them")
    numbers = fold_numbers(range(len(differences)), folds, seed)
    margins = np.empty((len(differences), len(PENALTIES)))
    for number in range(folds):
        out = numbers == number
        margins[out] = differences[out] @ _logistic_path(differences[~out])
    losses = np.logaddexp(0, -margins).mean(axis=0)
    best = int(np.argmin(losses))
    weight = _logistic_path(differences)[:, best]
    bias = -np.concatenate([ahead, behind]).mean(axis=0) @ weight
    held_out = margins[:, best]
    figures = {
        "accuracy": float(np.mean((held_out > 0) + 0.5 * (held_out == 0))),
        "log loss": float(losses[best]),
        "log loss of a coin": float(np.log(2)),
        "penalty": float(PENALTIES[best]),
    }
    # For the chart: of each pair, drawn at random, the chance that the first wins; whether it does.
    first_wins = np.random.default_rng(seed).random(len(held_out)) < 0.5
    chances = 1 / (1 + np.exp(np.where(first_wins, -held_out, held_out)))
    report = FitReport(
        "Bradley-Terry",
        len(held_out),
        folds,
        seed,
        figures,
        chances,
        first_wins.astype(np.float64),
        labels=("held-out chance that the first of a pair is preferred", "it was (1) or not (0)"),
    )
    head = fitted_head(name, "affine", [(weight[None], np.array([bias]))])
    return FittedHead(head, report, dict(model or {}))


def _logistic_path(differences: Array) -> Array:
    """Weights (768, p) for every one of PENALTIES, each found from the one before.

    Newton's method on the coordinates that the pairs span, which are fewer than 768 for few pairs.
    """
    u, s, vt = np.linalg.svd(differences, full_matrices=False)
    kept = s > 1e-10 * s[0]
    z = u[:, kept] * s[kept]
    unit = np.sum(s**2) / differences.shape[1] / 4
    found = np.empty((int(kept.sum()), len(PENALTIES)))
    start = np.zeros(z.shape[1])
    for at in np.argsort(-PENALTIES):  # from the stiffest on: the next one's start is near
        start = found[:, at] = _logistic(z, float(PENALTIES[at] * unit), start)
    weights: Array = vt[kept].T @ found
    return weights


def _logistic(z: Array, penalty: float, start: Array) -> Array:
    """argmin over b of sum log(1 + exp(-z b)) + penalty / 2 |b|^2: strictly convex, one answer."""

    def loss(b: Array) -> float:
        return float(np.logaddexp(0, -z @ b).sum() + penalty / 2 * (b @ b))

    b, now = start, loss(start)
    for _ in range(_STEPS):
        odds = 1 / (1 + np.exp(np.clip(z @ b, -700, 700)))  # the chance of the other choice
        gradient = penalty * b - z.T @ odds
        curvature = (z.T * (odds * (1 - odds))) @ z + penalty * np.eye(len(b))
        step = np.linalg.solve(curvature, gradient)
        length = 1.0
        while (after := loss(b - length * step)) > now and length > 1e-6:
            length /= 2
        if not after < now:
            break
        b, settled, now = b - length * step, now - after <= _SETTLED * now, after
        if settled:
            break
    return b
