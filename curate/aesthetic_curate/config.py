"""What a run is asked to do, and the fingerprint that says which results belong together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from aesthetic_client.contract import AESTHETIC_HEADS, CLIP_IMAGE, SEEDED_WEIGHTS, Head
from aesthetic_client.images import Decode
from aesthetic_curate.likeness import Like, with_likes
from aesthetic_curate.options import InputOptions

FORMAT = 1  # of a shard's files; results of another one are redone

DEFAULT_IN_FLIGHT = 16  # requests a worker has on the way to each server; two full batches
DEFAULT_TIMEOUT_S = 120.0
DEFAULT_PATIENCE_S = 600.0  # a server that is deployed anew is back in less

# What of a model's provenance determines its numbers; versions and dates do not.
_TOWER_FIELDS = (
    *("weights", "weights_sha256", "source", "seed"),
    *("activation", "preprocessing", "precision"),
)
_CALIBRATED = "calibration_sha256"  # of towers that images calibrated only
_HEAD_FIELDS = ("name", "output", "weights", "sha256", "source")


@dataclass(frozen=True)
class ScoreConfig:
    """What determines the rows of a scored shard.

    `embedding` is the dtype of the embedding column, None for no such column. `normalize` lets
    stored embeddings have any length. `tar_min`: a tar of the samples whose score under the first
    head is at least so high is written beside the parquet. `likes` are further score columns.
    """

    heads: tuple[Head, ...]
    embedding: Literal["float16", "float32"] | None = None
    normalize: bool = False
    tar_min: float | None = None
    likes: tuple[Like, ...] = ()

    @property
    def columns(self) -> tuple[Head, ...]:
        """The score columns: heads, and then likes as if they were heads. Raises InputError."""
        return with_likes(self.heads, self.likes)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The score columns' names."""
        return tuple(head.output for head in self.columns)

    @property
    def needs_embedding(self) -> bool:
        """Whether a server is to give images' embeddings."""
        return self.embedding is not None or bool(self.likes)

    def to_json(self) -> dict[str, Any]:
        """For stats files and fingerprints; a like is the hash of its file."""
        found = asdict(replace(self, likes=()))
        del found["likes"]  # as it was before there were any: results without them stay as good
        if self.likes:
            found["likes"] = {like.output: like.sha256 for like in self.likes}
        return found


@dataclass(frozen=True)
class Job:
    """A run: everything that a worker needs, wherever it works. Picklable.

    `urls` are servers that serve the same model; without any, stored embeddings are scored here,
    by the heads of `heads_file`. `in_flight` requests at most are on the way to each of them from
    each worker. A request may take `timeout_s`; servers that are all away are waited for
    `patience_s`.
    """

    out: str
    urls: tuple[str, ...]
    config: ScoreConfig
    options: InputOptions
    provenance: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    heads_file: str | None = None
    decode: Decode = "server"
    in_flight: int = DEFAULT_IN_FLIGHT
    timeout_s: float = DEFAULT_TIMEOUT_S
    patience_s: float = DEFAULT_PATIENCE_S
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Equal where results may stand side by side: same settings, same weights."""
        parts = {
            "format": FORMAT,
            "config": self.config.to_json(),
            "options": asdict(self.options),
            "model": essentials(self.provenance),
        }
        text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def essentials(provenance: Mapping[str, Mapping[str, Any]]) -> dict[str, object]:
    """The part of a server's provenance that determines its scores."""
    tower = provenance.get(CLIP_IMAGE.name, {})
    rows = provenance.get(AESTHETIC_HEADS.name, {}).get("heads", ())
    names = (*_TOWER_FIELDS, _CALIBRATED) if _CALIBRATED in tower else _TOWER_FIELDS
    return {
        CLIP_IMAGE.name: {name: tower.get(name) for name in names},
        AESTHETIC_HEADS.name: [{name: row.get(name) for name in _HEAD_FIELDS} for row in rows],
    }


def tower_precision(provenance: Mapping[str, Mapping[str, Any]]) -> str:
    """The precision of the image tower, "fp32", "int8" and so on; "" where none is told."""
    return str(provenance.get(CLIP_IMAGE.name, {}).get("precision", ""))


def is_seeded(provenance: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a model has random weights, so that its scores mean nothing."""
    return any(SEEDED_WEIGHTS in str(fields.get("weights", "")) for fields in provenance.values())
