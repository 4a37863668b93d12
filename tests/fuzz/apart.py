"""One target's run in a process of its own."""

from __future__ import annotations

import multiprocessing
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

from tests.fuzz.measure import Figures, Finding, measure
from tests.fuzz.targets import TARGETS

__all__ = ["measure_apart"]

_HANG = 120.0
"""Seconds without a next input after which a run counts as hung: the slowest takes some tenths, and a loaded machine is some ten times as slow."""


def measure_apart(name: str, seed: int, inputs: range) -> Figures | str:
    """Measure in another process, since a crash of a library must not end this one, and memory is to be that of one target. What was found, if anything was."""
    context = multiprocessing.get_context("spawn")
    at: Any = context.RawValue("q", inputs.start)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_here, args=(name, seed, inputs, at, sender))
    process.start()
    sender.close()
    verdict = _verdict(receiver, at)
    if verdict is None:
        process.kill()
        process.join()
        how = f"ended with {process.exitcode}" if process.exitcode != -9 else f"was stopped after {_HANG:g} s without a next input"
        return f"the process {how}\nsee it again with: python -m tests.fuzz --target {name!r} --seed {seed} --index {at.value}"
    process.join()
    return verdict


def _verdict(receiver: Connection, at: Any) -> Figures | str | None:
    """What the process says; None when it has crashed or hangs."""
    last, since = -1, time.monotonic()
    while True:
        try:
            if receiver.poll(1.0):
                return receiver.recv()
        except EOFError:
            return None
        if at.value != last:
            last, since = at.value, time.monotonic()
        elif time.monotonic() - since > _HANG:
            return None


def _measure_here(name: str, seed: int, inputs: range, at: Any, sender: Connection) -> None:
    def progress(index: int) -> None:
        at.value = index

    try:
        sender.send(measure(TARGETS[name], seed, inputs, progress))
    except Finding:
        sender.send(traceback.format_exc())
