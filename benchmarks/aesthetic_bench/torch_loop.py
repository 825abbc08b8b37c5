"""What a user would write instead: open, transform, encode, normalise, score, with open_clip.

The published example (`simple_inference.py` of the improved aesthetic predictor) with open_clip's
own transform and tower, one image at a time or eight. Run as a fresh process by
`children.run_module`.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .company import Ticks
from .engine import cycled_batches, time_batches

if TYPE_CHECKING:
    from aesthetic_export.towers import Tower

SAME_WORK_COSINE = 0.9999  # below it the loop computes another model than the one served


def choose_tower(
    provenance: Mapping[str, str], weights: str | None, factory: str | None
) -> tuple[dict[str, Any] | None, str]:
    """The task's `tower`, or None and why the loop cannot run.

    By the user's `weights` or `factory` (MODULE:FUNCTION), else by the served model's provenance.
    """
    if factory is not None:
        return {"factory": factory}, ""
    if weights is not None:
        return {"weights": weights}, ""
    source = provenance.get("source", "")
    if source.startswith("seeded:"):
        return {"weights": source}, ""
    return None, (
        "the served weights are not random ones that could be made again; "
        "name their file or `openai` with --weights"
    )


def load_tower(asked: Mapping[str, Any]) -> Tower:
    """The image tower of a task."""
    if "factory" in asked:
        module, _, name = asked["factory"].partition(":")
        made: Tower = getattr(importlib.import_module(module), name)()
        return made
    from aesthetic_client.paths import cache_dir
    from aesthetic_export import sources
    from aesthetic_export.cli import weights_folders
    from aesthetic_export.files import FileStore
    from aesthetic_export.weights import parse_weights

    store = FileStore(cache_dir(), weights_folders(None))
    return sources.load_tower(parse_weights(asked["weights"]), store, print)


def score_function(tower: Tower) -> Callable[[list[str]], tuple[Any, Any]]:
    """Image files to embeddings (n, 768) and scores (n, 1), as tensors."""
    import torch
    from PIL import Image

    from aesthetic_client.pixels import CLIP_MEAN, CLIP_STD
    from aesthetic_export.openclip import open_clip_transformer

    open_clip_transformer()  # mends the import of torchvision where that is needed
    from open_clip.transform import image_transform

    transform = image_transform(224, is_train=False, mean=CLIP_MEAN, std=CLIP_STD)
    head = head_module(0)  # its weights' values do not change the time

    def score(files: list[str]) -> tuple[Any, Any]:
        images = []
        for file in files:
            with Image.open(file) as image:
                images.append(transform(image))
        with torch.no_grad():
            features = tower.module(torch.stack(images))
            features = features / features.norm(dim=-1, keepdim=True)
            return features, head(features)

    return score


def head_module(seed: int) -> Any:
    """The default head's layers as they were published, unfolded: (n, 768) -> (n, 1)."""
    import torch
    from torch import nn

    from aesthetic_export.heads import seeded_heads

    layers: list[nn.Module] = []
    for weight, bias in seeded_heads(seed)[0].layers:
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.weight.data = torch.from_numpy(weight).float()
        linear.bias.data = torch.from_numpy(bias).float()
        layers.append(linear)
    return nn.Sequential(*layers).eval()


def measure(task: Mapping[str, Any]) -> dict[str, Any]:
    """Task: tower, files, embeddings (.npy, the engine's), batches, seconds, threads.

    0 threads: as many as torch takes by itself.
    """
    import torch

    if task["threads"]:
        torch.set_num_threads(task["threads"])
    begin = time.perf_counter()
    score = score_function(load_tower(task["tower"]))
    load_s = time.perf_counter() - begin
    files: list[str] = task["files"]
    engine = np.load(task["embeddings"])
    for some in (files[:1], files):  # one first: a wrong model is found without running it on all
        cosine = lowest_cosine(score(some)[0].numpy(), engine[: len(some)])
        if not cosine >= SAME_WORK_COSINE:
            return {"skipped": f"another model than the one served (cosine {cosine:.4f})"}
    take = cycled_batches(len(files))
    if len(files) < task["batches"][-1]:  # the first run of a size allocates
        score([files[i] for i in take(task["batches"][-1])])
    before = Ticks.now()
    rates = time_batches(
        lambda size: score([files[i] for i in take(size)]), task["batches"], task["seconds"]
    )
    return {
        "threads": torch.get_num_threads(),
        "load_s": load_s,
        **Ticks.now().company_since(before),
        "lowest_cosine_with_bare_engine": cosine,
        "rates": [rate.as_dict() for rate in rates],
    }


def lowest_cosine(ours: Any, theirs: Any) -> float:
    """Of the rows of two (n, 768) arrays of vectors of any length."""
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.min((a * b).sum(axis=1) / lengths))


if __name__ == "__main__":
    given, answer = Path(sys.argv[1]), Path(sys.argv[2])
    answer.write_text(json.dumps(measure(json.loads(given.read_text("utf-8")))), "utf-8")
