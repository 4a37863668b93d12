"""Exceptions that come in groups, taken apart."""

from __future__ import annotations

from typing import cast

__all__ = ["alone", "parted"]


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
