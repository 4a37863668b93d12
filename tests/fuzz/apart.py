"""One target's run in a process of its own, and what to print about it."""

from __future__ import annotations

import logging
import multiprocessing
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

from tests.fuzz.measure import MOST_GROWTH, Finding, measure
from tests.fuzz.targets import TARGETS

__all__ = ["run_apart"]

_HANG = 120.0
"""Seconds without a next input after which a run counts as hung: the slowest takes some tenths, and a loaded machine is some ten times as slow."""


def run_apart(name: str, seed: int, inputs: range) -> bool:
    """Measure in another process, since a crash of a library must not end this one, and memory is to be that of one target. Whether there was a finding."""
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
        verdict = True, f"{name}: the process {how}\nsee it again with: python -m tests.fuzz --target {name!r} --seed {seed} --index {at.value}"
    process.join()
    print(verdict[1], flush=True)
    return verdict[0]


def _verdict(receiver: Connection, at: Any) -> tuple[bool, str] | None:
    """Whether something was found, and what to print; None when the process has crashed or hangs."""
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
        figures = measure(TARGETS[name], seed, inputs, progress)
    except Finding:
        sender.send((True, f"{name}:\n{traceback.format_exc()}"))
        return
    lines = [
        f"{name}: {figures.inputs:,} inputs, {figures.seconds:.0f} s of processor time, the slowest {figures.slowest * 1000:.0f} ms",
        f"    resident {figures.warm / 1e6:.1f} MB after the warm-up, {figures.growth / 1e6:+.1f} MB at the end",
        f"    the highest level of the log: {logging.getLevelName(figures.level)}",
        *(f"    {count:>9,}  {outcome}" for outcome, count in figures.outcomes.most_common()),
    ]
    grown = figures.growth > MOST_GROWTH
    if grown:
        lines.append(f"    memory grew by more than {MOST_GROWTH / 1e6:.0f} MB")
    sender.send((grown, "\n".join(lines)))
