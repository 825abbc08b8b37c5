"""What `--weights` means, which files are accepted, and when `auto` gives up."""

from __future__ import annotations

import hashlib

import pytest

from aesthetic_client.contract import SEEDED_WEIGHTS
from aesthetic_client.errors import InputError
from aesthetic_export import files, sources
from aesthetic_export.files import FileStore, UnreachableError, WrongFileError
from aesthetic_export.hub import hub_file
from aesthetic_export.sources import load_heads, load_tower
from aesthetic_export.weights import (
    HUB_REPOSITORY,
    HUB_REVISION,
    OPENAI_ARCHIVE,
    OPENAI_SAFETENSORS,
    WeightsSpec,
    parse_weights,
    tower_file,
)
from towers import TINY

HASH = "ab" * 32


@pytest.mark.parametrize(
    ("text", "sha256", "expected"),
    [
        ("openai", None, WeightsSpec("openai")),
        ("auto", None, WeightsSpec("auto")),
        ("seeded:0", None, WeightsSpec("seeded", seed=0)),
        ("seeded:42", None, WeightsSpec("seeded", seed=42)),
        ("a/tower.pt", None, WeightsSpec("file", location="a/tower.pt")),
        ("t.safetensors", HASH, WeightsSpec("file", location="t.safetensors", sha256=HASH)),
        ("t.pt", f"sha256:{HASH.upper()}", WeightsSpec("file", location="t.pt", sha256=HASH)),
        ("https://h/t.pt", HASH, WeightsSpec("url", location="https://h/t.pt", sha256=HASH)),
    ],
)
def test_weights_are_parsed(text, sha256, expected):
    assert parse_weights(text, sha256=sha256) == expected


@pytest.mark.parametrize(
    ("text", "sha256", "says"),
    [
        ("seeded", None, "seeded:0"),
        ("seeded:", None, "whole number"),
        ("seeded:-1", None, "whole number"),
        ("seeded:1.5", None, "whole number"),
        (f"seeded:{2**63}", None, "whole number"),
        ("laion2b", None, "names no weights"),
        ("http://h/t.pt", HASH, "https://"),
        ("https://h/t.pt", None, "--sha256"),
        ("https://h/tower", HASH, r"\.safetensors"),
        ("openai", HASH, "--sha256"),
        ("t.pt", "abc", "64 hexadecimal"),
        ("t.pt", "g" * 64, "64 hexadecimal"),
    ],
)
def test_other_weights_are_refused(text, sha256, says):
    with pytest.raises(InputError, match=says):
        parse_weights(text, sha256=sha256)


def test_an_unknown_file_is_refused_with_its_hash_and_accepted_by_it(tmp_path):
    path = tmp_path / "tower.pt"
    path.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    store = FileStore(tmp_path / "cache")
    with pytest.raises(WrongFileError, match=f"--sha256 {digest}"):
        tower_file(parse_weights(str(path)), store)
    with pytest.raises(WrongFileError, match=digest):
        tower_file(parse_weights(str(path), sha256=HASH), store)
    found, sha256, source = tower_file(parse_weights(str(path), sha256=digest), store)
    assert (found, sha256, source) == (path, digest, "tower.pt")
    with pytest.raises(InputError, match="no such file"):
        tower_file(parse_weights(str(tmp_path / "absent.pt")), store)


def test_an_address_is_downloaded_checked_and_named_without_its_query(file_server, tmp_path):
    (file_server.folder / "tower.safetensors").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    url = f"{file_server.url}/tower.safetensors?download=true"
    spec = WeightsSpec("url", location=url, sha256=digest)
    path, sha256, source = tower_file(spec, FileStore(tmp_path / "cache"))
    assert path.read_bytes() == b"weights"
    assert path.suffix == ".safetensors"
    assert (sha256, source) == (digest, url)
    wrong = WeightsSpec("url", location=url, sha256=HASH)
    with pytest.raises(WrongFileError, match=digest):
        tower_file(wrong, FileStore(tmp_path / "cache"))


@pytest.mark.parametrize("file", [OPENAI_ARCHIVE, OPENAI_SAFETENSORS])
def test_openai_looks_into_the_weights_folder_and_refuses_an_impostor(tmp_path, file):
    (tmp_path / file.name).write_bytes(b"not it")
    for kind in ("openai", "auto"):  # `auto` forgives a silent network, never a wrong file
        with pytest.raises(WrongFileError, match=file.sha256):
            load_tower(parse_weights(kind), FileStore(tmp_path / "cache", (tmp_path,)), pytest.fail)


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    def refuse(*_: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(files, "_fetch", refuse)
    monkeypatch.setattr("aesthetic_export.hub._knock", refuse)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    build = sources.seeded_tower
    monkeypatch.setattr(sources, "seeded_tower", lambda seed: build(seed, TINY))


def test_auto_goes_on_with_seeded_weights_and_says_so(no_network, tmp_path):
    warnings: list[str] = []
    tower = load_tower(parse_weights("auto"), FileStore(tmp_path), warnings.append)
    heads = load_heads("auto", FileStore(tmp_path), warnings.append)
    assert tower.weights == SEEDED_WEIGHTS
    assert tower.source == "seeded:0"
    assert {head.weights for head in heads} == {SEEDED_WEIGHTS}
    assert len(warnings) == 2
    assert all("MEANINGLESS" in text and "unreachable" in text for text in warnings)


def test_only_auto_goes_on_without_a_network(no_network, tmp_path):
    with pytest.raises(UnreachableError, match="--weights auto"):
        load_tower(parse_weights("openai"), FileStore(tmp_path), pytest.fail)
    with pytest.raises(UnreachableError, match=r"linearMSE\.pth"):
        load_heads("published", FileStore(tmp_path), pytest.fail)


def test_auto_does_not_hide_a_host_that_refuses_the_file(file_server, monkeypatch, tmp_path):
    constants = "huggingface_hub.constants"
    address = f"{file_server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(f"{constants}.ENDPOINT", file_server.url)
    monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", address)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    with pytest.raises(InputError, match=f"{HUB_REPOSITORY} on .* answers 404"):
        load_tower(parse_weights("auto"), FileStore(tmp_path), pytest.fail)


def test_the_hubs_own_cache_serves_and_is_hashed(monkeypatch, tmp_path):
    cached = tmp_path / "model.safetensors"
    cached.write_bytes(b"weights")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: str(cached))
    monkeypatch.setattr("aesthetic_export.hub._knock", pytest.fail)
    file = files.PinnedFile(cached.name, "", hashlib.sha256(b"weights").hexdigest())
    assert hub_file(HUB_REPOSITORY, HUB_REVISION, file) == cached
    with pytest.raises(WrongFileError):
        hub_file(HUB_REPOSITORY, HUB_REVISION, OPENAI_SAFETENSORS)


def test_a_silent_hub_is_given_up_at_once(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", pytest.fail)
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:9 cannot be reached .*refused"):
        hub_file(HUB_REPOSITORY, HUB_REVISION, OPENAI_SAFETENSORS)


@pytest.mark.parametrize("choice", ["", "seeded", "seeded:x", "openai"])
def test_other_heads_are_refused(choice, tmp_path):
    with pytest.raises(InputError, match="names no heads"):
        load_heads(choice, FileStore(tmp_path), pytest.fail)
