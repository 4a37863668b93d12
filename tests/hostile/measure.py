"""One attack from a process of its own, while an honest client works: what it does to the client's calls and to the server. On Linux."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized

import anyio

from tests.hostile.attacks import ATTACKS
from tests.hostile.peers import Target
from tests.hostile.scene import Scene, Work, loud_records, scene
from tests.memory import resident

__all__ = ["Findings", "suffer"]

_HANDSHAKES = 1_000
"""What a flood of handshakes may hold open: above 1,024 no newcomer is answered until the first are given up, which is so by intention."""

_REPORTS = 0.05
"""Seconds between two reports of how many blows were dealt, and between two looks at the memory."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What one attack did to the honest client and to its server."""

    attack: str
    blows: int
    calls: int
    rate: float
    """Calls a second, as a part of those without an attacker."""
    slowest: float
    """The 99th percentile of a call's time, as a multiple of that without an attacker."""
    growth: int
    """Bytes of memory at most."""
    rest: int
    """Bytes of memory after the attacker has gone."""

    def row(self) -> str:
        mebibytes = 1 << 20
        return (
            f"| {self.attack} | {self.blows:,} | {self.calls:,} | {self.rate:.2f} | {self.slowest:.1f} | "
            f"{self.growth / mebibytes:.1f} | {self.rest / mebibytes:.1f} |"
        )


async def suffer(name: str, seconds: float) -> Findings:
    """Work for some seconds without the attacker, and then for as long with it.

    Raises:
        AssertionError: a call had a wrong answer, something was logged above INFO, or something is left of the attacker.
        RpcError: a call failed.
    """
    with loud_records() as loud:
        findings = await _suffer(name, seconds)
    assert not loud, loud
    return findings


async def _suffer(name: str, seconds: float) -> Findings:
    async with scene() as at:
        await _work(at, seconds / 4)  # warm up
        undisturbed, _ = await _work(at, seconds)
        gc.collect()
        tasks, before = len(anyio.get_running_tasks()), resident()
        with _attacker(name, at.server.address) as blows:
            while not blows.value:  # noqa: ASYNC110 (another process's events are none of the loop's)
                await anyio.sleep(_REPORTS)
            work, highest = await _work(at, seconds)
            dealt = blows.value
        await at.alone()
        await at.serves_newcomers()
        await at.alone()
        gc.collect()
        assert len(anyio.get_running_tasks()) == tasks, "tasks are left of the attacker"
        return Findings(
            attack=name,
            blows=dealt,
            calls=len(work.seconds),
            rate=len(work.seconds) / len(undisturbed.seconds),
            slowest=work.slowest_percentile / undisturbed.slowest_percentile,
            growth=highest - before,
            rest=resident() - before,
        )


async def _work(at: Scene, seconds: float) -> tuple[Work, int]:
    """The work of some seconds, and the most memory meanwhile."""
    work, highest, end = Work(), resident(), anyio.current_time() + seconds

    def is_enough() -> bool:
        nonlocal highest
        highest = max(highest, resident())
        return anyio.current_time() >= end

    await work.go_on(at.echo, is_enough)
    return work, highest


@contextmanager
def _attacker(name: str, address: str) -> Generator[Synchronized[int]]:
    context = multiprocessing.get_context("spawn")
    blows: Synchronized[int] = context.Value("L", 0)
    process = context.Process(target=_attack, args=(name, address, blows), daemon=True)
    process.start()
    try:
        yield blows
        assert process.is_alive(), "the attacker has failed"
    finally:
        process.kill()
        process.join()


def _attack(name: str, address: str, blows: Synchronized[int]) -> None:
    """What the hostile process runs, until it is killed."""
    target = Target.at(address, _HANDSHAKES)

    async def report() -> None:
        while True:
            blows.value = target.blows
            await anyio.sleep(_REPORTS)

    async def run() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(report)
            group.start_soon(ATTACKS[name], target)

    anyio.run(run)
