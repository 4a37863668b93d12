"""Rounds of measurements: every contender once a round, so that what the machine does besides meets all of them alike."""

from __future__ import annotations

import gc
import importlib.util
import multiprocessing
import platform
import statistics
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from typing import Any

import anyio

from tests.benchmark import over_aster, over_quic
from tests.benchmark.workloads import Contender, Duration, Workload

__all__ = ["REFERENCE", "Figures", "contenders", "describe_versions", "measure"]

REFERENCE = "grpc.aio"

_WARM_UP = 0.2
"""The part of a measurement's time that is spent before it, on the same thing."""


def contenders() -> list[Contender]:
    """Who can be measured with what is installed, in the order of a round."""
    found: list[Contender] = []
    if importlib.util.find_spec("grpc") is not None:
        from tests.benchmark import over_grpc

        found.append(Contender(REFERENCE, "asyncio", over_grpc.serve, over_grpc.connect))
    backends = ["asyncio", "trio"] if importlib.util.find_spec("trio") is not None else ["asyncio"]
    found += [Contender(f"aster-{backend}", backend, over_aster.serve, over_aster.connect) for backend in backends]
    found += [Contender(f"echo-{backend}", backend, over_quic.serve, over_quic.connect, streams=False) for backend in backends]
    return found


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured: for each workload and contender, calls or messages a second, by round."""

    rounds: dict[str, dict[str, list[float]]]

    def median(self, workload: str, contender: str) -> float:
        return statistics.median(self.rounds[workload][contender])

    def ratio(self, workload: str, contender: str, other: str) -> float | None:
        """The median over the rounds of how many times ``other`` the contender is; ``None`` where one of them was not measured."""
        ours, theirs = self.rounds[workload].get(contender), self.rounds[workload].get(other)
        if not ours or not theirs:
            return None
        return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def measure(
    who: Sequence[Contender],
    what: Sequence[Workload],
    *,
    rounds: int,
    duration: Duration,
    processes: int = 1,
    progress: Callable[[str], None] = lambda line: None,
) -> Figures:
    """Measure each workload with each contender that can do it.

    Args:
        who: in the order of a round.
        what: the workloads; all contenders do one before the next begins.
        rounds: how often everything is repeated.
        duration: of one measurement, besides its warm-up.
        processes: 1, or 2 for servers in processes of their own.
        progress: is told what was measured.
    """
    figures: dict[str, dict[str, list[float]]] = {workload.name: {} for workload in what}
    with ExitStack() as stack:
        addresses = {contender.name: stack.enter_context(_server_process(contender)) for contender in who} if processes == 2 else {}
        for number in range(rounds):
            for workload in what:
                for contender in who:
                    if workload.streams and not contender.streams:
                        continue
                    # Nobody pays for the garbage of the one before.
                    gc.collect()
                    rate = anyio.run(_one, contender, workload, duration, addresses.get(contender.name), backend=contender.backend)
                    figures[workload.name].setdefault(contender.name, []).append(rate)
                    progress(f"round {number + 1} of {rounds}: {workload.name}, {contender.name}: {rate:,.0f}")
    return Figures(figures)


async def _one(contender: Contender, workload: Workload, duration: Duration, address: str | None) -> float:
    if address is not None:
        return await _as_client(contender, workload, duration, address)
    async with contender.serve() as own_address:
        return await _as_client(contender, workload, duration, own_address)


async def _as_client(contender: Contender, workload: Workload, duration: Duration, address: str) -> float:
    async with contender.connect(address) as calls:
        await workload.run(calls, replace(duration, seconds=duration.seconds * _WARM_UP))
        return await workload.run(calls, duration)


@contextmanager
def _server_process(contender: Contender) -> Generator[str]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(contender.name, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()
        ours.close()


def _serve(name: str, pipe: Connection[Any, Any]) -> None:
    """What a server's process runs, until it is terminated."""
    contender = next(contender for contender in contenders() if contender.name == name)

    async def run() -> None:
        async with contender.serve() as address:
            pipe.send(address)
            await anyio.sleep_forever()

    anyio.run(run, backend=contender.backend)


def describe_versions() -> dict[str, str]:
    """What figures depend on besides the machine."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for package in ("aioquic", "anyio", "grpcio", "pyfory", "trio"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
