"""When to try again: no answer is worth another try for a while, a refusal never is."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from aesthetic_client.errors import AestheticError, UnavailableError

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 2.0


@dataclass
class Retry:
    """One call's tries. `patience_s` bounds how long an unavailable server is waited for."""

    patience_s: float
    tries: int = 0
    started_s: float = 0.0

    def delay_s(self, error: AestheticError) -> float:
        """Seconds to sleep before the next try. Raises `error` where there is none."""
        if not isinstance(error, UnavailableError):
            raise error
        now = time.monotonic()
        # Patience counts from the first failure: the queue before it is not the server's absence.
        self.started_s = self.started_s or now
        left_s = self.patience_s - (now - self.started_s)
        if left_s <= 0:
            raise error
        delay_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(self.tries, 10)) * random.uniform(
            0.5, 1
        )
        self.tries += 1
        return min(delay_s, left_s)
