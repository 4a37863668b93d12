"""Law 13, retries: what no handler saw is repeated once; else only idempotent methods are, and only before anything came or was taken, within limits."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import aster
from aster._protocol.events import Header, Trailer, TrailerOrigin
from aster._protocol.frames import encode_trailer
from aster._retries import MAX_ATTEMPTS
from aster.decorators import bidi_stream, client_stream, rpc, server_stream, service
from aster.errors import RpcError, StatusCode
from aster.transports.base import Stream
from tests.laws.actor import Part, message
from tests.laws.wire import numbered
from tests.laws.world import PATTERNS, SEEDS, World, exercises
from tests.rpc.probes import until
from tests.rpc.raw import manifest_of, raw_server

pytestmark = pytest.mark.anyio


@service("Plain")
class _Plain:
    """What a server is believed to have that answers as it is told to."""

    @rpc
    async def unary(self, part: Part) -> Part:
        return part

    @server_stream
    async def stream(self, part: Part) -> AsyncIterator[Part]:
        yield part

    @client_stream
    async def gather(self, parts: AsyncIterator[Part]) -> Part:
        return await anext(parts)

    @bidi_stream
    async def talk(self, parts: AsyncIterator[Part]) -> AsyncIterator[Part]:
        async for part in parts:
            yield part


@service("Marked")
class _Marked(_Plain):
    """The same, with the mark."""

    @rpc(idempotent=True)
    async def unary(self, part: Part) -> Part:
        return part

    @server_stream(idempotent=True)
    async def stream(self, part: Part) -> AsyncIterator[Part]:
        yield part

    @client_stream(idempotent=True)
    async def gather(self, parts: AsyncIterator[Part]) -> Part:
        return await anext(parts)

    @bidi_stream(idempotent=True)
    async def talk(self, parts: AsyncIterator[Part]) -> AsyncIterator[Part]:
        async for part in parts:
            yield part


_REFUSED = Trailer(StatusCode.UNAVAILABLE, TrailerOrigin.REFUSED, "refused")
_STEPS = {
    "refused": encode_trailer(_REFUSED),
    "unavailable": encode_trailer(Trailer(StatusCode.UNAVAILABLE, TrailerOrigin.HANDLER, "not now")),
    "internal": encode_trailer(Trailer(StatusCode.INTERNAL, TrailerOrigin.HANDLER, "a bug")),
    "a response, and then unavailable": numbered(0, 5) + encode_trailer(Trailer(StatusCode.UNAVAILABLE, TrailerOrigin.HANDLER, "not now")),
}


@dataclass
class _Requests:
    """Gives as many as it is told, and then waits to be closed."""

    most: int
    begun: int = 0
    given: int = 0
    closed: int = 0

    async def __aiter__(self) -> AsyncIterator[Part]:
        self.begun += 1
        try:
            for number in range(self.most):
                self.given += 1
                yield Part(number)
            await anyio.sleep_forever()
        finally:
            self.closed += 1


@dataclass
class _Script:
    """A server's: what becomes of each attempt, one after the other; then all is well."""

    steps: list[str]
    requests: _Requests
    attempts: int = 0
    group: anyio.abc.TaskGroup = field(default_factory=anyio.create_task_group)

    def answer(self, stream: Stream, header: Header) -> None:
        self.attempts += 1
        step = self.steps[self.attempts - 1] if self.attempts <= len(self.steps) else ""
        single = header.target.pattern.streams_responses is False
        success = (numbered(0, 5) if single else b"") + encode_trailer(Trailer())
        self.group.start_soon(self._answer, stream, header, _STEPS.get(step, success))

    async def _answer(self, stream: Stream, header: Header, data: bytes) -> None:
        if header.target.pattern.streams_requests:
            await until(lambda: self.requests.given == self.requests.most)
        stream.write(data)
        stream.finish()

    @asynccontextmanager
    async def client(self, world: World, seed: int, kind: type[_Plain]) -> AsyncGenerator[_Plain]:
        """A stub of a server that follows this script."""
        transport = world.setting.make_transport(seed)
        async with (
            self.group,
            raw_server((manifest_of(kind),), transport, self.answer) as address,
            aster.connect(address, transport=transport) as client,
        ):
            yield await client.client(kind)


async def _call(stub: _Plain, pattern: str, requests: _Requests) -> list[Part]:
    match pattern:
        case "unary":
            return [await stub.unary(Part())]
        case "stream":
            return [part async for part in stub.stream(Part())]
        case "gather":
            return [await stub.gather(aiter(requests))]
        case _:
            return [part async for part in stub.talk(aiter(requests))]


def _expected(steps: list[str], *, repeats: bool) -> tuple[int, str]:
    """How many attempts the rules give, and what the last one meets with; ``repeats``: whether the call is idempotent, and nothing was taken from it."""
    attempts, refused = 1, False
    for step in steps:
        if step == "refused" and not refused:
            refused = True
        elif not (repeats and step in ("refused", "unavailable") and attempts < MAX_ATTEMPTS):
            return attempts, step
        attempts += 1
    return attempts, "success"


_SCRIPT = st.lists(st.sampled_from([*_STEPS, "refused", "unavailable"]), max_size=7)


def _fitting(world: World, steps: list[str], pattern: str) -> list[str]:
    """Without what a pattern has not, and over QUIC with one failure at the most that is waited for: it waits in real time."""
    if pattern in ("unary", "gather"):
        steps = ["unavailable" if "response" in step else step for step in steps]
    first = steps.index("unavailable") if "unavailable" in steps else 0
    return [step for number, step in enumerate(steps) if world.setting.virtual or step != "unavailable" or number == first]


@pytest.mark.costly
@exercises("repeated after a refusal", "repeated after a failure", "not repeated", "five attempts", "something was taken")
@given(seed=SEEDS, kind=st.sampled_from([_Plain, _Marked]), pattern=st.sampled_from(PATTERNS), steps=_SCRIPT, takes=st.integers(0, 2))
@example(seed=1, kind=_Plain, pattern="talk", steps=["refused", "refused"], takes=2)
@example(seed=1, kind=_Marked, pattern="unary", steps=["unavailable"], takes=0)
@example(seed=1, kind=_Marked, pattern="gather", steps=["refused", "unavailable"], takes=0)
@example(seed=1, kind=_Marked, pattern="stream", steps=["refused", *["refused"] * 6], takes=0)
async def test_a_call_is_repeated_when_the_rules_say_so_and_only_then(
    world: World, seed: int, kind: type[_Plain], pattern: str, steps: list[str], takes: int
) -> None:
    steps, requests = _fitting(world, steps, pattern), _Requests(takes)
    if not world.setting.virtual:
        steps = steps[:3]
    taken = bool(takes) and pattern in ("gather", "talk")
    attempts, last = _expected(steps, repeats=kind is _Marked and not taken)
    script, outcome = _Script(steps, requests), "success"
    async with script.client(world, seed, kind) as stub:
        try:
            responses = await _call(stub, pattern, requests)
            assert responses == ([message(0, 5)] if pattern in ("unary", "gather") else [])
        except RpcError as exc:
            outcome = exc.code.name.lower()
    assert (script.attempts, outcome) == (attempts, last if last in ("success", "internal") else "unavailable")
    assert requests.closed == requests.begun <= 1, "all attempts share one iterable"
    assert requests.given <= takes
    if attempts == 1 and steps:
        world.count("not repeated")
    if attempts > 1:
        world.count("repeated after a refusal" if steps[0] == "refused" else "repeated after a failure")
    world.counts["five attempts"] += attempts == MAX_ATTEMPTS or not world.setting.virtual
    world.counts["something was taken"] += taken


@pytest.mark.costly
@pytest.mark.virtual_time
@exercises("cancelled between attempts", "within the timeout")
@given(seed=SEEDS, pattern=st.sampled_from(["unary", "stream"]), after=st.floats(0.001, 3.0), limited=st.booleans())
@example(seed=1, pattern="unary", after=0.15, limited=False)
@example(seed=1, pattern="unary", after=0.15, limited=True)
async def test_no_attempt_follows_a_cancellation_or_the_timeout_of_the_call(world: World, seed: int, pattern: str, after: float, limited: bool) -> None:
    script, requests = _Script(["unavailable"] * 10, _Requests(0)), _Requests(0)
    async with script.client(world, seed, _Marked) as stub:
        began = anyio.current_time()
        if limited:
            with pytest.raises(RpcError) as failure:
                await _call(aster.with_options(stub, timeout=after), pattern, requests)
            assert failure.value.code in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED)
            world.count("within the timeout")
        else:
            with anyio.move_on_after(after):
                with suppress(RpcError):  # when all attempts were made in time
                    await _call(stub, pattern, requests)
        assert anyio.current_time() - began <= after + 0.001
        if not limited and 1 <= script.attempts < MAX_ATTEMPTS:
            world.count("cancelled between attempts")
        # One may be under way.
        await anyio.sleep(world.a_few_round_trips)
        attempts = script.attempts
        await anyio.sleep(60.0)
        assert script.attempts == attempts <= MAX_ATTEMPTS
