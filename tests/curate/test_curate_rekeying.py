"""New keys in tar entries and JSON: nothing else of the bytes changes."""

from __future__ import annotations

import io
import json
import tarfile

import pytest

from aesthetic_curate.rekeying import (
    Entry,
    OtherKeyError,
    end_of_tar,
    header,
    read_entries,
    rekeyed_json,
    tar_entries,
)

NEW, OLD = "000010002", "000000017"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"key": "000000017"}', '{"old_key": "000000017", "key": "000010002"}'),
        (
            '{ "a" : 1.10, "key":"000000017" ,\n'
            '"big": 12345678901234567890123, "k": [1, {"key": 2}] }',
            '{"old_key": "000000017",  "a" : 1.10, "key":"000010002" ,\n'
            '"big": 12345678901234567890123, "k": [1, {"key": 2}] }',
        ),
        ("{}", '{"key": "000010002", "old_key": "000000017"}'),
        (
            ' {"caption": "ä \\u00e4"}\n',
            ' {"key": "000010002", "old_key": "000000017", "caption": "ä \\u00e4"}\n',
        ),
        (
            '{"key": 17, "old_key": "first", "source_old_key": 0}',
            '{"old_key": "000000017", "key": "000010002", "source_source_old_key": "first", '
            '"source_old_key": 0}',
        ),
        (
            '{"key": "C minor"}',
            '{"key": "000010002", "old_key": "000000017", "source_key": "C minor"}',
        ),
        (
            '{"key": "a", "source_key": 1, "key": ["b"]}',
            '{"key": "000010002", "old_key": "000000017", "source_source_key": "a", '
            '"source_key": 1, "source_source_source_key": ["b"]}',
        ),
        (
            '{"key": "a", "key": "000000017"}',
            '{"old_key": "000000017", "source_key": "a", "key": "000010002"}',
        ),
        (
            '{"x": NaN, "y": -Infinity}',
            '{"key": "000010002", "old_key": "000000017", "x": NaN, "y": -Infinity}',
        ),
    ],
)
def test_only_the_key_changes(before: str, after: str) -> None:
    found = rekeyed_json(before.encode(), NEW, OLD, "old_key").decode()
    assert found == after
    assert json.loads(found)["key"] == NEW and json.loads(found)["old_key"] == OLD


@pytest.mark.parametrize(
    ("field", "value", "changed"),
    [
        ("id", '"000000017"', True),
        ("id", "17", True),
        ("id", "18", False),
        ("other", '"17"', False),
    ],
)
def test_the_id_field_follows_where_it_is_the_key(field: str, value: str, changed: bool) -> None:
    found = rekeyed_json(f'{{"{field}": {value}}}'.encode(), NEW, OLD, "old_key", "id")
    assert json.loads(found)[field] == (NEW if changed else json.loads(value))


@pytest.mark.parametrize(
    "data",
    [b"", b"[1]", b'"key"', b"{", b'{"key": }', b'{"key" 1}', b'{"key": "a"} x', b"{'key': 1}",
     b"\xff\xfe{}", b'{"a": 1 "b": 2}', b"{1: 2}", b'{"a": ' + b"[" * 100_000],
)  # fmt: skip
def test_what_is_no_object_keeps_its_bytes(data: bytes) -> None:
    assert rekeyed_json(data, NEW, OLD, "old_key") == data


def tar_of(*members: tuple[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """Raw entries, without an end."""
    parts = []
    for name, data in members:
        info = tarfile.TarInfo(name)
        info.size, info.mtime, info.uname, info.uid = len(data), 1_700_000_000.5, "somebody", 1000
        parts += [info.tobuf(form, errors="surrogateescape"), data, bytes(-len(data) % 512)]
    return b"".join(parts)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_entries_come_back_with_their_extensions(form: int) -> None:
    key = "part/" + "x" * 90
    raw = tar_of((f"{key}.JPG", b"image"), (f"{key}.seg.png", b""), form=form)
    entries = read_entries(raw, key)
    assert entries == [Entry("JPG", b"image", 1_700_000_000), Entry("seg.png", b"", 1_700_000_000)]
    written = b"".join(tar_entries(NEW, entries))
    written += end_of_tar(len(written))
    assert len(written) % tarfile.RECORDSIZE == 0
    with tarfile.open(fileobj=io.BytesIO(written)) as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == [f"{NEW}.JPG", f"{NEW}.seg.png"]
        assert {(one.uid, one.gid, one.uname, one.mode) for one in members} == {(0, 0, "", 0o644)}
        assert {member.mtime for member in members} == {1_700_000_000}
        assert tar.extractfile(members[0]).read() == b"image"  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["a.jpg", "ä" * 40 + ".json", "x" * 99 + ".jpg"])
@pytest.mark.parametrize("size", [0, 513, 8**11])
def test_headers_are_those_of_tarfile(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = size, 1_700_000_000
    assert header(name, size, 1_700_000_000) == info.tobuf(tarfile.GNU_FORMAT)


def test_what_webdataset_writes_takes_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tar_of(("a.jpg", b"image"), ("a.json", b"{}"))  # each with a pax header, for its mtime
    assert b"mtime=1700000000.5" in raw
    monkeypatch.delattr(tarfile, "open")
    assert read_entries(raw, "a") == [
        Entry("jpg", b"image", 1_700_000_000),
        Entry("json", b"{}", 1_700_000_000),
    ]


@pytest.mark.parametrize("mtime", [-5, -(10**9), 0, 8**11 - 1, 8**11, 2**40])
def test_times_of_every_age_are_read_and_written(mtime: int) -> None:
    info = tarfile.TarInfo("a.jpg")
    info.size, info.mtime = 5, mtime
    raw = info.tobuf(tarfile.GNU_FORMAT) + b"image" + bytes(507)
    entries = read_entries(raw, "a")
    assert entries == [Entry("jpg", b"image", mtime)]
    written = b"".join(tar_entries(NEW, entries))
    with tarfile.open(fileobj=io.BytesIO(written + end_of_tar(len(written)))) as tar:
        assert [(one.name, one.mtime) for one in tar] == [(f"{NEW}.jpg", max(0, mtime))]


def test_what_is_no_time_is_the_beginning_of_time() -> None:
    raw = bytearray(tar_of(("a.jpg", b"image"), form=tarfile.GNU_FORMAT))
    raw[136:148] = b"no time here"
    assert read_entries(bytes(raw), "a") == [Entry("jpg", b"image", 0)]


def test_the_times_in_gnu_headers_are_no_part_of_a_name() -> None:
    raw = bytearray(tar_of(("a.jpg", b"image"), form=tarfile.GNU_FORMAT))
    raw[345:357] = b"14524770400\0"  # the time of access, as tar --incremental notes it
    assert read_entries(bytes(raw), "a") == [Entry("jpg", b"image", 1_700_000_000)]


def test_names_in_other_encodings_are_found() -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    raw = tar_of((f"{name}.jpg", b"image"), form=tarfile.GNU_FORMAT)
    assert read_entries(raw, "caf\\xe9") == [Entry("jpg", b"image", 1_700_000_000)]


@pytest.mark.parametrize("name", ["b.jpg", "ab.jpg", "a/b.jpg", "a"])
def test_entries_of_another_sample_are_refused(name: str) -> None:
    with pytest.raises(OtherKeyError, match=f"'{name}' is no file of 'a'"):
        read_entries(tar_of(("a.json", b"{}"), (name, b"image")), "a")
