"""Law 15, same everywhere: the same program has the same outcomes on both backends and over every transport."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import aster
from aster.errors import RpcError, StatusCode
from tests.laws.actor import Actor, Part, Plan, Run, Step, message
from tests.laws.world import PATTERNS, SEEDS, Setting, Tally, World, exercises
from tests.rpc.probes import until

_REFERENCE = Setting("asyncio", "memory")
"""With what every setting is compared, program by program."""

_WAYS = ("a timeout", "the deadline of a scope", "cancellation", "leaving")
"""How a call ends whose handler hangs."""

_SHORT = 0.2
"""Seconds. What had happened by then depends on the network, so of such a call only the outcome is compared."""


@dataclass(frozen=True)
class _Call:
    """One call of a program."""

    pattern: str
    steps: tuple[Step, ...]
    end: Step
    requests: tuple[int, ...]
    way: str

    @property
    def hangs(self) -> bool:
        return self.end.what == "hang"


_STEP = st.one_of(
    st.builds(Step, st.just("send"), st.integers(0, 3_000)),
    st.builds(Step, st.just("wait"), st.just(0), st.sampled_from([0.0, 0.001])),
    st.builds(Step, st.just("read"), st.integers(0, 3)),
    st.just(Step("drain")),
)
_END = st.sampled_from([Step("return"), Step("bug"), *[Step("hang")] * 4, *(Step("fail", int(code)) for code in StatusCode if code is not StatusCode.OK)])
_CALL = st.builds(
    _Call,
    st.sampled_from(PATTERNS),
    st.lists(_STEP, max_size=5).map(tuple),
    _END,
    st.lists(st.integers(0, 3_000), max_size=4).map(tuple),
    st.sampled_from(_WAYS),
)


class _Caller:
    """Makes one call, and notes what it sees."""

    def __init__(self, world: World, call: _Call) -> None:
        self._world = world
        self._call = call
        self._plan: Plan = world.plan(*call.steps, call.end)
        self._seen = list[tuple[int, int]]()

    async def outcome(self) -> tuple[object, ...]:
        """How it ended for its caller, what was received, and the record of its handler."""
        ended = "well"
        try:
            with anyio.move_on_after(_SHORT if self._ends_by("the deadline of a scope") else None) as scope:
                await self._until_it_ends()
            if self._call.hangs:
                ended = "by its scope" if scope.cancelled_caught else self._call.way
        except RpcError as exc:
            ended = exc.code.name
        await self._world.quiet()
        run: Run = self._world.run(self._plan)
        assert run.began == run.finals <= 1
        if self._ends_by("a timeout", "the deadline of a scope"):
            return (ended,)
        return ended, tuple(self._seen), run.where, run.began, run.cancelled, run.sent, tuple(run.read), run.checksum

    def _ends_by(self, *ways: str) -> bool:
        return self._call.hangs and self._call.way in ways

    async def _until_it_ends(self) -> None:
        if not self._ends_by("cancellation"):
            await self._carry_out()
            return
        async with anyio.create_task_group() as group:
            group.start_soon(self._carry_out)
            await until(lambda: self._world.run(self._plan).where == "hang")
            group.cancel_scope.cancel()
        # How much of it had arrived by then depends on the network.
        self._seen.clear()

    async def _carry_out(self) -> None:
        call, stub = self._call, aster.with_options(self._world.actor, timeout=_SHORT if self._ends_by("a timeout") else None)
        if call.pattern == "unary":
            self._note(await stub.unary(self._plan))
        elif call.pattern == "gather":
            self._note(await stub.gather(self._requests()))
        else:
            await self._read(stub)

    async def _read(self, stub: Actor) -> None:
        async with stub.stream(self._plan) if self._call.pattern == "stream" else stub.talk(self._requests()) as responses:
            async for part in responses:
                self._note(part)
                if self._ends_by("leaving") and len(self._seen) == sum(step.what == "send" for step in self._call.steps):
                    await until(lambda: self._world.run(self._plan).where == "hang")
                    return

    def _requests(self) -> list[Part]:
        return [Part(-1, plan=self._plan), *(message(number, size) for number, size in enumerate(self._call.requests))]

    def _note(self, part: Part) -> None:
        self._seen.append((part.number, zlib.crc32(part.data)))


def _can_be_left(call: _Call) -> _Call:
    """Only a stream of responses can be left, and only once there was one; what cannot be is cancelled."""
    if call.way == "leaving" and (call.pattern in ("unary", "gather") or not any(step.what == "send" for step in call.steps)):
        return _Call(call.pattern, call.steps, call.end, call.requests, "cancellation")
    return call


def _outcomes(setting: Setting, seed: int, calls: list[_Call]) -> list[tuple[object, ...]]:
    outcomes = list[tuple[object, ...]]()

    async def program() -> None:
        async with World.made(setting, seed=seed) as world:
            for call in calls:
                outcomes.append(await _Caller(world, call).outcome())

    setting.run(program)
    return outcomes


@pytest.mark.costly
@exercises("well", "fails", *_WAYS)
@given(seed=SEEDS, calls=st.lists(_CALL.map(_can_be_left), min_size=1, max_size=5))
@example(seed=1, calls=[_can_be_left(_Call(pattern, (Step("send", 10), Step("drain")), Step("hang"), (5, 6), way)) for pattern in PATTERNS for way in _WAYS])
@example(
    seed=1, calls=[_Call(pattern, (Step("drain"), Step("send", 10)), Step(end, 5), (5, 6), "leaving") for pattern in PATTERNS for end in ("return", "fail")]
)
def test_a_program_has_the_outcomes_that_it_has_on_asyncio_in_memory(tally: Tally, seed: int, calls: list[_Call]) -> None:
    outcomes = _outcomes(tally.setting, seed, calls)
    assert outcomes == _outcomes(_REFERENCE, seed, calls)
    for call in calls:
        if call.hangs:
            tally.count(call.way)
        else:
            tally.count("well" if call.end.what == "return" else "fails")
