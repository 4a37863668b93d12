"""What a law's test works with: a server, a client, the network between them if it is simulated, and counts of what was exercised."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import anyio
import pytest
from hypothesis import strategies as st

import aster
from aster.testing import Link, SimulatedNetwork, live_connections, virtual_time_backend
from aster.transports.base import Connection, Transport
from aster.transports.memory import MemoryTransport
from aster.transports.quic import QuicTransport
from tests.laws.actor import Actor, Part, Plan, Run, Step
from tests.rpc.probes import calls_are_over, cancelled_at_every_step, server_record

__all__ = ["PATTERNS", "SEEDS", "SETTINGS", "Setting", "Tally", "World", "cancelled_everywhere", "exercises"]

_ORDINARY = Link(latency=0.01, jitter=0.005, loss=0.02, duplication=0.01, reordering=0.05)
"""The link of the simulated network, unless a test sets another."""

_SIMULATED_STEP = 0.0005
"""Seconds by which a cancellation comes later each time: a twentieth of the link's latency."""

SEEDS = st.integers(0, 2**16)
"""Of simulated networks."""

PATTERNS = ("unary", "stream", "gather", "talk")


@dataclass(frozen=True)
class Setting:
    """Where a test runs."""

    backend: str
    transport: str

    @property
    def virtual(self) -> bool:
        """Whether time is virtual there."""
        return self.transport != "quic"

    def run(self, program: Callable[[], Awaitable[None]]) -> None:
        """Run an async program in a loop of its own."""
        name, options = self.backend_options
        anyio.run(program, backend=name, backend_options=options)

    @property
    def backend_options(self) -> tuple[str, dict[str, Any]]:
        """As AnyIO's pytest plugin wants them."""
        return virtual_time_backend(self.backend) if self.virtual else (self.backend, {})

    def make_transport(self, seed: int = 1) -> Transport:
        """One for a server and its clients. ``seed``: of the network, if it is simulated."""
        match self.transport:
            case "memory":
                return MemoryTransport()
            case "quic":
                return QuicTransport()
            case _:
                return SimulatedNetwork(_ORDINARY, seed=seed)

    def __str__(self) -> str:
        return f"{self.backend}-{self.transport}"


SETTINGS = [Setting(backend, transport) for transport in ("memory", "quic", "simulated") for backend in ("asyncio", "trio")]


def exercises(*what: str, simulated: Sequence[str] = ()) -> pytest.MarkDecorator:
    """Say what all examples of a test together must have counted by ``World.count``, each at least once.

    ``simulated``: what the simulated network must have done to some datagram meanwhile, by the names of its ``Statistics``.
    """
    return pytest.mark.exercises(*what, simulated=simulated)


async def cancelled_everywhere(
    program: Callable[[], Awaitable[object]],
    after: Callable[[], Awaitable[object]],
    transport: Transport,
    around: Callable[[], AbstractAsyncContextManager[object]] = nullcontext,
    step: float = _SIMULATED_STEP,
) -> int:
    """Run a program again and again, cancelled ever later, until it ends before its cancellation; ``after`` each time, not cancelled.

    Over memory and QUIC at every turn of the scheduler, as ``cancelled_at_every_step`` tells. Over a simulated network, whose time stands still while
    anything takes turns, later by ``step`` seconds each time. Returns how many times it was cancelled.
    """
    if not isinstance(transport, SimulatedNetwork):
        return await cancelled_at_every_step(program, after, transport, around)
    times, finished = 0, False
    while not finished:
        async with around():
            with anyio.move_on_after(times * step) as scope:
                await program()
        finished = not scope.cancelled_caught
        await after()
        times += not finished
    return times


@dataclass
class Tally:
    """What the examples of a test have exercised in one setting."""

    setting: Setting
    counts: Counter[str] = field(default_factory=Counter[str])

    def count(self, what: str) -> None:
        """Something was exercised."""
        self.counts[what] += 1

    def fresh(self, *, seed: int = 1, client: dict[str, Any] | None = None, **server: Any) -> AbstractAsyncContextManager[World]:
        """A world of its own in the same setting, which counts here. ``seed``: of its network, if that is simulated."""
        return World.made(self.setting, seed=seed, counts=self.counts, client=client, **server)

    @property
    def network(self) -> SimulatedNetwork | None:
        """The network that all examples share, if they do and it is simulated."""
        return None

    @property
    def disturbances(self) -> Counter[str]:
        """What that network has done to datagrams so far."""
        return Counter(asdict(self.network.statistics) if self.network is not None else {})


@dataclass(kw_only=True)
class World(Tally):
    """A server of an ``Actor`` and a client of it."""

    server: aster.AsterServer
    client: aster.AsterClient
    hosted: Actor
    actor: Actor
    transport: Transport
    _leaving: AsyncExitStack
    _keys: Any = field(default_factory=lambda: itertools.count(1))

    @classmethod
    @asynccontextmanager
    async def made(
        cls,
        setting: Setting,
        *,
        seed: int = 1,
        counts: Counter[str] | None = None,
        client: dict[str, Any] | None = None,
        beside: Callable[[Actor], Sequence[object]] = lambda hosted: (),
        **server: Any,
    ) -> AsyncGenerator[World]:
        """A world for as long as the block lasts; options of the server by name, of the client as a dict. ``beside``: makes other services."""
        transport, hosted = setting.make_transport(seed), Actor()
        async with aster.serve([hosted, *beside(hosted)], transport=transport, **server) as served:
            connected = aster.connect(served.address, transport=transport, **(client or {}))
            async with AsyncExitStack() as leaving:
                await leaving.enter_async_context(connected)
                actor = await connected.client(Actor)
                yield cls(
                    setting,
                    Counter() if counts is None else counts,
                    server=served,
                    client=connected,
                    hosted=hosted,
                    actor=actor,
                    transport=transport,
                    _leaving=leaving,
                )

    @property
    def network(self) -> SimulatedNetwork | None:
        """The network between them, if it is simulated."""
        return self.transport if isinstance(self.transport, SimulatedNetwork) else None

    @property
    def a_few_round_trips(self) -> float:
        """Seconds, in virtual time: within which something is heard of at the other end, packets lost on the way and the rounding of clocks included."""
        return 0.5 if self.network is not None else 0.001

    def plan(self, *steps: Step) -> Plan:
        """A plan with a record of its own."""
        key = next(self._keys)
        self.hosted.runs[key] = Run()
        return Plan(key, list(steps))

    def run(self, plan: Plan) -> Run:
        """What became of the handler of a plan."""
        return self.hosted.runs[plan.key]

    async def leave(self) -> None:
        """Leave the client's block, in the task that made this world. Idempotent."""
        await self._leaving.aclose()

    @property
    def server_end(self) -> Connection:
        """The connection of the client, at the server."""
        return server_record(self.client).transport

    @property
    def client_end(self) -> Connection:
        """The connection to the server, at the client."""
        (end,) = (end for end in live_connections() if end.peer.endpoint_id == self.server.endpoint_id)
        return end

    async def quiet(self) -> None:
        """Wait until every call is over at both ends."""
        await calls_are_over(self.client)

    async def cancelled_everywhere(self, program: Callable[[], Awaitable[object]], after: Callable[[], Awaitable[object]]) -> int:
        """Run a program again and again, cancelled ever later, until it ends before its cancellation; ``after`` each time, not cancelled.

        As ``cancelled_everywhere`` tells. Returns how many times it was cancelled.
        """
        return await cancelled_everywhere(program, after, self.transport)

    async def call(self, pattern: str, plan: Plan, requests: Callable[[], Any] = lambda: iter(()), *, actor: Actor | None = None) -> list[Part]:
        """Make a call of a pattern to its end: all responses. Requests follow the one with the plan. ``actor``: a stub with other options."""
        match pattern:
            case "unary":
                return [await (actor or self.actor).unary(plan)]
            case "stream":
                return [part async for part in (actor or self.actor).stream(plan)]
            case _:
                return await self.call_with(pattern, self._with_plan(plan, requests), actor=actor)

    async def call_with(self, pattern: str, requests: AsyncIterable[Part], *, actor: Actor | None = None) -> list[Part]:
        """The same with all requests, of which the first has the plan."""
        if pattern == "gather":
            return [await (actor or self.actor).gather(aiter(requests))]
        return [part async for part in (actor or self.actor).talk(aiter(requests))]

    async def _with_plan(self, plan: Plan, requests: Callable[[], Any]) -> AsyncGenerator[Part]:
        yield Part(-1, plan=plan)
        for request in requests():
            yield request
