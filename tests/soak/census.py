"""Counts what calls could leave behind: tasks, timers, streams, objects, what containers hold, threads, descriptors and memory."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import AsyncGeneratorType, CellType, CoroutineType, FunctionType, GeneratorType, MethodType, TracebackType
from typing import Any, cast

import anyio

from aster.testing import live_connections
from tests.memory import resident

__all__ = ["Census", "count_everything", "resident_memory"]

Census = Counter[str]
"""How many there are of each thing, by its name."""

_PACKAGES = frozenset({"aster", "aioquic"})
_MODULES = frozenset({"tests.rpc.echo", "tests.soak.services", "tests.soak.sessions"})
"""Whose classes' objects are counted, with what their containers hold; the messages of the calls, and the sessions of a soak, are of these modules."""

_PLAIN = frozenset({AsyncGeneratorType, CoroutineType, GeneratorType, TracebackType, MethodType, FunctionType, CellType, asyncio.Task, asyncio.Future})
"""What calls are made of besides: each of these holds all that it refers to."""

_CONTAINERS = (list, dict, set, frozenset, deque, bytearray)
_DESCRIPTORS = Path("/dev/fd")


def count_everything() -> Census:
    """What there is once the garbage is collected: whether it needs to be is other tests' subject."""
    while gc.collect():
        pass
    census = Census(tasks=len(anyio.get_running_tasks()), threads=threading.active_count(), descriptors=len(os.listdir(_DESCRIPTORS)))
    for connection in live_connections():
        census[f"open streams of {_name(type(connection))}"] += connection.open_streams
    census["timers"] = sum(not timer.cancelled() for timer in _timers_of_asyncio())
    names: dict[type[object], str | None] = {}
    for thing in gc.get_objects():
        kind = cast("type[object]", type(thing))
        name = names[kind] if kind in names else names.setdefault(kind, _name(kind) if _is_counted(kind.__module__) else None)
        if name is not None:
            _count_object(name, thing, census)
        elif kind in _PLAIN:
            census[f"objects of {kind.__name__}"] += 1
    for name, module in list(sys.modules.items()):
        if _is_counted(name):
            _count_containers(name, vars(module).items(), census)
    # Names are the same in every census, and are kept once.
    return Census({sys.intern(name): count for name, count in census.items()})


def resident_memory() -> int | None:
    """Bytes of this process that are in memory, once the allocator has given back what it can; None where the system does not say."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return resident() or None


def _is_counted(module: object) -> bool:
    # Where classes are made in C it may be no text at all.
    return isinstance(module, str) and (module.partition(".")[0] in _PACKAGES or module in _MODULES)


def _name(kind: type[object]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _timers_of_asyncio() -> list[asyncio.TimerHandle]:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return []  # trio's are the reactor's own
    return getattr(loop, "_scheduled", [])


def _count_object(name: str, thing: object, census: Census) -> None:
    census[f"objects of {name}"] += 1
    if name == "aster._reactor._TrioTimer" and getattr(thing, "callback", None) is not None:
        census["timers"] += 1
    _count_containers(name, _attributes(thing), census)


def _count_containers(owner: str, attributes: Iterable[tuple[str, object]], census: Census) -> None:
    for attribute, value in attributes:
        if isinstance(value, _CONTAINERS):
            census[f"items in {owner}.{attribute}"] += _items(value)
        elif hasattr(value, "cache_info") and (info := cast("Any", value).cache_info()).maxsize is None:  # one with a limit may fill up
            census[f"items in the cache of {owner}.{attribute}"] += info.currsize


def _attributes(thing: object) -> Iterator[tuple[str, object]]:
    yield from getattr(thing, "__dict__", {}).items()
    for kind in type(thing).__mro__:
        for slot in kind.__dict__.get("__slots__", ()):
            with contextlib.suppress(AttributeError):
                yield slot, getattr(thing, slot)


def _items(container: Any) -> int:
    """How many items a container has, with those of containers in it."""
    if isinstance(container, bytearray):
        return len(container)
    items: Any = cast("Any", container).values() if isinstance(container, dict) else container
    return len(items) + sum(_items(item) for item in items if isinstance(item, _CONTAINERS))
