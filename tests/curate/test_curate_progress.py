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


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(_progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_now_and_then(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Bar(10, 2) as bar:
        for second in range(0, 66):
            clock[0] = float(second)
            bar.show(Progress(second // 10, 100 * second, second // 20, 2, 4000))
    lines = capsys.readouterr().err.splitlines()
    # 100 a second from the first sample on; 16,000 are expected in the eight shards.
    assert lines == [
        "5/10 shards, 3,000 samples, 100.0/s, 2 min left, 1 without a score",
        "8/10 shards, 6,000 samples, 100.0/s, 2 min left, 3 without a score",
    ]


def test_a_run_that_waits_says_so(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar(10, 0)
    clock[0] = 40.0
    bar.show(Progress(0))
    clock[0] = 80.0
    bar.show(Progress(0, 50, 0, 1, 100))
    clock[0] = 111.0
    bar.show(Progress(0, 50, 0, 1, 100))
    assert capsys.readouterr().err.splitlines() == [
        "0/10 shards, nothing for 40 s: waiting for the servers?",
        "0/10 shards, 50 samples",
        "0/10 shards, 50 samples, nothing for 31 s: waiting for the servers?",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.4, "4 s"), (600, "10 min"), (11_100, "3 h 05 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert _progress._duration(seconds) == text
