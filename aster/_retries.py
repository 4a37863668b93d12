"""When to try again: the waits between attempts, and the budget that keeps a failing server from being asked ever more."""

from __future__ import annotations

import random

__all__ = ["FIRST_WAIT", "LONGEST_WAIT", "MAX_ATTEMPTS", "TOKENS", "Backoff", "RetryBudget"]

MAX_ATTEMPTS = 5
"""How often a call of an idempotent method is made at the most, the first time included; what gRPC allows at the most (gRFC A6)."""

FIRST_WAIT = 0.1
"""Seconds at the most before the first repetition of an idempotent call."""

LONGEST_WAIT = 2.0
"""Seconds at the most before any of them."""

TOKENS = 10.0
"""What a client's budget holds when all is well. A failed attempt that might be repeated takes one, a call that succeeds gives back ``_RETURN``, and no
idempotent call is repeated while half of them or fewer are left: the example of gRFC A6. So one call in ten may fail and be repeated for ever; when all fail,
repeating stops soon. Refused calls, which no handler saw, are outside of it."""

_RETURN = 0.1


class Backoff:
    """The seconds to wait before each further attempt: twice as long each time, and at random between that and its half, so that many do not come at once.

    Args:
        first: seconds before the first one, at the most.
        most: seconds that no wait exceeds.
        at_once: whether the very first attempt is made without one.
    """

    __slots__ = ("_at_once", "_first", "_is_first", "_most", "_steps")

    def __init__(self, first: float, most: float, *, at_once: bool = False) -> None:
        self._first = first
        self._most = most
        self._at_once = self._is_first = at_once
        self._steps = 0

    def next(self) -> float:
        """Seconds before the attempt that is due."""
        if self._is_first:
            self._is_first = False
            return 0.0
        delay = min(self._first * 2.0**self._steps, self._most)
        if delay < self._most:
            self._steps += 1
        return delay * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Begin again with the first wait."""
        self._steps, self._is_first = 0, self._at_once


class RetryBudget:
    """What the calls of one client may spend on being repeated."""

    __slots__ = ("_loss", "tokens")

    def __init__(self) -> None:
        self.tokens = TOKENS
        self._loss: BaseException | None = None

    def spend(self, loss: BaseException | None) -> bool:
        """Pay for a failed attempt; whether another one is allowed.

        Args:
            loss: of the connection, if that was the cause; it is paid for once, not by each of its calls.
        """
        if loss is None or loss is not self._loss:
            self.tokens = max(self.tokens - 1.0, 0.0)
            self._loss = loss or self._loss
        return self.tokens > TOKENS / 2

    def earn(self) -> None:
        """A call has succeeded."""
        self.tokens = min(self.tokens + _RETURN, TOKENS)
