"""Inputs and outputs lie apart: results must never be written over a data set, or read as one."""

from __future__ import annotations

import os
from collections.abc import Sequence

from aesthetic_client.errors import InputError
from aesthetic_curate.locations import is_local, local_path
from aesthetic_curate.shards import Shard


def check_inputs(inputs: Sequence[str], out: str) -> None:
    """Raises InputError for an output in an input folder: a rerun would find its own results."""
    for given in inputs:
        if lies_in(out, given):
            raise InputError(
                f"the output folder {out} lies in the input {given}: a rerun would take its own "
                "results for input; name a folder beside it"
            )


def check_shards(shards: Sequence[Shard], out: str) -> None:
    """Raises InputError where an input lies in the output folder."""
    place = _real(out)  # once: a run may have many shards
    for shard in shards:
        for url in (shard.url, shard.metadata_url):
            if url is not None and _is_below(url, place):
                raise InputError(
                    f"the input {url} lies in the output folder {out}, where it would be written "
                    "over, or taken for a result; name another output folder"
                )


def lies_in(url: str, folder: str) -> bool:
    """Whether a file or folder is that folder, or below it; links followed."""
    return _is_below(url, _real(folder))


def _is_below(url: str, place: str) -> bool:
    return (_real(url) + "/").startswith(place + "/")


def _real(url: str) -> str:
    url = local_path(url)
    return (os.path.realpath(url) if is_local(url) else url).rstrip("/")
