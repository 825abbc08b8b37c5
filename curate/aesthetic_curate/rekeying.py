"""Gives a sample's tar entries and its JSON a new key, and changes nothing else of their bytes.

`ImageTextPairDataset.to_webdataset` of NeMo Curator 0.7 renamed the entries and left the id in
their JSON as it was; it also cut extensions down to what follows the last dot.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aesthetic_curate.columns import KEY, SOURCE_PREFIX

JSON = "json"
_DECODER = json.JSONDecoder()
_ONLY_TIMES = re.compile(rb"(\d+ [amc]time=[\d.]+\n)+")
_SPACE = re.compile(r"[ \t\n\r]*")
_RIGHTS = b"0000644\0" + 2 * b"0000000\0"  # mode, user, group
_REST = (b"0" + bytes(100) + tarfile.GNU_MAGIC).ljust(356, b"\0")  # type, magic, no names
_REST_SUM = sum(_REST) + 8 * 32  # the checksum's own field counts as blanks


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
    members = _plain_members(raw)
    if members is None:
        members = list(_members(raw))
    for name, _, _ in members:
        if not name.startswith(key + "."):
            raise OtherKeyError(f"{name!r} is no file of {key!r}")
    return [Entry(name[len(key) + 1 :], data, mtime) for name, data, mtime in members]


def tar_entries(key: str, entries: Iterable[Entry]) -> Iterator[bytes]:
    """Headers and data of the files under a key, without an owner or anything of this machine."""
    for entry in entries:
        yield header(f"{key}.{entry.extension}", len(entry.data), max(0, entry.mtime))
        yield entry.data
        yield bytes(-len(entry.data) % tarfile.BLOCKSIZE)


def header(name: str, size: int, mtime: int) -> bytes:
    """A file's header as tarfile makes it in GNU's format, four times as fast."""
    encoded = name.encode(errors="surrogateescape")
    if len(encoded) > tarfile.LENGTH_NAME or max(size, mtime) >= 8**11:
        info = tarfile.TarInfo(name)
        info.size, info.mtime = size, mtime
        return info.tobuf(tarfile.GNU_FORMAT)
    before = b"%s%s%011o\0%011o\0" % (encoded.ljust(100, b"\0"), _RIGHTS, size, mtime)
    checksum = sum(before) + _REST_SUM
    return before + b"%06o\0 " % checksum + _REST


def _plain_members(raw: bytes) -> list[tuple[str, bytes, int]] | None:
    """Name, data and mtime of plain entries; None where there is one of another kind.

    A pax header is skipped where it holds a time alone: webdataset writes one for each file.
    Checksums were looked at when the source was indexed.
    """
    found = []
    at = 0
    while at < len(raw):
        head = raw[at : at + tarfile.BLOCKSIZE]
        # A name in two parts, which only POSIX headers have; a size that is not octal.
        if (head[345] and head[257:265] == tarfile.POSIX_MAGIC) or head[124] & 0x80:
            return None
        at += tarfile.BLOCKSIZE
        size, mtime = _octal(head[124:136]), _seconds(head[136:148])
        data = raw[at : at + size]
        at += size + -size % tarfile.BLOCKSIZE
        if head[156] in tarfile.XHDTYPE and _ONLY_TIMES.fullmatch(data):
            continue
        if head[156] not in b"0\0":
            return None
        name = head[:100].partition(b"\0")[0].decode(errors="backslashreplace")
        found.append((name, data, mtime))
    return found


def _octal(field: bytes) -> int:
    return int(field.partition(b"\0")[0].strip() or b"0", 8)


def _seconds(field: bytes) -> int:
    """A time, which GNU writes to base 256 before 1970 and from 8**11 on; 0 for what is none."""
    if field[0] & 0x80:
        return int.from_bytes(field if field[0] == 0xFF else field[1:], "big", signed=True)
    try:
        return _octal(field)
    except ValueError:
        return 0


def _members(raw: bytes) -> Iterator[tuple[str, bytes, int]]:
    # Names in other encodings are spelt as in the scored parquet's keys.
    with tarfile.open(fileobj=io.BytesIO(raw), mode="r:", errors="backslashreplace") as tar:
        for member in tar:
            file = tar.extractfile(member)
            yield member.name, file.read() if file else b"", int(member.mtime)


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
    new key too where it holds the old one. A field that has `old_name` already, and a "key" that
    means something else, are kept under `source_` and that name. Bytes that are no JSON object come
    back as they are.
    """
    try:
        text = data.decode()
        begin, spans = _fields(text)
    except (ValueError, RecursionError):
        return data
    taken = {KEY, old_name, *(name for name, *_ in spans)}
    has_key = False
    edits: list[tuple[int, int, str]] = []
    for name, start, value_start, stop in spans:
        if name != old_name and name in (KEY, id_field) and _is(text[value_start:stop], old):
            has_key |= name == KEY
            edits.append((value_start, stop, _dumps(key)))
        elif name in (KEY, old_name):
            free = _free(name, taken)
            taken.add(free)
            edits.append((start, value_start, f"{_dumps(free)}: "))
    added = f"{_dumps(old_name)}: {_dumps(old)}" + (", " if spans else "")
    if not has_key:
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
    found = _SPACE.match(text, at)
    return found.end() if found else at


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
