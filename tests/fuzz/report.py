"""What a run showed: what of it was not as it should be, and the table for ``docs/reference/security.md``."""

from __future__ import annotations

import logging
import platform
from collections.abc import Sequence

from tests.fuzz.measure import MOST_BLOCKS, MOST_GROWTH, Figures
from tests.fuzz.target import Target

__all__ = ["faults", "table"]

_LONG = 10_000
"""Inputs after which every outcome of a target has come out, a hundred times as many as most take."""


def faults(target: Target, figures: Figures) -> list[str]:
    """What a run showed that must not be, although no single input was to blame."""
    found: list[str] = []
    if figures.growth > MOST_GROWTH:
        found.append(f"memory grew by {figures.growth / 1e6:.1f} MB, more than {MOST_GROWTH / 1e6:.0f} MB")
    if figures.blocks > MOST_BLOCKS:
        found.append(f"{figures.blocks:,} blocks of memory were kept, more than {MOST_BLOCKS:,}")
    unreached = target.outcomes - set(figures.outcomes)
    if figures.inputs >= _LONG and unreached:
        found.append(f"never came out, so that the inputs prove nothing about it: {', '.join(sorted(unreached))}")
    return found


def table(targets: Sequence[Target], figures: Sequence[Figures]) -> str:
    """A Markdown table of what each target showed, with all of it in its last row, and a line that says how it came about."""
    lines = ["| layer | inputs | growth | blocks | slowest input | outcomes |", "|---|---|---|---|---|---|"]
    lines += [
        _row(target.layer, shown.inputs, shown.growth, shown.blocks, shown.slowest, ", ".join(f"{word} {n:,}" for word, n in shown.outcomes.most_common()))
        for target, shown in zip(targets, figures, strict=True)
    ]
    most = max(shown.growth for shown in figures), max(shown.blocks for shown in figures), max(shown.slowest for shown in figures)
    lines.append(_row("all", sum(shown.inputs for shown in figures), *most, "nothing else"))
    spent = sum(shown.seconds for shown in figures)
    level = logging.getLevelName(max(shown.level for shown in figures))
    machine = f"{platform.python_implementation()} {platform.python_version()}, {platform.system()}"
    notes = [f"{target.layer}: {shown.notes}." for target, shown in zip(targets, figures, strict=True) if shown.notes]
    return "\n".join([*lines, "", f"{machine}; {spent:.0f} s of processor time; the highest level of the log: {level}.", *notes])


def _row(layer: str, inputs: int, growth: int, blocks: int, slowest: float, outcomes: str) -> str:
    return f"| {layer} | {inputs:,} | {growth / 1e6:+.1f} MB | {blocks:+,} | {slowest * 1000:.0f} ms | {outcomes} |"
