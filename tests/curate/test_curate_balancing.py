"""Which server is asked, and when all of them are given up; with clients that do as told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest

from aesthetic_client import UnavailableError
from aesthetic_curate.balancing import Balancer
from aesthetic_curate.errors import MixedResultsError, StoppedError

WEIGHTS = {"clip_image": {"weights_sha256": "a"}}


class Told:
    """A client whose server does as it is told."""

    def __init__(self, name: str, answer: Callable[[], Any], weights: Any = WEIGHTS) -> None:
        self.address = name
        self.answer, self.weights = answer, weights
        self.asked = 0

    def provenance(self) -> Any:
        self.answer()
        return self.weights

    def close(self) -> None:
        """Nothing is open."""

    def score(self) -> Any:
        self.asked += 1
        return self.answer()


def away() -> Any:
    raise UnavailableError("the server is away")


def balancer(*clients: Told, slots: int = 4, patience_s: float = 30) -> Balancer:
    return Balancer(clients, slots, 1.0, patience_s)  # type: ignore[arg-type]


def score(client: Any) -> Any:
    return client.score()


def test_what_one_server_leaves_another_answers() -> None:
    dead, alive = Told("dead", away), Told("alive", lambda: 5)
    both = balancer(dead, alive)
    assert [both.ask(score) for _ in range(20)] == [5] * 20
    assert alive.asked == 20


def test_a_server_that_says_nothing_holds_up_no_request() -> None:
    """Its check may take until the deadline; the requests go to the others meanwhile."""
    deadline = threading.Event()

    def hang() -> Any:
        assert deadline.wait(20)
        raise UnavailableError("no answer")

    silent, alive = Told("silent", hang), Told("alive", lambda: 5)
    both = balancer(silent, alive)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: both.ask(score), range(200))) == [5] * 200
    assert (silent.asked, alive.asked) == (0, 200)
    deadline.set()


def test_requests_that_hang_take_only_their_own_slots() -> None:
    """A server that stops answering keeps the calls that were on their way to it, and no more."""
    deadline, broken = threading.Event(), threading.Event()

    def perhaps() -> Any:
        if broken.is_set():
            deadline.wait(20)
            raise UnavailableError("no answer")
        return 5

    breaks, alive = Told("breaks", perhaps), Told("alive", lambda: time.sleep(0.005) or 5)
    both = balancer(breaks, alive, slots=2)
    assert both.ask(score) == 5
    broken.set()
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(both.ask, score) for _ in range(100)]
        waiting = wait(futures, 2).not_done
        assert len(waiting) <= 2
        deadline.set()
        assert [future.result(20) for future in futures] == [5] * 100


@pytest.mark.parametrize("threads", [1, 32])
def test_patience_ends_for_everybody_at_once(threads: int) -> None:
    dead = balancer(Told("one", away), Told("two", away), patience_s=0.5)
    begun = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(dead.ask, score) for _ in range(threads)]
        for future in futures:
            with pytest.raises(
                StoppedError, match=r"no answer for 0\.5 s from one, two \(the serv"
            ):
                future.result(20)
    assert time.monotonic() - begun < 8


def test_who_asks_anew_has_patience_anew() -> None:
    client = Told("one", away)
    one = balancer(client, patience_s=0.3)
    with pytest.raises(StoppedError):
        one.ask(score)
    client.answer = lambda: 5
    assert one.ask(score) == 5


def test_a_server_that_comes_back_with_other_weights_is_refused() -> None:
    client = Told("one", lambda: 5)
    one = balancer(client)
    assert one.ask(score) == 5
    client.answer = away
    comes_back = threading.Timer(0.5, setattr, [client, "answer", lambda: 6])
    client.weights = {"clip_image": {"weights_sha256": "b"}}
    comes_back.start()
    with pytest.raises(MixedResultsError, match="one serves different weights"):
        one.ask(score)


def test_close_ends_what_waits() -> None:
    one = balancer(Told("one", away))
    threading.Timer(0.3, one.close).start()
    with pytest.raises(StoppedError, match="the run was stopped"):
        one.ask(score)
