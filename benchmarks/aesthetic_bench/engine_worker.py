"""A process that holds one engine, and measures it turn by turn as its parent asks.

A question a line on stdin, an answer a line on stdout; see workers.py.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .company import Ticks
from .engine import cycled_batches
from .engine_kinds import LOADERS, Embed
from .measurements import Rate
from .memory import peak_rss_mib

Question = Mapping[str, Any]
Answer = dict[str, Any]
Act = Callable[[Question], Answer]

MATRIX = "matrix"  # the kind that multiplies, and embeds nothing


def time_turn(run: Callable[[int], object], batches: Sequence[int], seconds: float) -> list[Rate]:
    """Each batch size in its turn: once at least, and again until `seconds` have passed."""
    rates = []
    for batch in batches:
        times: list[float] = []
        while sum(times) < seconds:
            begin = time.perf_counter()
            run(batch)
            times.append(time.perf_counter() - begin)
        rates.append(Rate(batch, tuple(times)))
    return rates


def embedding_actions(embed: Embed, count: int) -> dict[str, Act]:
    """What can be asked of an engine: all `count` images' embeddings, and a turn."""
    take = cycled_batches(count)

    def embed_all(question: Question) -> Answer:
        np.save(question["file"], embed(list(range(count))))
        return {}

    def turn(question: Question) -> Answer:
        rates = time_turn(lambda size: embed(take(size)), question["batches"], question["seconds"])
        return {"rates": [rate.as_dict() for rate in rates]}

    embed([0])
    return {"embed": embed_all, "turn": turn}


def matrix_actions(task: Mapping[str, Any]) -> dict[str, Act]:
    """A turn of matrix products."""
    from .matrix_rates import MatrixRates
    from .work import Shape

    rates = MatrixRates(Shape(**task["shape"]))
    return {"turn": lambda question: {"gflop_per_s": rates.measure(question["seconds"])}}


def serve(task: Mapping[str, Any], questions: Any, answers: Any) -> None:
    """Load, answer `{}` once there is a first result, then question by question."""

    def say(answer: Answer) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        if task["kind"] == MATRIX:
            actions = matrix_actions(task)
        else:
            actions = embedding_actions(LOADERS[task["kind"]](task), task["count"])
    except ImportError as error:
        say({"skipped": f"{error.name or error} is not installed"})
        return
    say({})
    for line in questions:
        question = json.loads(line)
        before = Ticks.now()
        answer = actions[question["do"]](question)
        say({**answer, **Ticks.now().company_since(before), "peak_rss_mib": peak_rss_mib()})


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # libraries' announcements are not for a results file
    kept = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    serve(json.loads(sys.argv[1]), sys.stdin, kept)
