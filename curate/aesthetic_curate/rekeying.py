"""Gives a sample's tar entries and its JSON a new key, and changes nothing else of their bytes.

`ImageTextPairDataset.to_webdataset` of NeMo Curator 0.7 renamed the entries and left the id in
their JSON as it was; it also cut extensions down to what follows the last dot.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aesthetic_curate.columns import KEY, SOURCE_PREFIX

JSON = "json"
_DECODER = json.JSONDecoder()
_SPACE = " \t\n\r"


@dataclass(frozen=True)
class Entry:
    """A file of a sample: what follows its key's dot, as spelt in the tar; mtime in seconds."""

    extension: str
    data: bytes
    mtime: int = 0


class OtherKeyError(ValueError):
    """Tar entries that are not of the sample that was asked for."""


def read_entries(raw: bytes, key: str) -> list[Entry]:
    """The files in a sample's raw tar entries. Raises OtherKeyError unless all are of `key`."""
    found = []
    # Names in other encodings are spelt as in the scored parquet's keys.
    with tarfile.open(fileobj=io.BytesIO(raw), mode="r:", errors="backslashreplace") as tar:
        for member in tar:
            if not member.name.startswith(key + "."):
                raise OtherKeyError(f"{member.name!r} is no file of {key!r}")
            file = tar.extractfile(member)
            data = file.read() if file else b""
            found.append(Entry(member.name[len(key) + 1 :], data, int(member.mtime)))
    return found


def tar_entries(key: str, entries: Iterable[Entry]) -> Iterator[bytes]:
    """Headers and data of the files under a key, without an owner or anything of this machine."""
    for entry in entries:
        header = tarfile.TarInfo(f"{key}.{entry.extension}")
        header.size, header.mtime = len(entry.data), max(0, entry.mtime)
        yield header.tobuf(tarfile.GNU_FORMAT)
        yield entry.data
        yield bytes(-len(entry.data) % tarfile.BLOCKSIZE)


def end_of_tar(size: int) -> bytes:
    """What ends a tar that has `size` bytes of entries."""
    end = 2 * tarfile.BLOCKSIZE
    return bytes(end + -(size + end) % tarfile.RECORDSIZE)


def new_json(key: str, old: str, old_name: str, fields: Mapping[str, Any]) -> bytes:
    """The JSON of a sample that had none."""
    return json.dumps({KEY: key, old_name: old, **fields}).encode()


def rekeyed_json(data: bytes, key: str, old: str, old_name: str, id_field: str = KEY) -> bytes:
    """A JSON object with `key` as its key, and the old one as `old_name`.

    Everything else keeps its bytes: the order, the numbers' digits, the spaces. `id_field` gets the
    new key too where it holds the old one. A field that has `old_name` already is kept under
    `source_` and that name. Bytes that are no JSON object come back as they are.
    """
    try:
        text = data.decode()
        begin, spans = _fields(text)
    except (ValueError, RecursionError):
        return data
    taken = {name for name, *_ in spans}
    edits: list[tuple[int, int, str]] = []
    for name, start, value_start, stop in spans:
        if name == old_name:
            edits.append((start, value_start, f"{_dumps(_free(old_name, taken))}: "))
        elif name == KEY or (name == id_field and _is(text[value_start:stop], old)):
            edits.append((value_start, stop, _dumps(key)))
    added = f"{_dumps(old_name)}: {_dumps(old)}" + (", " if spans else "")
    if KEY not in taken:
        added = f"{_dumps(KEY)}: {_dumps(key)}, {added}"
    edits.append((begin, begin, added))
    for start, stop, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[stop:]
    return text.encode()


def _fields(text: str) -> tuple[int, list[tuple[str, int, int, int]]]:
    """Where an object's fields begin; name, start, value's start and stop of each.

    Raises ValueError for what is no JSON object.
    """
    at = begin = _expect(text, _skip(text, 1 if text.startswith("\ufeff") else 0), "{")
    found: list[tuple[str, int, int, int]] = []
    at = _skip(text, at)
    while text[at : at + 1] != "}":
        start = at
        _expect(text, at, '"')
        name, at = _DECODER.raw_decode(text, at)
        value_start = _skip(text, _expect(text, _skip(text, at), ":"))
        _, stop = _DECODER.raw_decode(text, value_start)
        found.append((name, start, value_start, stop))
        at = _skip(text, stop)
        if text[at : at + 1] != "}":
            at = _skip(text, _expect(text, at, ","))
    if _skip(text, at + 1) != len(text):
        raise ValueError("something follows the object")
    return begin, found


def _skip(text: str, at: int) -> int:
    while text[at : at + 1] in _SPACE and at < len(text):
        at += 1
    return at


def _expect(text: str, at: int, character: str) -> int:
    if text[at : at + 1] != character:
        raise ValueError(f"{character} expected at {at}")
    return at + 1


def _is(value: str, key: str) -> bool:
    """Whether a field's JSON holds the key, as text or as a number (0.7 reads ids as such)."""
    found = json.loads(value)
    if isinstance(found, str):
        return found == key
    return isinstance(found, int) and key.isdecimal() and found == int(key)


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name = SOURCE_PREFIX + name
    return name


def _dumps(text: str) -> str:
    return json.dumps(text)
