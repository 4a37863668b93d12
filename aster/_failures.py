"""Exceptions that come in groups, taken apart."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import anyio

from aster.errors import DecodeError, RpcError

__all__ = ["alone", "parted", "shown", "text_of", "told_apart", "unreadable"]

_SHOWN_TEXT_LIMIT = 4_096
"""Characters of an exception's text that the caller is shown: enough to find it in the log, and far below the limit of a trailer."""


def parted(exc: BaseException, kind: type[BaseException]) -> tuple[BaseException | None, BaseException | None]:
    """What is of a kind, and the rest: of a group both may be there."""
    if isinstance(exc, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", exc).split(kind)
    return (exc, None) if isinstance(exc, kind) else (None, exc)


def alone(exc: BaseException) -> BaseException:
    """What a group of exactly one exception holds, however deep: it was raised in a task group of the handler's own."""
    if not isinstance(exc, BaseExceptionGroup):
        return exc
    group = cast("BaseExceptionGroup[BaseException]", exc)
    return alone(group.exceptions[0]) if len(group.exceptions) == 1 else group


def unreadable(exc: BaseException) -> DecodeError | None:
    """What could not be read of a row, if that is what has failed: alone, or in a group with nothing else that was not meant, of several tasks that read."""
    leaves = list(_leaves(exc))
    found = [leaf for leaf in leaves if isinstance(leaf, DecodeError) and leaf.of_row]
    if not found or not all(leaf in found or isinstance(leaf, RpcError) for leaf in leaves):
        return None
    return next((error for error in found if error.is_request), found[0])


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", exc).exceptions:
            yield from _leaves(inner)
    else:
        yield exc


def shown(exc: BaseException) -> str:
    """A bug as ``debug`` shows it to the caller."""
    return f"{type(exc).__name__}: {text_of(exc)}"


def text_of(exc: BaseException) -> str:
    """What an exception says, unless it is very long, which a peer may have had it say."""
    try:
        text = str(exc)
    except Exception as failure:
        return f"(its text cannot be had: {type(failure).__name__})"
    return text if len(text) <= _SHOWN_TEXT_LIMIT else f"{text[:_SHOWN_TEXT_LIMIT]} ... ({len(text)} characters)"


def told_apart(exc: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """What a user's function raised in a task of ours, as two: cancellation that came from outside, and its own failure. At least one of them is there.

    Raises:
        BaseException: ``exc``, which holds an interrupt of the program.
    """
    if parted(exc, KeyboardInterrupt)[0] is not None:
        raise exc
    # A task group of the function's can raise several things together, on trio failures and cancellation among them, which part here.
    cancellation, failure = parted(exc, anyio.get_cancelled_exc_class())
    # Where no scope around the function is cancelled, it raised cancellation by hand, and that is just another bug.
    if cancellation is None or anyio.current_effective_deadline() > -math.inf:
        return None, exc
    return cancellation, failure
