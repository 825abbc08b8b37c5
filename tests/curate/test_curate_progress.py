"""What a run says of itself while it goes on."""

from __future__ import annotations

import pytest

from aesthetic_curate.cli import _progress
from aesthetic_curate.cli._progress import Bar
from aesthetic_curate.runs import Progress


@pytest.mark.parametrize(
    ("moment", "share"),
    [
        (Progress(0), 0),
        (Progress(1), 0.25),
        (Progress(0, samples=50, begun=2, expected=200), 0.125),
        (Progress(2, samples=5, begun=3, expected=15), 0.25),
        (Progress(4, samples=90, begun=4, expected=80), 1),
    ],
)
def test_the_share_of_four_shards(moment: Progress, share: float) -> None:
    assert moment.share(4) == share


def test_a_log_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(_progress.time, "monotonic", lambda: now[0])
    with Bar(10, 2) as bar:
        bar.show(Progress(0, 1, 0, 1, 500))
        assert capsys.readouterr().err == ""
        now[0] = 131.0
        bar.show(Progress(1, 1000, 3, 2, 1000))
        now[0] = 132.0
        bar.show(Progress(1, 1001, 3, 2, 1000))
    lines = capsys.readouterr().err.splitlines()
    # 1,000 of an expected 4,000 samples took no time yet: the clock runs from the first of them.
    assert lines == ["3/10 shards, 1,000 samples, 3 without a score"]


def test_the_time_left_follows_the_samples(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(_progress.time, "monotonic", lambda: now[0])
    bar = Bar(10, 2)
    monkeypatch.setattr(_progress, "LINE_EVERY_S", 0)
    bar.show(Progress(0, 1, 0, 1, 500))
    now[0] = 1000.0
    bar.show(Progress(1, 1000, 0, 2, 1000))
    now[0] = 100_000.0
    bar.show(Progress(1, 1000, 0, 2, 1000))
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "3/10 shards, 1,000 samples, 1.0/s, 50 min left"
    assert lines[2].endswith("83 h 20 min left")


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.4, "4 s"), (600, "10 min"), (11_100, "3 h 05 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert _progress._duration(seconds) == text
