"""How much memory a thing has to itself."""

from __future__ import annotations

import gc
import sys
from collections.abc import Collection
from enum import Enum
from types import FunctionType, ModuleType

__all__ = ["held"]


def held(thing: object, shared: Collection[object] = (), shared_types: tuple[type, ...] = ()) -> int:
    """Bytes of all objects that belong to one thing; what is shared is left out, by itself or by its type."""
    left_out = set(map(id, shared))
    seen, total, stack = set[int](), 0, list[object]([thing])
    while stack:
        item = stack.pop()
        if id(item) in seen or id(item) in left_out or isinstance(item, (type, ModuleType, FunctionType, Enum, *shared_types)):
            continue
        seen.add(id(item))
        total += sys.getsizeof(item)
        stack += gc.get_referents(item)
    return total
