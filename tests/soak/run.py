"""The soak itself: one server and one client, 64 calls at a time, and a look at everything after each so many of them."""

from __future__ import annotations

import logging
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio

import aster
from aster.testing import live_connections
from aster.transports.base import Connection, Transport
from aster.transports.memory import MemoryTransport
from tests.rpc.echo import Brief, Echo
from tests.rpc.probes import unchecked, until
from tests.rpc.raw import raw_client
from tests.soak.calls import CALLS, Kind, Stubs
from tests.soak.census import Census, count_everything, resident_memory
from tests.soak.failures import FAILURES, SOON, FailureKind, Scene
from tests.soak.services import MESSAGE_LIMIT, METADATA_LIMIT, Stranger, Troubled
from tests.soak.sessions import COUNTS, Locked, Seat

__all__ = ["AT_ONCE", "FAILING", "Mark", "Plan", "Soak", "settled"]

AT_ONCE = 64
FAILING = "failure"
"""What failing calls of all patterns are counted under."""

_PATIENCE = 0.1
"""Seconds of real time: four times as long as QUIC may hold back an acknowledgement."""

_Step = tuple[str, str, Callable[[], Awaitable[None]]]
"""A call to make: the name of its kind, what its time is counted under, and how."""

_K = TypeVar("_K", Kind, FailureKind)

_LOGGED = (
    "the handler of %s raised %s",
    "%s returned a %s that cannot be sent: %s%s",
    "a background task of %s raised %s, which ends it",
    "on_session_close of %s raised %s",
)
"""What is logged above INFO, when handlers, or what else a service has, fail."""

_LIMITS: dict[str, Any] = {"max_message_size": MESSAGE_LIMIT, "max_metadata_size": METADATA_LIMIT}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to do.

    Attributes:
        calls: that go well.
        failures: after those.
        marks: how often everything is counted in each of the two parts, besides once before the first.
        warm_up: calls before that, and a third as many failures, until all that is made once was made.
        seed: of what is drawn.
    """

    calls: int = 100_000
    failures: int = 10_000
    marks: int = 10
    warm_up: int = 3_000
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Mark:
    """What there was at one moment in which no call was under way.

    Attributes:
        calls: since the first mark, failures included.
        part: what was done since the mark before.
        seconds: that this took.
        census: how many there are of each thing.
        blocks: of memory that Python's allocator has given out.
        resident: bytes of the process in memory; None where the system does not say.
    """

    calls: int
    part: str
    seconds: float
    census: Census
    blocks: int
    resident: int | None


async def settled(lasting: Sequence[Connection]) -> None:
    """Wait until no call is under way at any end, and no connection is there but those that last."""
    await until(lambda: all(connection.open_streams == 1 for connection in lasting))
    while len(live_connections()) > len(lasting):  # noqa: ASYNC110 (nobody tells of it)
        await anyio.sleep(_PATIENCE)  # real: the loss of a connection shows by silence
    for connection in lasting:
        await connection.wait_acknowledged()
    await anyio.sleep(_PATIENCE)  # real: acknowledgements wait for company


class Soak:
    """A soak on whatever backend runs, over one transport.

    Attributes:
        marks: what was counted so far.
        made: how many calls of each kind were made.
        busy: seconds of calls of each pattern, of which ``AT_ONCE`` pass in one.
        logged: how many records of each level and wording, with their arguments left open.
    """

    def __init__(self, transport: Transport, plan: Plan, progress: Callable[[Mark], None] = lambda mark: None) -> None:
        self.marks: list[Mark] = []
        self.made = Counter[str]()
        self.busy = defaultdict[str, float](float)
        self.logged = Counter[tuple[str, str]]()
        self._transport = transport
        self._plan = plan
        self._progress = progress
        self._chance = random.Random(plan.seed)
        self._calls = 0
        self._lasting: list[Connection] = []

    async def run(self) -> None:
        """Do all of the plan.

        Raises:
            AssertionError: in a group; a call had another outcome than it should. A note says which kind of call.
        """
        plan = self._plan
        with self._counted_logs():
            async with self._scene() as scene:
                self._lasting = live_connections()
                await self._make(self._well(scene, plan.warm_up))
                await self._make(self._badly(scene, plan.warm_up // 3))
                # The first looks make what they need for themselves.
                for _ in range(3):
                    self.marks[:] = [await self._mark("warm-up", 0.0)]
                self._progress(self.marks[0])
                for part, calls, batch in (("calls", plan.calls, self._well), ("failures", plan.failures, self._badly)):
                    for _ in range(plan.marks):
                        began = time.perf_counter()
                        await self._make(batch(scene, calls // plan.marks))
                        self._calls += calls // plan.marks
                        self.marks.append(await self._mark(part, time.perf_counter() - began))
                        self._progress(self.marks[-1])

    @asynccontextmanager
    async def _scene(self) -> AsyncGenerator[Scene]:
        transport = self._transport
        async with (
            aster.serve([Echo(), Brief(), Troubled(), Seat, Locked], transport=transport, drain_grace=0, **_LIMITS) as server,
            aster.serve([Troubled()], transport=transport, drain_grace=0, max_deadline=SOON) as hasty,
            aster.connect(server.address, transport=transport, **_LIMITS) as client,
            aster.connect(server.address, transport=transport, **_LIMITS) as stranger,
            aster.connect(hasty.address, transport=transport) as impatient,
            raw_client(server.address, transport) as raw,
        ):
            stubs = await Stubs.of(client)
            yield Scene(stubs, await unchecked(stranger, Stranger), await impatient.client(Troubled), raw, server.address, transport)

    def unexpected_logs(self) -> list[str]:
        """What was logged above INFO and should not have been, as sentences."""
        return [f"logged at {level}: {text}, {count} times" for (level, text), count in self.logged.items() if level != "INFO" and text not in _LOGGED]

    # Calls

    def _well(self, scene: Scene, count: int) -> list[_Step]:
        drawn = self._draw(CALLS, count)
        return [(kind.name, kind.pattern.name, lambda kind=kind: kind.make(scene.stubs, self._chance)) for kind in drawn]

    def _badly(self, scene: Scene, count: int) -> list[_Step]:
        drawn = self._draw([kind for kind in FAILURES if kind.in_memory or not isinstance(self._transport, MemoryTransport)], count)
        return [(kind.name, FAILING, lambda kind=kind: kind.make(scene, self._chance)) for kind in drawn]

    def _draw(self, kinds: Sequence[_K], count: int) -> list[_K]:
        """Each kind once, and the others by their weights."""
        drawn = [*kinds, *self._chance.choices(kinds, [kind.weight for kind in kinds], k=max(0, count - len(kinds)))]
        self._chance.shuffle(drawn)
        return drawn

    async def _make(self, steps: list[_Step]) -> None:
        remaining = iter(steps)
        async with anyio.create_task_group() as group:
            for _ in range(AT_ONCE):
                group.start_soon(self._work, remaining)

    async def _work(self, steps: Iterator[_Step]) -> None:
        for name, pattern, make in steps:
            began = time.perf_counter()
            try:
                await make()
            except BaseException as exc:
                exc.add_note(f"the kind of call: {name}")
                raise
            self.made[name] += 1
            self.made[pattern] += 1
            self.busy[pattern] += time.perf_counter() - began

    # Looks

    async def _mark(self, part: str, seconds: float) -> Mark:
        await settled(self._lasting)
        await until(lambda: COUNTS["made"] == COUNTS["closed"])
        census = count_everything()
        # In this order: the census takes memory itself, and gives most of it back.
        return Mark(self._calls, part, seconds, census, sys.getallocatedblocks(), resident_memory())

    @contextmanager
    def _counted_logs(self) -> Generator[None]:
        """Take the place of all handlers: the tracebacks of thousands of failures are nobody's to read."""
        logger, handler = logging.getLogger("aster"), _CountingHandler(self.logged)
        before = logger.level, logger.propagate
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.level, logger.propagate = before


class _CountingHandler(logging.Handler):
    def __init__(self, counts: Counter[tuple[str, str]]) -> None:
        super().__init__()
        self._counts = counts

    def emit(self, record: logging.LogRecord) -> None:
        self._counts[record.levelname, record.msg] += 1
