"""What is said to those who would change a received row."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NoReturn

__all__ = ["absent", "refusing", "unchangeable"]


def unchangeable(action: str, kind: str) -> str:
    """Why that cannot be done to something of this kind, and what to do instead."""
    return f"cannot {action}: this {kind} is a view of a received row; change the copy that aster.materialize(...) makes"


def refusing(action: str, kind: str) -> Callable[..., NoReturn]:
    """An operator that cannot be applied to a view."""

    def refuse(_self: object, *_: object) -> NoReturn:
        raise TypeError(unchangeable(action, kind))

    return refuse


def absent(name: str, kind: str, methods: Collection[str]) -> AttributeError:
    """The error for an attribute that a list or dict in a row has not. ``methods``: what values of the kind have that changes or copies them."""
    return AttributeError(unchangeable(name, kind) if name in methods else f"{kind!r} object has no attribute {name!r}")
