"""Which weights the image tower gets: a small value type, parsed from what the user typed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from aesthetic_client.errors import InputError
from aesthetic_export.files import FileStore, PinnedFile, WrongFileError, checked, sha256_of
from aesthetic_export.hub import hub_file

Kind = Literal["openai", "file", "url", "seeded", "auto"]

HUB_REPOSITORY = "openai/clip-vit-large-patch14"
HUB_REVISION = "32bd64288804d66eefd0ccbe215aa642df71cc41"
# OpenAI's weights as the Hugging Face hub holds them;
OPENAI_SAFETENSORS = PinnedFile(
    "model.safetensors",
    f"https://huggingface.co/{HUB_REPOSITORY}/resolve/{HUB_REVISION}/model.safetensors",
    "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb",
    1710540580,
)
# The same weights as OpenAI published them: a TorchScript archive, fp16 inside.
OPENAI_ARCHIVE = PinnedFile(
    "ViT-L-14.pt",
    "https://openaipublic.azureedge.net/clip/models/"
    "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
    "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
)
KNOWN = {file.sha256: file for file in (OPENAI_SAFETENSORS, OPENAI_ARCHIVE)}
SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")

USAGE = (
    "openai (from the Hugging Face hub), auto (the same, or seeded:0 without a network), "
    "seeded:N (random), a .pt or .safetensors file, or an https:// address with --sha256"
)


@dataclass(frozen=True)
class WeightsSpec:
    """Parsed `--weights`. `seed` is of `seeded`, `location` and `sha256` of `file` and `url`."""

    kind: Kind
    seed: int = 0
    location: str = ""
    sha256: str | None = None


def parse_weights(text: str, *, sha256: str | None = None) -> WeightsSpec:
    """What `text` names; see USAGE. Raises InputError for anything else."""
    digest = _parsed_digest(sha256)
    if text in ("openai", "auto", "seeded") or text.startswith("seeded:"):
        if digest is not None:
            raise InputError(f"--sha256 belongs to a file or an address, not to {text!r}")
        if text == "openai" or text == "auto":
            return WeightsSpec("openai" if text == "openai" else "auto")
        seed = text.partition(":")[2]
        if not (seed.isascii() and seed.isdigit() and int(seed) < 2**63):
            raise InputError(f"{text!r} needs a seed, a whole number from 0 on: seeded:0")
        return WeightsSpec("seeded", seed=int(seed))
    if "://" in text:
        if not text.startswith("https://"):
            raise InputError(f"{text!r}: weights come over https:// only")
        if digest is None:
            raise InputError(f"{text}: an address needs --sha256, the SHA-256 of its file")
        if not _file_name(text).endswith(SUFFIXES):
            raise InputError(f"{text} does not end in a file of {', '.join(SUFFIXES)}")
        return WeightsSpec("url", location=text, sha256=digest)
    if not text.endswith(SUFFIXES):
        raise InputError(f"{text!r} names no weights; use {USAGE}")
    return WeightsSpec("file", location=text, sha256=digest)


def tower_file(spec: WeightsSpec, store: FileStore) -> tuple[Path, str, str]:
    """The checkpoint of a spec other than `seeded`: its path, its SHA-256, and its source in words.

    `openai` and `auto` look into the store's folders before they ask the hub.
    Raises InputError: WrongFileError for a hash, UnreachableError for a silent host.
    """
    if spec.kind == "file":
        path = Path(spec.location).expanduser()
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        sha256 = _accepted(path, spec.sha256)
        return path, sha256, KNOWN[sha256].url if sha256 in KNOWN else path.name
    if spec.kind == "url":
        assert spec.sha256 is not None
        file = PinnedFile(_file_name(spec.location), spec.location, spec.sha256)
        return store.obtain(file), spec.sha256, spec.location
    if archive := store.local(OPENAI_ARCHIVE.name):
        checked(archive, OPENAI_ARCHIVE.sha256)
        return archive, OPENAI_ARCHIVE.sha256, OPENAI_ARCHIVE.url
    file = OPENAI_SAFETENSORS
    if found := store.local(file.name):
        return checked(found, file.sha256), file.sha256, file.url
    return hub_file(HUB_REPOSITORY, HUB_REVISION, file), file.sha256, file.url


def _file_name(url: str) -> str:
    return urlsplit(url).path.rsplit("/", 1)[-1]


def _accepted(path: Path, sha256: str | None) -> str:
    """The file's SHA-256, if the user or this project knows it. Raises WrongFileError."""
    if sha256 is not None:
        checked(path, sha256)
        return sha256
    found = sha256_of(path)
    if found not in KNOWN:
        raise WrongFileError(
            f"{path} is none of the known ViT-L/14 checkpoints; its SHA-256 is {found}. "
            f"If you trust it, say so: --sha256 {found}"
        )
    return found


def _parsed_digest(text: str | None) -> str | None:
    if text is None:
        return None
    digest = text.lower().removeprefix("sha256:")
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise InputError(f"--sha256 {text!r} is not a SHA-256: 64 hexadecimal digits")
    return digest
