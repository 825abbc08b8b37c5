"""Personal heads: what is fitted, what is said of it, what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from aesthetic_client.errors import EmbeddingError, InputError
from aesthetic_export.files import FileStore, sha256_of
from aesthetic_export.head_files import fitted_head, read_head, write_head
from aesthetic_export.heads import fold, published_heads
from aesthetic_guidance.fitting import PENALTIES, FittedHead, fit_ridge, fold_numbers
from aesthetic_guidance.mlp import MlpSettings, fit_mlp
from aesthetic_guidance.preferences import fit_preferences
from aesthetic_guidance.statistics import spearman

Matrix = np.ndarray[Any, np.dtype[np.float64]]


def photograph_like(count: int, seed: int, axes_used: int = 768) -> Matrix:
    """Unit vectors around one direction, with spectra that fall off, as image embeddings have.

    With fewer `axes_used` the spectrum ends there, and fewer examples suffice to learn from.
    """
    random = np.random.default_rng(seed)
    axes = np.linalg.qr(np.random.default_rng(99).standard_normal((768, 768)))[0]
    spread = 0.05 * np.arange(1, 769) ** -0.35 * (np.arange(768) < axes_used)
    rows = 0.6 * axes[0] + (random.standard_normal((count, 768)) * spread) @ axes
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def default_head(shared_data, tmp_path_factory) -> tuple[Matrix, float]:
    """The real default head, folded: weight (768,) and bias."""
    store = FileStore(tmp_path_factory.mktemp("cache"), (shared_data / "heads",))
    return fold(published_heads(store)[0])


@pytest.fixture(scope="module")
def rated() -> tuple[Matrix, Matrix]:
    """400 embeddings and noisy ratings of them."""
    x = photograph_like(400, 0)
    random = np.random.default_rng(5)
    y = 30 * x @ random.standard_normal(768) / np.sqrt(768) + random.standard_normal(400) * 0.05
    return x, y


def test_ridge_recovers_a_known_head_from_noisy_ratings(default_head):
    weight, bias = default_head
    x, new = photograph_like(3000, 1), photograph_like(1000, 2)
    clean = x @ weight + bias
    noise = 0.2 * clean.std() * np.random.default_rng(3).standard_normal(3000)
    head = fit_ridge(x, clean + noise, name="mine")
    truth = new @ weight + bias
    assert spearman(head.score(new), truth) > 0.98
    assert np.sqrt(np.mean((head.score(new) - truth) ** 2)) < 0.2 * truth.std()
    # The noise bounds what a held-out rating lets a perfect head reach.
    best = spearman(clean, clean + noise)
    assert best - 0.02 < head.report.figures["Spearman"] < best + 0.005


def test_ridge_is_the_textbook_solution_and_its_report_that_of_held_out_folds(rated):
    x, y = rated
    head = fit_ridge(x, y, name="mine", folds=4, seed=7)
    penalty = head.report.figures["penalty"]

    def textbook(rows: Any) -> tuple[Matrix, float]:
        centred = x[rows] - x[rows].mean(0)
        strength = penalty * np.square(centred).sum() / 768
        # Ridge as least squares with 768 further rows.
        stacked = np.concatenate([centred, np.sqrt(strength) * np.eye(768)])
        target = np.concatenate([y[rows] - y[rows].mean(), np.zeros(768)])
        weight = np.linalg.lstsq(stacked, target, rcond=None)[0]
        return weight, float(y[rows].mean() - x[rows].mean(0) @ weight)

    weight, bias = textbook(slice(None))
    assert np.abs(head.score(x) - (x @ weight + bias)).max() < 1e-8
    numbers = fold_numbers(range(len(y)), 4, 7)
    assert sorted(np.bincount(numbers)) == [100, 100, 100, 100]
    held_out = np.empty(len(y))
    for number in range(4):
        weight, bias = textbook(numbers != number)
        held_out[numbers == number] = x[numbers == number] @ weight + bias
    assert np.abs(head.report.predicted - held_out).max() < 1e-8
    assert head.report.figures["RMSE"] == pytest.approx(np.sqrt(np.mean((held_out - y) ** 2)))
    shares = np.sum((held_out - y) ** 2) / np.sum((y - y.mean()) ** 2)
    assert head.report.figures["R2"] == pytest.approx(1 - shares)
    assert PENALTIES[0] < penalty < PENALTIES[-1]


def test_held_out_figures_of_pure_noise_say_that_nothing_was_learnt():
    x = photograph_like(200, 4)
    head = fit_ridge(x, np.random.default_rng(0).standard_normal(200), name="mine")
    assert head.report.figures["Spearman"] < 0.1 and head.report.figures["R2"] < 0.02
    assert "nothing learnt" in head.report.summary()[2]
    on_training_data = spearman(head.score(x), head.report.actual)
    assert on_training_data > head.report.figures["Spearman"]


def test_ratings_of_one_image_are_held_out_together():
    groups = [f"image{number % 30}" for number in range(90)]
    numbers = fold_numbers(groups, 5, 0)
    for image in set(groups):
        assert len({n for n, group in zip(numbers, groups, strict=True) if group == image}) == 1
    assert sorted(np.bincount(numbers)) == [18] * 5
    # Every image is rated by three people at random. Were one's rating in training when another's
    # is held out, noise would look learnable: here it must not.
    x = photograph_like(30, 6).repeat(3, axis=0)
    y = np.random.default_rng(8).standard_normal(30).repeat(3)
    names = np.arange(30).repeat(3).tolist()
    assert fit_ridge(x, y, name="mine", groups=names).report.figures["R2"] < 0.1
    assert fit_ridge(x, y, name="mine").report.figures["R2"] > 0.5


def test_the_seed_decides_and_the_global_random_state_stays(rated):
    import torch

    x, y = rated
    settings = MlpSettings(widths=(32, 16), dropout=(0.1, 0.0), epochs=3)
    state, before = np.random.get_state()[1], torch.random.get_rng_state()
    for fit in (
        lambda seed: fit_ridge(x, y, name="mine", seed=seed, folds=2),
        lambda seed: fit_mlp(x, y, name="mine", seed=seed, folds=2, settings=settings),
    ):
        one, same, other = fit(1), fit(1), fit(2)
        assert np.array_equal(one.report.predicted, same.report.predicted)
        assert np.array_equal(one.score(x), same.score(x))
        assert not np.array_equal(one.report.predicted, other.report.predicted)
    assert np.array_equal(state, np.random.get_state()[1])
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_network_learns_what_no_linear_head_can():
    x = photograph_like(800, 10, axes_used=20)
    y = np.abs((x - x.mean(0)) @ np.linalg.svd(x - x.mean(0), full_matrices=False)[2][0]) * 100
    settings = MlpSettings(widths=(64, 32), dropout=(0.0, 0.0), epochs=60)
    mlp = fit_mlp(x, y, name="mine", folds=2, settings=settings)
    ridge = fit_ridge(x, y, name="mine", folds=2)
    assert ridge.report.figures["Spearman"] < 0.5 < 0.8 < mlp.report.figures["Spearman"]
    assert spearman(mlp.score(x), y) > 0.8


def test_the_published_networks_shape(rated):
    x, y = rated
    head = fit_mlp(x[:60], y[:60], name="mine", folds=2, settings=MlpSettings(epochs=2))
    assert head.weights.source.kind == "relu_mlp"
    assert head.weights.source.shapes == ((1024, 768), (128, 1024), (64, 128), (16, 64), (1, 16))


def test_choices_recover_the_order_of_a_known_head(default_head):
    weight, _ = default_head
    a, b, new = (photograph_like(1500, seed, axes_used=60) for seed in (11, 12, 13))
    margin = (a - b) @ weight
    margin = 8 * margin / margin.std()  # people nearly always choose the better one
    first = np.random.default_rng(0).random(1500) < 1 / (1 + np.exp(-margin))
    winners, losers = np.where(first[:, None], a, b), np.where(first[:, None], b, a)
    head = fit_preferences(winners, losers, name="mine")
    assert spearman(head.score(new), new @ weight) > 0.98
    figures = head.report.figures
    assert 0.85 < figures["accuracy"] <= 1 and figures["log loss"] < 0.5 * np.log(2)
    assert abs(float(np.mean(head.score(np.concatenate([winners, losers]))))) < 1e-9
    # Predictions are of a pair's first image, whichever won.
    agree = (head.report.predicted > 0.5) == (head.report.actual == 1)
    assert np.mean(agree) == pytest.approx(figures["accuracy"], abs=1e-9)
    assert 0.4 < head.report.actual.mean() < 0.6


def test_choices_are_fitted_to_the_minimum_of_their_penalised_likelihood():
    random = np.random.default_rng(0)
    a, b = photograph_like(60, 20), photograph_like(60, 21)
    flip = random.random(60) < 0.5
    winners, losers = np.where(flip[:, None], a, b), np.where(flip[:, None], b, a)
    head = fit_preferences(winners, losers, name="mine", folds=3)
    weight = head.weights.layers[0][0][0]
    d = winners - losers
    strength = head.report.figures["penalty"] * np.square(d).sum() / 768 / 4
    gradient = strength * weight - d.T @ (1 / (1 + np.exp(d @ weight)))
    assert np.abs(gradient).max() < 1e-5 * np.abs(d).sum(0).max()
    assert head.report.figures["log loss"] > 0.6  # held out, coin flips are coin flips


def test_a_written_head_reads_back_as_it_was(tmp_path, rated):
    x, y = rated
    known = {"model": "clip_image", "weights": "openai", "weights_sha256": "cd" * 32}
    head = fit_ridge(x, y, name="my-taste.v1", model=known)
    path = tmp_path / "head.safetensors"
    head.write(path)
    read = read_head(path)
    assert (read.source.name, read.source.kind, read.weights) == ("my-taste.v1", "affine", "fitted")
    assert read.source.file.sha256 == sha256_of(path) and not read.seeded
    assert np.array_equal(FittedHead(read, head.report).score(x), head.score(x))
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    assert json.loads(metadata["report"])["Spearman"] == head.report.figures["Spearman"]
    assert metadata["provenance.weights_sha256"] == "cd" * 32
    network = fit_mlp(x, y, name="net", folds=2, settings=MlpSettings((8,), (0.0,), epochs=1))
    network.write(path)
    close = FittedHead(read_head(path), network.report).score(x) - network.score(x)
    assert np.abs(close).max() < 1e-5  # its file is fp32, as it is served


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y: (x, y[:-1]), "do not go together"),
        (lambda x, y: (x, np.where(np.arange(len(y)) == 3, np.nan, y)), r"ratings\[3\] is NaN"),
        (lambda x, y: (x, y * 0 + 2), "all ratings are 2"),
        (lambda x, y: (x[:9], y[:9]), "9 ratings are too few for 5 folds"),
        (lambda x, y: (x[:, :512], y), r"expected embeddings \(n, 768\)"),
        (lambda x, y: (x * (np.arange(len(y)) != 2)[:, None], y), r"embeddings\[2\]: is all zero"),
    ],
)
def test_unusable_ratings_are_refused(rated, change, words):
    x, y = change(*rated)
    for fit in (fit_ridge, fit_mlp):
        with pytest.raises(InputError, match=words):
            fit(x, y, name="mine")


def test_unusable_choices_are_refused(rated):
    x, _ = rated
    with pytest.raises(InputError, match="20 winners and 19 losers"):
        fit_preferences(x[:20], x[:19], name="mine")
    with pytest.raises(InputError, match="its own loser"):
        fit_preferences(x[:20], x[:20], name="mine")
    with pytest.raises(InputError, match="3 different images are too few for 5 folds"):
        fold_numbers(["a", "b", "c"] * 5, 5, 0)
    with pytest.raises(EmbeddingError):
        fit_preferences(x[:20, :700], x[:20, :700], name="mine")


@pytest.mark.parametrize(
    "name", ["", "9lives", "a b", "a/b", "x" * 65, "embedding", "pixels", "aesthetic_score"]
)
def test_names_that_cannot_be_served_are_refused(rated, name):
    with pytest.raises(InputError, match="name"):
        fit_ridge(*rated, name=name)


def test_a_published_heads_name_is_taken(rated):
    with pytest.raises(InputError, match="served already"):
        fit_ridge(*rated, name="sac+logos+ava1-l14-linearMSE")


def test_files_that_are_no_heads_are_refused(tmp_path, rated):
    from safetensors.numpy import save_file

    path = tmp_path / "head.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        read_head(path)
    save_file({"layers.0.weight": np.ones((1, 768))}, path)
    with pytest.raises(InputError, match="is no head file"):
        read_head(path)
    known = {"format": "aesthetic-head-1", "kind": "affine", "name": "mine"}
    save_file({"layers.0.weight": np.ones((1, 768)), "more": np.ones(1)}, path, known)
    with pytest.raises(InputError, match=r"expected layers\.0\.weight"):
        read_head(path)
    save_file({"layers.0.weight": np.ones((1, 512)), "layers.0.bias": np.ones(1)}, path, known)
    with pytest.raises(InputError, match="a chain from 768 to 1"):
        read_head(path)
    with pytest.raises(InputError, match="NaN or infinite"):
        fitted_head("mine", "affine", [(np.full((1, 768), np.nan), np.ones(1))])
    with pytest.raises(InputError, match=r"ends in \.safetensors"):
        write_head(tmp_path / "a.pt", fit_ridge(*rated, name="mine").weights, {})
