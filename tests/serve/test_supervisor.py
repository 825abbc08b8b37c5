"""When a server counts as stuck, and when it is only busy; without a server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aesthetic_serve import StartError
from aesthetic_serve.probe import CanaryError
from aesthetic_serve.supervisor import Policy, Supervisor

QUICK = Policy(
    check_every_s=0.01, canary_every_s=0.02, canary_deadline_s=0.05, max_restarts=2, window_s=60
)


class FakeProcess:
    """A server that runs until it is stopped."""

    pid = -1
    stubs: frozenset[int] = frozenset()

    def __init__(self) -> None:
        self.running = True

    def is_running(self) -> bool:
        return self.running

    def stop(self, grace_s: float) -> None:
        assert grace_s == 0, "nothing to wait for in a server that does not work"
        self.running = False


class FakeProbe:
    """Answers a growing number of images, and the canary as told."""

    def __init__(self, canary: Callable[[], float], traffic: int = 0) -> None:
        self.answered = 0
        self.traffic = traffic
        self.canary = canary
        self.canaries = 0

    def successes(self) -> dict[str, int]:
        self.answered += self.traffic
        return {"aesthetic": self.answered, "aesthetic_heads": 10 * self.answered + 7}

    def score_canary(self, timeout_s: float) -> float:
        self.canaries += 1
        return self.canary()


class Watched:
    """A supervisor at work over fakes."""

    def __init__(self, probe: FakeProbe, launches: list[Any] | None = None) -> None:
        self.stopping = threading.Event()
        self.launches = launches if launches is not None else [FakeProcess() for _ in range(9)]
        self.supervisor = Supervisor(
            self._launch,
            probe,  # type: ignore[arg-type]
            canary=True,
            log=Path("/nowhere"),
            stopping=self.stopping,
            policy=QUICK,
        )

    def _launch(self) -> Any:
        launched = self.launches.pop(0)
        if isinstance(launched, Exception):
            raise launched
        return launched

    def run(self, seconds: float) -> Supervisor:
        self.supervisor.watch(self._launch())
        self.supervisor.finished.wait(seconds)
        self.stopping.set()
        self.supervisor.join(10)
        assert self.supervisor.finished.is_set()
        return self.supervisor


def fine() -> float:
    return 5.0


def late() -> float:
    time.sleep(0.05)
    raise TimeoutError


def broken() -> float:
    raise CanaryError("no")


def test_an_idle_server_is_asked_and_left_alone() -> None:
    probe = FakeProbe(fine)
    assert Watched(probe).run(0.4).restarts == 0
    assert probe.canaries > 2


def test_real_traffic_is_proof_enough() -> None:
    probe = FakeProbe(broken, traffic=1)
    assert Watched(probe).run(0.4).restarts == 0
    assert probe.canaries == 0, "the canary must not compete with real images"


def test_a_late_canary_behind_a_long_queue_is_no_failure() -> None:
    probe = FakeProbe(fine)

    def late_but_others_are_answered() -> float:
        probe.answered += 1
        return late()

    probe.canary = late_but_others_are_answered
    assert Watched(probe).run(0.5).restarts == 0
    assert probe.canaries > 2


@pytest.mark.parametrize("canary", [late, broken])
def test_no_answer_and_no_traffic_is_a_failure(canary: Callable[[], float]) -> None:
    probe = FakeProbe(canary)
    watched = Watched(probe)
    first = watched.launches[0]
    assert watched.run(0.5).restarts >= 1
    assert not first.running


def test_answers_of_the_heads_alone_do_not_hide_a_stuck_tower() -> None:
    # `aesthetic_heads` answers stored embeddings; the images' count stands still.
    probe = FakeProbe(broken)
    assert Watched(probe).run(0.5).restarts >= 1


def test_a_restart_that_fails_is_tried_again() -> None:
    watched = Watched(FakeProbe(fine), [FakeProcess(), StartError("no luck"), FakeProcess()])
    watched.launches[0].running = False
    assert watched.run(3).restarts == 1
    assert watched.supervisor.failure is None


def test_it_gives_up_with_the_last_problem() -> None:
    watched = Watched(FakeProbe(fine), [FakeProcess(), StartError("one"), StartError("two")])
    watched.launches[0].running = False
    supervisor = watched.run(5)
    assert "gave up after 2 restarts in 60 s (two)" in str(supervisor.failure)


def test_restarts_pause_longer_each_time() -> None:
    watched = Watched(FakeProbe(fine))
    pauses = [watched.supervisor._pause_before_restart("x") for _ in range(2)]
    assert pauses == [0.0, 1.0]
