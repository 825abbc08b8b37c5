"""Raw CLIP image features, computed in this process: what the server's unit vectors do not tell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from aesthetic_client.errors import InputError
from aesthetic_client.images import ImageSource, Prepared, load
from aesthetic_client.paths import cache_dir
from aesthetic_client.pixels import DEFAULT_OPTIONS
from aesthetic_export import console, sources
from aesthetic_export.files import FileStore
from aesthetic_export.towers import Tower
from aesthetic_export.weights import parse_weights

T = TypeVar("T")
BATCH = 8


def raw_features(
    tower: Tower, images: Iterable[ImageSource], batch: int = BATCH
) -> Iterator[NDArray[np.float32] | InputError]:
    """Each image's feature (768,), or the error that it ended in, in order; fp32, on the CPU."""
    import torch

    from aesthetic_export.modules import ClipImage

    module = ClipImage(tower.module)
    for group in _groups(images, batch):
        prepared = [_prepared(image) for image in group]
        good = [item for item in prepared if not isinstance(item, InputError)]
        features: Iterator[NDArray[np.float32]] = iter(())
        if good:
            with torch.no_grad():
                features = iter(module.features(torch.from_numpy(np.stack(good))).numpy())
        for item in prepared:
            yield item if isinstance(item, InputError) else next(features)


def load_tower(weights: str, sha256: str | None, folders: tuple[Path, ...]) -> Tower:
    """The image tower that `--weights` names. Raises InputError as `aesthetic export` does."""
    with console.downloads() as progress:
        store = FileStore(cache_dir(), folders, progress)
        return sources.load_tower(parse_weights(weights, sha256=sha256), store, console.warn)


def load_text_tower(weights: str, sha256: str | None, folders: tuple[Path, ...]) -> Tower:
    """The text tower of the same weights, as `load_tower`."""
    with console.downloads() as progress:
        store = FileStore(cache_dir(), folders, progress)
        return sources.load_text_tower(parse_weights(weights, sha256=sha256), store, console.warn)


def _prepared(image: ImageSource) -> NDArray[np.uint8] | InputError:
    try:
        item = load(image, "client", DEFAULT_OPTIONS)
    except InputError as error:
        return error
    assert isinstance(item, Prepared)
    return item.pixels


def _groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group
