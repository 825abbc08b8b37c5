"""`aesthetic guide`, as a person runs it."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from aesthetic_client import Client
from aesthetic_client.errors import AestheticError, InputError
from aesthetic_export.head_files import FITTED_ON_SEEDED, read_head
from aesthetic_guidance import cli
from aesthetic_guidance.cli.fit import read_ratings
from aesthetic_guidance.embeddings import AestheticEmbedding, mean_of
from aesthetic_guidance.features import load_tower, raw_features
from aesthetic_guidance.fitting import FittedHead, fit_ridge
from aesthetic_guidance.mlp import MlpSettings, fit_mlp
from towers import tiny_tower

Run = Callable[..., tuple[int, str, str]]


def guide(*words: object) -> int:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return cli.run(parser.parse_args([str(word) for word in words]))


@pytest.fixture
def run(tiny_server: Any, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: object) -> tuple[int, str, str]:
        code = guide(*words, "--url", tiny_server.grpc_url)
        output = capsys.readouterr()
        return code, output.out, output.err

    return call


@pytest.fixture(scope="module")
def folders(photographs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders of eight photographs each, and a broken file in the second."""
    base = tmp_path_factory.mktemp("folders")
    for name, paths in (("a", photographs[:8]), ("b", photographs[8:16])):
        (base / name).mkdir()
        for path in paths:
            shutil.copy(path, base / name / f"{path.parent.name}-{path.name}")
    (base / "b" / "broken.png").write_bytes(b"not a picture")
    return base / "a", base / "b"


@pytest.fixture(scope="module")
def embedded(tiny_server: Any, folders: tuple[Path, Path]) -> dict[Path, np.ndarray[Any, Any]]:
    """Every good image's embedding, asked for one by one."""
    with Client(tiny_server.grpc_url) as client:
        paths = sorted(path for folder in folders for path in folder.iterdir())
        return {path: client.embed(path) for path in paths if path.name != "broken.png"}


def test_every_option_has_help_and_help_needs_no_torch() -> None:
    program = (
        "import argparse, sys\n"
        "from aesthetic_guidance import cli\n"
        "parser = argparse.ArgumentParser()\n"
        "cli.add_arguments(parser)\n"
        "(subs,) = (a for a in parser._actions if a.choices)\n"
        "assert sorted(subs.choices) == sorted(cli.COMMANDS)\n"
        "missing = [x.dest for s in subs.choices.values() for x in s._actions if not x.help]\n"
        "assert not missing, missing\n"
        "print([name for name in ('torch', 'onnx', 'open_clip') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


@pytest.mark.triton
def test_embed_writes_the_mean_of_unit_embeddings(run, folders, embedded, tmp_path):
    target = tmp_path / "mine.safetensors"
    code, out, err = run("embed", folders[0], "-o", target)
    assert (code, out) == (0, f"{target}\n")
    assert "MEANINGLESS: weights are seeded" in err and "each of length 1" in err
    rows = np.stack([v for p, v in embedded.items() if p.parent == folders[0]]).astype(float)
    found = AestheticEmbedding.read(target)
    assert np.abs(found.vector - rows.mean(0) / np.linalg.norm(rows.mean(0))).max() < 1e-6
    assert (found.images, found.normalize_each, found.seeded) == (8, True, True)
    assert found.source == str(folders[0]) and found.model["source"] == "seeded:0"
    # The published shape, from a folder with a broken file: named, left out, and the code is 1.
    code, _, err = run("embed", folders[1], "-o", tmp_path / "mine.pt")
    assert code == 1 and "not embedded" in err and "broken.png" in err
    assert torch.load(tmp_path / "mine.pt", weights_only=True).shape == (1, 768)
    with pytest.raises(InputError, match="none of the images could be embedded"):
        run("embed", folders[1] / "broken.png", "-o", target)


@pytest.mark.triton
def test_raw_features_have_the_servers_directions_and_lengths_of_their_own(folders, embedded):
    paths = [path for path in embedded if path.parent == folders[0]]
    found = list(raw_features(tiny_tower(), [*paths, b"broken"], batch=3))
    assert isinstance(found[-1], AestheticError)
    features = np.stack([item for item in found if isinstance(item, np.ndarray)])
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    assert np.abs(features / norms - np.stack([embedded[path] for path in paths])).max() < 1e-5
    assert norms.std() / norms.mean() > 1e-3
    raw, each = mean_of(features, normalize_each=False), mean_of(features)
    assert 1e-9 < 1 - float(raw.vector.astype(float) @ each.vector) < 0.5


def test_weights_that_nothing_is_named_by_are_refused():
    with pytest.raises(InputError, match="seeded:N"):
        load_tower("nonsense", None, ())


def test_embed_raw_averages_raw_features(folders, tmp_path, monkeypatch, capsys):
    tower = tiny_tower()
    monkeypatch.setattr("aesthetic_guidance.cli.embed.load_tower", lambda *_: tower)
    target = tmp_path / "raw.safetensors"
    assert guide("embed", folders[1], "--raw", "--weights", "seeded:0", "-o", target) == 1
    assert "broken.png" in capsys.readouterr().err
    paths = sorted(path for path in folders[1].iterdir() if path.name != "broken.png")
    mean = np.mean([np.asarray(f, float) for f in raw_features(tower, paths)], axis=0)
    found = AestheticEmbedding.read(target)
    assert np.abs(found.vector - mean / np.linalg.norm(mean)).max() < 1e-6
    assert (found.images, found.normalize_each, found.seeded) == (8, False, True)


@pytest.mark.triton
def test_compare_prints_and_draws_the_difference(run, folders, tiny_server, tmp_path):
    target = tmp_path / "picture.svg"
    code, out, err = run("compare", *folders, "-o", target, "--seed", 3)
    assert code == 1 and "broken.png" in err
    with Client(tiny_server.grpc_url) as client:
        a, b = (
            np.array([r.score for r in client.score_many(sorted(f.iterdir())) if r.ok])
            for f in folders
        )
    assert f"mean {a.mean():.4f}, standard deviation {a.std(ddof=1):.4f}, 8 images" in out
    assert f"difference of means B - A: {b.mean() - a.mean():+.4f}" in out
    above = np.mean([[(y > x) + 0.5 * (y == x) for y in b] for x in a])
    assert f"with chance {above:.3f}" in out and "MEANINGLESS" in out
    words = "".join(ElementTree.fromstring(target.read_text()).itertext())
    assert f"{b.mean() - a.mean():+.4f}" in words and "MEANINGLESS" in words
    again = run("compare", *folders, "-o", target, "--seed", 3)[1]
    assert again == out
    with pytest.raises(InputError, match="has 0 images with a score; 2 are needed"):
        run("compare", folders[0], folders[1] / "broken.png", "-o", target)


@pytest.mark.triton
def test_fit_embeds_the_csvs_images_and_fits_what_the_library_fits(
    run, folders, embedded, tmp_path
):
    base = folders[0].parent
    paths = list(embedded)
    ratings = np.round(np.stack(list(embedded.values())) @ np.linspace(-9, 9, 768), 2)
    rows = [f"{path.relative_to(base)},{value}" for path, value in zip(paths, ratings, strict=True)]
    (base / "ratings.csv").write_text("\n".join(["path,rating", *rows]) + "\n")
    target = tmp_path / "taste.safetensors"
    code, out, _ = run("fit", base / "ratings.csv", "-o", target, "--folds", 4)
    assert code == 0 and "Spearman" in out and "RMSE" in out and "MEANINGLESS" in out
    expected = fit_ridge(np.stack(list(embedded.values())), ratings, name="taste", folds=4)
    head = read_head(target)
    assert (head.source.name, head.weights) == ("taste", FITTED_ON_SEEDED)
    new = np.random.default_rng(0).standard_normal((9, 768))
    found = FittedHead(head, expected.report).score(new)
    assert np.abs(found - expected.score(new)).max() < 1e-4
    ElementTree.fromstring((tmp_path / "taste.svg").read_text())
    # A file that is not there costs its row only.
    (base / "ratings.csv").write_text("\n".join(["path,rating", *rows, "gone.png,3"]))
    code, out, err = run("fit", base / "ratings.csv", "-o", target, "--folds", 4)
    assert code == 1 and "gone.png" in err and "on 16 items" in out


@pytest.mark.triton
def test_fit_takes_choices(run, folders, embedded, tmp_path):
    base = folders[0].parent
    a, b = ([p for p in embedded if p.parent == folder] for folder in folders)
    pairs = [f"{w.relative_to(base)},{loser.relative_to(base)}" for w in a for loser in b]
    (base / "choices.csv").write_text("\n".join(["winner,loser", *pairs]))
    target = tmp_path / "chosen.safetensors"
    code, out, _ = run("fit", base / "choices.csv", "-o", target)
    assert code == 0 and "Bradley-Terry on 64 items" in out
    head = read_head(target)
    weight = head.layers[0][0][0]
    margins = [[(embedded[w] - embedded[loser]) @ weight for loser in b] for w in a]
    assert np.mean(np.array(margins) > 0) > 0.9


def test_fit_takes_stored_embeddings_without_a_server(tmp_path, capsys, monkeypatch):
    quick = partial(fit_mlp, settings=MlpSettings((16,), (0.0,), epochs=2))
    monkeypatch.setattr("aesthetic_guidance.cli.fit.fit_mlp", quick)
    random = np.random.default_rng(0)
    x = random.standard_normal((80, 768)).astype(np.float16)
    np.save(tmp_path / "x.npy", x)
    y = x[:, 0].astype(float)
    text = "".join(f"{n}.jpg,{value}\n" for n, value in enumerate(y))
    (tmp_path / "r.csv").write_text("\ufeffpath, rating\n" + text)
    target = tmp_path / "mine.safetensors"
    words = ("fit", tmp_path / "r.csv", "--embeddings", tmp_path / "x.npy", "-o", target)
    assert guide(*words) == 0
    printed = capsys.readouterr().out
    assert "ridge on 80 items" in printed and "MEANINGLESS" not in printed
    expected = fit_ridge(x, y, name="mine")
    found = FittedHead(read_head(target), expected.report)
    assert np.abs(found.score(x) - expected.score(x)).max() < 1e-12
    assert guide(*words, "--method", "mlp", "--folds", 2, "--name", "net.1") == 0
    assert read_head(target).source.kind == "relu_mlp"
    assert read_head(target).source.name == "net.1"
    np.save(tmp_path / "x.npy", x[:-1])
    with pytest.raises(InputError, match=r"has 79 rows, .* 80 ratings"):
        guide(*words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,stars\na.png,3\n", "expected the columns path,rating or winner,loser.*file,stars"),
        ("", "the first line is empty"),
        ("path,rating\na.png,3\nb.png,good\n", "line 3: the rating 'good' is no number"),
        ("path,rating\na.png,nan\n", "line 2: the rating 'nan' is no number"),
        ("path,rating\n,3\n", "line 2: path or rating is empty"),
        ("winner,loser\na.png\n", "line 2: winner or loser is empty"),
        ("path,rating\n\xff.png,3\n", "no CSV file in UTF-8"),
    ],
)
def test_ratings_that_cannot_be_read_are_refused_by_line(tmp_path, text, words):
    (tmp_path / "r.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=words):
        read_ratings(tmp_path / "r.csv")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["embed", ".", "-o", "x.npy"], "--output must end in .safetensors or .pt"),
        (["embed", ".", "-o", "no/folder/x.pt"], "there is no folder no/folder"),
        (["embed", ".", "-o", "x.pt", "--raw", "--url", "localhost:1"], "leave out --url"),
        (["embed", ".", "-o", "x.pt", "--raw", "--profile", "int8"], "leave out --url"),
        (["embed", ".", "-o", "x.pt", "--weights", "openai"], "belong to --raw"),
        (["compare", ".", ".", "-o", "x.png"], "--output must end in .svg"),
        (["compare", ".", ".", "--seed", "-1"], "--seed takes a number from 0 up"),
        (["fit", "none.csv", "-o", "h.safetensors"], "none.csv cannot be read"),
        (["fit", "none.csv", "-o", "h.safetensors", "--name", "a b"], "cannot name a head"),
        (["fit", "pairs.csv", "-o", "h.safetensors", "--method", "mlp"], "are for path,rating"),
        (
            ["fit", "r.csv", "-o", "h.safetensors", "--embeddings", "r.csv"],
            "no .npy file of embeddings",
        ),
        (
            ["fit", "r.csv", "-o", "h.safetensors", "--embeddings", "r.npy", "--profile", "int8"],
            "--repository and --profile",
        ),
    ],
)
def test_usage_errors(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    Path("pairs.csv").write_text("winner,loser\na.png,b.png\n")
    Path("r.csv").write_text("path,rating\na.png,1\n")
    with pytest.raises(AestheticError, match=words):
        guide(*arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.csv", "r.csv"]
