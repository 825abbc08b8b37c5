"""What is sent, and the processes it is sent by."""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from aesthetic_bench import inputs
from aesthetic_bench.children import run_child
from aesthetic_bench.errors import BenchError
from aesthetic_bench.machine import git_commit, machine
from PIL import Image


def test_bytes_travel_with_their_length(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(b"\xff\xd8" * 150)
    rows = json.loads(inputs.write_image_data([file, file], tmp_path / "in.json").read_text())
    element = base64.b64decode(rows["data"][1]["image"]["b64"])
    assert element == b"\x2c\x01\x00\x00" + b"\xff\xd8" * 150


def test_pixels_travel_as_they_are(tmp_path: Path) -> None:
    pixels = np.arange(2 * 224 * 224 * 3, dtype=np.uint32).astype(np.uint8).reshape(2, 224, 224, 3)
    rows = json.loads(inputs.write_pixel_data(pixels, tmp_path / "in.json").read_text())
    assert base64.b64decode(rows["data"][1]["pixels"]["b64"]) == pixels[1].tobytes()


def test_made_up_images_are_always_the_same(tmp_path: Path) -> None:
    first, second = inputs.make_images(tmp_path, 2)
    with Image.open(first) as image:
        assert image.size == inputs.MADE_UP_SIZE
    content = first.read_bytes()
    assert 300_000 < len(content) < 900_000  # a photograph's, and not the other image's
    assert content != second.read_bytes()
    assert inputs.make_images(tmp_path, 1)[0].read_bytes() == content


def test_images_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for i in range(10):
        Image.new("RGB", (300 + i, 200), (i, 0, 0)).save(tmp_path / "deep" / f"{i}.png")
    (tmp_path / "0-broken.jpg").write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("no image")
    images = inputs.load_images(tmp_path, tmp_path)
    assert [file.name for file in images.files] == [f"{i}.png" for i in range(8)]
    assert images.pixels.shape == (8, 224, 224, 3)
    about = images.as_dict()
    assert (about["count"], about["formats"]) == (8, ["PNG"])
    assert str(tmp_path) not in str(about)


def test_a_folder_without_images(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(BenchError, match="image"):
            inputs.load_images(folder, tmp_path)


def test_a_child_that_fails() -> None:
    with pytest.raises(BenchError, match="code 3; its last lines:\nwhy"):
        run_child([sys.executable, "-c", "print('why'); raise SystemExit(3)"], timeout_s=30)


@pytest.mark.parametrize("deaf", [False, True])
def test_a_child_that_does_not_end_is_ended(
    tmp_path: Path, deaf: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aesthetic_bench.children.TERMINATE_S", 0.5)
    deafness = "signal.signal(signal.SIGTERM, signal.SIG_IGN);" if deaf else ""
    note = tmp_path / "pid"
    script = f"import os,signal,time;{deafness}open({str(note)!r},'w').write(str(os.getpid()));"
    with pytest.raises(BenchError, match="did not end within 2 s"):
        run_child([sys.executable, "-c", f"{script}time.sleep(60)"], timeout_s=2)
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def test_the_machine_is_described_without_its_name() -> None:
    about = machine()
    cores = about["usable_cores"]
    assert isinstance(cores, int) and cores >= 1
    assert os.uname().nodename not in json.dumps(about)


def test_no_commit_outside_of_a_checkout(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None
