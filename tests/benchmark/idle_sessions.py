"""``python -m tests.benchmark.idle_sessions``: what idle sessions cost the calls beside them, and what a call costs in a session and in interceptors.

Each line is measured beside plain calls of the same client on a connection without sessions; they take turns, so that what else the machine does meets both.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from time import process_time

import anyio

import aster
from aster.decorators import rpc, service
from tests.benchmark.over_aster import Tiny

__all__ = ["main"]

_SESSIONS = 300
_Call = Callable[[], Awaitable[object]]


@service("Plain")
class _Plain:
    @rpc
    async def same(self, request: Tiny) -> Tiny:
        return request


@service("Room", scoped="stream")
class _Room:
    def __init__(self, peer: str) -> None:
        """Keeps nothing."""

    @rpc
    async def same(self, request: Tiny) -> Tiny:
        return request


class _Passing(aster.Interceptor):
    async def intercept(self, call: aster.InterceptedCall, /) -> AsyncIterator[None]:
        yield


async def _one_after_another(call: _Call, calls: int) -> None:
    for _ in range(calls):
        await call()


async def _many_at_once(call: _Call, calls: int) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(64):
            group.start_soon(_one_after_another, call, calls // 64 + 1)


async def _measure(rounds: int, calls: int) -> dict[str, list[float]]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(aster.serve([_Plain(), _Room], max_sessions=_SESSIONS + 1))
        wrapping = await stack.enter_async_context(aster.serve([_Plain()], interceptors=[_Passing]))

        async def plain(address: str, sessions: int = 0, **options: object) -> _Call:
            client = await stack.enter_async_context(aster.connect(address, **options))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            for _ in range(sessions):
                await stack.enter_async_context(client.session(_Room))
            stub = await client.client(_Plain)
            return lambda: stub.same(Tiny())

        none, idle = await plain(server.address), await plain(server.address, _SESSIONS)
        wrapped = await plain(wrapping.address, interceptors=[_Passing])
        client = await stack.enter_async_context(aster.connect(server.address))
        room = await stack.enter_async_context(client.session(_Room))
        lines: list[tuple[str, _Call, Callable[[_Call, int], Awaitable[None]]]] = [
            (f"{_SESSIONS} idle sessions, one call after another", idle, _one_after_another),
            (f"{_SESSIONS} idle sessions, 64 calls at once", idle, _many_at_once),
            ("calls of a session, one after another", lambda: room.same(Tiny()), _one_after_another),
            ("an interceptor at each end, one after another", wrapped, _one_after_another),
            ("an interceptor at each end, 64 calls at once", wrapped, _many_at_once),
        ]
        ratios: dict[str, list[float]] = {name: [] for name, _, _ in lines}
        for number in range(rounds + 1):
            for name, call, way in lines:
                seconds: list[float] = []
                for measured in (none, call):
                    began = process_time()
                    await way(measured, calls)
                    seconds.append(process_time() - began)
                if number:  # the first warms up
                    ratios[name].append(seconds[1] / seconds[0])
        return ratios


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmark.idle_sessions", description="Measure calls beside idle sessions, in sessions and wrapped.")
    parser.add_argument("--rounds", type=int, default=9, help="how often everything is measured (default: 9)")
    parser.add_argument("--calls", type=int, default=1_000, help="calls of one measurement (default: 1000)")
    options = parser.parse_args(arguments)
    print(f"{'processor time beside plain calls':60}{'median':>10}{'least':>10}{'most':>10}")
    for backend in ("asyncio", "trio") if importlib.util.find_spec("trio") is not None else ("asyncio",):
        for name, took in anyio.run(_measure, options.rounds, options.calls, backend=backend).items():
            print(f"{f'{name}, {backend}':60}{statistics.median(took):10.2f}{min(took):10.2f}{max(took):10.2f}")


if __name__ == "__main__":
    main()
