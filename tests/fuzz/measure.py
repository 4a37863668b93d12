"""Runs inputs of one target, watches over log, memory and answers, and counts."""

from __future__ import annotations

import ctypes
import gc
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.fuzz.target import Target, input_of
from tests.memory import resident

__all__ = ["MOST_BLOCKS", "MOST_GROWTH", "Figures", "Finding", "measure"]

MOST_GROWTH = 16 * 1024 * 1024
"""Bytes by which resident memory may grow after the first fifth of the inputs. What is kept is bounded: 1,024 targets of headers of up to 9 KB each, and what
the allocator and the codec keep of the largest message so far. A leak of 100 bytes an input would pass this after 200,000 inputs."""

MOST_BLOCKS = 20_000
"""Blocks of Python's memory that may be added in the same time. A leak of one block an input passes this where resident memory tells nothing yet."""

_WARM_UP = 5
_SHOWN = 400


class Finding(Exception):
    """An input after which something was wrong; the message says how to see it again."""


@dataclass
class Figures:
    """What a run of one target showed.

    Attributes:
        inputs: how many there were.
        seconds: of processor time; only to see how long another run will take.
        slowest: the same, of one input.
        outcomes: how often each word came out.
        warm: bytes of resident memory after the warm-up; zero where the system does not tell.
        growth: bytes more at the end.
        warm_blocks: Python's blocks of memory after the warm-up.
        blocks: how many more there were at the end.
        level: the highest level of what was logged.
        notes: what else the target tells.
    """

    name: str
    inputs: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter[str])
    warm: int = 0
    growth: int = 0
    warm_blocks: int = 0
    blocks: int = 0
    level: int = logging.NOTSET
    notes: str = ""


class _Watch(logging.Handler):
    """Formats each record, as a program's own handler would, and keeps the highest level and what is above INFO."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.highest = logging.NOTSET
        self.loud = ""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        self.highest = max(self.highest, record.levelno)
        if record.levelno > logging.INFO:
            self.loud = text


def measure(target: Target, seed: int, inputs: range, progress: Callable[[int], None] = lambda index: None) -> Figures:
    """Feed the inputs of those numbers, in worlds of ``target.batch`` each.

    Raises:
        Finding: something was wrong; its cause is what was raised, if anything was.
    """
    watch, root = _Watch(), logging.getLogger()
    level = root.level
    root.addHandler(watch)
    root.setLevel(logging.INFO)
    try:
        return _measure(target, seed, inputs, watch, progress)
    finally:
        root.setLevel(level)
        root.removeHandler(watch)


def _measure(target: Target, seed: int, inputs: range, watch: _Watch, progress: Callable[[int], None]) -> Figures:
    figures = Figures(target.name)
    began = time.process_time()
    warm_at = inputs.start + len(inputs) // _WARM_UP
    for start in range(inputs.start, inputs.stop, target.batch):
        _feed(target, seed, range(start, min(inputs.stop, start + target.batch)), warm_at, watch, figures, progress)
    figures.seconds = time.process_time() - began
    figures.inputs = len(inputs)
    figures.growth = _resident_now() - figures.warm
    figures.blocks = sys.getallocatedblocks() - figures.warm_blocks
    figures.level = watch.highest
    figures.notes = target.notes()
    return figures


def _feed(target: Target, seed: int, batch: range, warm_at: int, watch: _Watch, figures: Figures, progress: Callable[[int], None]) -> None:
    """Feed the inputs of one world; a function, so that nothing of the world is there any more when memory is looked at after it."""
    index = batch.start
    try:
        with target.open() as run:
            for index in batch:
                progress(index)
                _one(target, seed, index, run, watch, figures)
                if index == warm_at:
                    figures.warm, figures.warm_blocks = _resident_now(), sys.getallocatedblocks()
    except Exception as exc:
        raise Finding(_reproducer(target, seed, index, exc)) from exc
    _tidy()  # after each world, whose looking at memory fills the heap with other things than the inputs do


def _one(target: Target, seed: int, index: int, run: Callable[[bytes], str], watch: _Watch, figures: Figures) -> None:
    data = input_of(target, seed, index)
    began = time.process_time()
    outcome = run(data)
    figures.slowest = max(figures.slowest, time.process_time() - began)
    figures.outcomes[outcome] += 1
    assert outcome in target.outcomes, f"the outcome was {outcome!r}"
    assert not watch.loud, f"logged above INFO: {watch.loud}"


def _reproducer(target: Target, seed: int, index: int, exc: Exception) -> str:
    data = input_of(target, seed, index)
    return (
        f"{type(exc).__name__}: {exc}\n"
        f"see it again with: python -m tests.fuzz --target {target.name!r} --seed {seed} --index {index}\n"
        f"the input, {len(data)} bytes: {data[:_SHOWN].hex()}"
    )


def _resident_now() -> int:
    """What is kept: neither what waits to be collected, which may be megabytes, nor pages that are free and that the C library has not given back."""
    _tidy()
    return resident()


def _tidy() -> None:
    gc.collect()
    trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)
