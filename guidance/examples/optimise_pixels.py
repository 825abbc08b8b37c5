"""Optimise an image's pixels for the aesthetic score, in the three ways of training with it.

    python guidance/examples/optimise_pixels.py -o pictures --image photo.jpg

- aesthetic only: the score is the whole loss;
- auxiliary: the score, with a small weight, beside the reconstruction of an image;
- annealed: the same, the weight rising from 0 over the first half of the steps.

Every mode starts from the same noise. Writes `scores.png`, the score over the steps, and
`contact_sheet.png`, what the images looked like on the way. Needs the `guidance` extra and
matplotlib.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional

from aesthetic_client.contract import DEFAULT_HEAD, IMAGE_SIZE
from aesthetic_client.errors import AestheticError
from aesthetic_client.pixels import prepare_pixels
from aesthetic_guidance.loss import AestheticLoss, WarmUp
from aesthetic_guidance.scorer import AestheticScorer

MODES = ("aesthetic only", "auxiliary", "annealed")
COLOURS = ("#0072b2", "#d55e00", "#009e73")  # told apart by colour-blind people (Okabe and Ito)
GRIDS = (7, 28, 112)  # cells a side of the layers that make the image
FRAMES = 6  # images a mode on the contact sheet
MEANINGLESS = "RANDOM WEIGHTS: THE SCORES ARE MEANINGLESS"


class Picture(nn.Module):
    """An image as a sum of coarse and fine layers, so that no step changes single pixels only."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.ParameterList(
            torch.randn(1, 3, cells, cells, generator=generator) * 0.3 for cells in GRIDS
        )

    def forward(self) -> torch.Tensor:
        """(1, 3, 224, 224) in (0, 1)"""
        size = (IMAGE_SIZE, IMAGE_SIZE)
        enlarged = (functional.interpolate(layer, size, mode="bilinear") for layer in self.layers)
        return torch.sigmoid(sum(enlarged))


@dataclass
class Run:
    """What one mode did: scores by step, and images (3, 224, 224) of some steps."""

    mode: str
    scores: dict[int, float] = field(default_factory=dict)
    frames: dict[int, torch.Tensor] = field(default_factory=dict)


def optimise(
    scorer: AestheticScorer,
    mode: str,
    target: torch.Tensor,
    *,
    steps: int,
    weight: float = 0.01,
    learning_rate: float = 0.05,
    seed: int = 0,
) -> Run:
    """One mode's run. `target` is (1, 3, 224, 224) in [0, 1], which `aesthetic only` ignores."""
    picture, run = Picture(seed).to(scorer.device), Run(mode)
    warm_up = WarmUp(max(steps // 2, 1), "cosine") if mode == "annealed" else None
    aesthetic = AestheticLoss(scorer, 1.0 if mode == "aesthetic only" else weight, warm_up=warm_up)
    optimizer = torch.optim.Adam(picture.parameters(), lr=learning_rate)
    shown = {round(step) for step in torch.linspace(0, steps, FRAMES).tolist()}
    for step in range(steps):
        image = picture()
        loss = aesthetic(image)
        if mode != "aesthetic only":
            loss = loss + functional.mse_loss(image, target.to(image.device))
        if step in shown:
            record(run, step, scorer, image)
        elif "score_mean" in aesthetic.log:  # not where the weight is still 0
            run.scores[step] = aesthetic.log["score_mean"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    record(run, steps, scorer, picture())
    return run


def record(run: Run, step: int, scorer: AestheticScorer, image: torch.Tensor) -> None:
    with torch.no_grad():
        run.scores[step] = float(scorer.score(image))
    run.frames[step] = image.detach()[0].cpu()


def read_target(path: Path | None) -> torch.Tensor:
    """(1, 3, 224, 224): a file as the server prepares it, or a drawn evening by the sea."""
    if path is not None:
        pixels = torch.from_numpy(prepare_pixels(path.read_bytes()).copy())
        return pixels.permute(2, 0, 1)[None] / 255
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, IMAGE_SIZE)] * 2, indexing="ij")
    height = (y[None] + 1) / 2
    top, bottom = (torch.tensor(c).view(3, 1, 1) for c in ((0.15, 0.25, 0.55), (0.98, 0.6, 0.3)))
    sky = top + (bottom - top) * height
    sea = sky.flip(1) * 0.6 * (1 + 0.1 * torch.sin(60 * height**2))
    sun = torch.tensor((1.0, 0.92, 0.65)).view(3, 1, 1)
    scene = torch.where(y[None] > 0.3, sea, sky)
    scene = torch.where((x**2 + (y - 0.1) ** 2 < 0.04)[None] & (y[None] <= 0.3), sun, scene)
    return scene.clamp(0, 1)[None]


def plot_scores(runs: Sequence[Run], scorer: AestheticScorer) -> Figure:
    """Score over steps, a line a mode."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for run, colour in zip(runs, COLOURS, strict=False):
        axes.plot(*zip(*sorted(run.scores.items()), strict=True), color=colour, label=run.mode)
    axes.set_xlabel("step")
    axes.set_ylabel(f"score ({scorer.head_name})")
    axes.grid(color="#ddd")
    axes.legend()
    title(figure, "Aesthetic score of optimised pixels", scorer)
    return figure


def draw_contact_sheet(
    runs: Sequence[Run], target: torch.Tensor, scorer: AestheticScorer
) -> Figure:
    """A row a mode: the target where there is one, then the images with their steps and scores."""
    columns = max(len(run.frames) for run in runs) + 1
    figure = Figure(figsize=(1.7 * columns, 2.1 * len(runs) + 0.6), layout="constrained")
    grid = figure.subplots(len(runs), columns, squeeze=False)
    for run, row in zip(runs, grid, strict=True):
        for axes in row:
            axes.set_axis_off()
        if run.mode != "aesthetic only":
            show(row[0], target[0], "target")
        row[0].text(-0.1, 0.5, run.mode, rotation=90, va="center", transform=row[0].transAxes)
        for axes, (step, image) in zip(row[1:], sorted(run.frames.items()), strict=False):
            show(axes, image, f"step {step}: {run.scores[step]:.2f}")
    title(figure, "Images on the way, with their scores", scorer)
    return figure


def show(axes: Axes, image: torch.Tensor, caption: str) -> None:
    axes.imshow(image.permute(1, 2, 0).numpy())
    axes.set_title(caption, fontsize=8)


def title(figure: Figure, text: str, scorer: AestheticScorer) -> None:
    if scorer.meaningless:
        figure.suptitle(f"{text}\n{MEANINGLESS}", color="#c00")
    else:
        figure.suptitle(f"{text} (weights: {scorer.weights})")


def run_modes(
    scorer: AestheticScorer, target: torch.Tensor, out: Path, **settings: float
) -> list[Run]:
    """All modes, with their pictures in `out`."""
    runs = []
    for mode in MODES:
        runs.append(optimise(scorer, mode, target, **settings))
        first, last = (runs[-1].scores[step] for step in (0, max(runs[-1].scores)))
        print(f"{mode}: {first:.3f} -> {last:.3f}", file=sys.stderr)
    out.mkdir(parents=True, exist_ok=True)
    plot_scores(runs, scorer).savefig(out / "scores.png", dpi=130)
    draw_contact_sheet(runs, target, scorer).savefig(out / "contact_sheet.png", dpi=130)
    return runs


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, default=Path("optimised"), help="a folder")
    parser.add_argument("--image", type=Path, help="what to reconstruct (default: a drawn scene)")
    parser.add_argument("--weights", default="openai", help="openai, auto, seeded:N or a file")
    parser.add_argument("--head", default=DEFAULT_HEAD.name, help="a head's name")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--weight", type=float, default=0.01, help="the score's, beside the MSE")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args(arguments)
    if given.steps < 1:
        parser.error(f"--steps {given.steps}: 1 or more")
    try:
        target = read_target(given.image)
        scorer = AestheticScorer.load(given.weights, given.head).to(given.device)
        run_modes(scorer, target, given.out, steps=given.steps, weight=given.weight)
    except (AestheticError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name in ("scores.png", "contact_sheet.png"):
        print(given.out / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
