"""Calls leave nothing behind, however many there are and however they end; and what is left behind is found, by its name."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from aster._outgoing import OutgoingCall
from tests.backends import require_backend
from tests.rpc.probes import on_asyncio
from tests.soak.__main__ import main
from tests.soak.census import Census
from tests.soak.run import Mark
from tests.soak.sessions import Seat
from tests.soak.verdict import growths

_ROOT = Path(__file__).parent.parent.parent

_PATIENCE = 1_700
"""Seconds for one soak. The longest takes a minute and a half of one core that has nothing else to do; a busy machine was ten times as slow."""

_WHOLE = ("--calls", "100000", "--failures", "10000")
_TENTH = ("--calls", "10000", "--failures", "1000", "--marks", "4", "--warm-up", "1500")

_SOAKS = {("quic", "asyncio"): _WHOLE, ("quic", "trio"): _TENTH, ("memory", "asyncio"): _TENTH, ("memory", "trio"): _TENTH}


@pytest.mark.timeout(_PATIENCE + 60)  # a hundred thousand calls take their time; what hangs fails here too, only later
@pytest.mark.parametrize(("transport", "backend"), _SOAKS)
def test_calls_leave_nothing_behind_however_many_and_however_they_fail(transport: str, backend: str) -> None:
    """A program of its own: what other tests have made, and what a runner of tests keeps of logs and failures, would be counted as well."""
    require_backend(backend)
    command = [sys.executable, "-W", "error", "-m", "tests.soak", "--transport", transport, "--backend", backend, *_SOAKS[transport, backend]]
    environment = os.environ | {"PYTHONPATH": str(_ROOT)}
    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False, timeout=_PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr


_kept: list[object] = []


def _leave_a_timer(call: OutgoingCall) -> None:
    reactor: Any = call._reactor  # pyright: ignore[reportPrivateUsage]
    reactor.call_at(reactor.now() + 3_600, _nothing)


def _nothing() -> None:
    """What the timers of a leak would do."""


def _leave_a_task(_: object) -> None:
    if on_asyncio():
        _kept.append(asyncio.ensure_future(anyio.sleep_forever()))
    else:
        from trio.lowlevel import spawn_system_task

        spawn_system_task(anyio.sleep_forever)


def _remember_in_the_connection(call: OutgoingCall) -> None:
    owner: Any = call._owner  # pyright: ignore[reportPrivateUsage]
    owner.__dict__.setdefault("_ended", set()).add(next(_numbers))


_numbers = itertools.count()

_LEAKS: list[tuple[str, str, type, str, Callable[[Any], None]]] = [
    ("tasks", "asyncio", OutgoingCall, "begin", _leave_a_task),
    ("tasks", "trio", OutgoingCall, "begin", _leave_a_task),
    ("timers", "asyncio", OutgoingCall, "begin", _leave_a_timer),
    ("timers", "trio", OutgoingCall, "begin", _leave_a_timer),
    ("objects of aster._outgoing.OutgoingCall", "asyncio", OutgoingCall, "begin", _kept.append),
    ("items in aster._client_connection.ClientConnection._ended", "asyncio", OutgoingCall, "begin", _remember_in_the_connection),
    ("objects of tests.soak.sessions.Seat", "asyncio", Seat, "__init__", _kept.append),
]


@pytest.mark.parametrize(("name", "backend", "cls", "method", "leak"), _LEAKS)
def test_what_is_left_behind_is_found_by_its_name(
    name: str, backend: str, cls: type, method: str, leak: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    require_backend(backend)
    called = getattr(cls, method)

    def call_and_leak(self: object, *args: Any, **kwargs: Any) -> None:
        called(self, *args, **kwargs)
        leak(self)

    monkeypatch.setattr(cls, method, call_and_leak)
    with pytest.raises(SystemExit) as stopped:
        main(["--transport", "memory", "--backend", backend, "--calls", "250", "--failures", "80", "--marks", "1", "--warm-up", "100"])
    _kept.clear()
    assert f"memory, {backend}: {name}: " in str(stopped.value)


@pytest.mark.parametrize("part", ["calls", "failures"])
def test_memory_that_grows_by_an_object_a_call_is_found_where_no_count_shows_it(part: str) -> None:
    def marks(block: float, each: float) -> list[Mark]:
        numbers = range(10_000, 100_001, 10_000)
        grown = [Mark(calls, part, 1.0, Census(), 250_000 + int(block * calls), (60 << 20) + int(each * calls)) for calls in numbers]
        return [Mark(0, "warm-up", 0.0, Census(), 250_000, 60 << 20), *grown]

    assert growths(marks(0.0, 0.0)) == []
    assert growths(marks(0.01, 8.0)) == []
    assert [growth.partition(":")[0] for growth in growths(marks(1.0, 8.0))] == [f"blocks of Python's memory during the {part}"]
    assert [growth.partition(":")[0] for growth in growths(marks(0.01, 64.0))] == [f"bytes in memory during the {part}"]
