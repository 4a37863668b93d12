"""Law 16, hostile bytes: whatever a peer sends, the outcome is one that the wire's page defines, nothing of it is kept, and everybody else goes on.

Datagrams that are no QUIC are the business of ``tests/fuzz``, and memory that of law 9.
"""

from __future__ import annotations

import random
from contextlib import suppress

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import aster
from aster._protocol.events import Header, Trailer
from aster._protocol.frames import FrameKind, decode_trailer, encode_trailer
from aster.errors import ConnectError, RpcError, StatusCode
from aster.transports.base import Stream
from tests.fuzz import grammar
from tests.fuzz.mutation import mutated
from tests.laws.actor import Actor, Part, Plan, Step, message
from tests.laws.wire import MANIFEST, first_part, head_of, is_single, numbered
from tests.laws.world import PATTERNS, World, exercises
from tests.rpc.probes import until
from tests.rpc.raw import END, RawStream, raw, raw_client, raw_server

pytestmark = pytest.mark.anyio

_CHANCE = st.integers(0, 2**64 - 1)
"""Seeds of a ``random.Random``, with which the grammar draws."""
_SUCCESS = encode_trailer(Trailer())
_ENDS = ("finishes", "resets", "hangs up")
_SOURCES = ("a sound call", "a call with some changes", "frames of a call", "any frames")
_CALL = st.tuples(st.sampled_from(_SOURCES), st.sampled_from(PATTERNS), st.sampled_from(_ENDS[:2]), _CHANCE)


async def _all_is_well(world: World) -> None:
    assert await world.call("talk", world.plan(Step("drain"), Step("send", 9)), lambda: iter([message(0, 9)])) == [message(0, 9)]


def _requests(source: str, pattern: str, plan: Plan, chance: random.Random) -> bytes:
    sound = head_of(pattern) + first_part(pattern, plan) + b"".join(numbered(number, 20) for number in range(0 if is_single(pattern) else 3)) + END
    match source:
        case "a sound call":
            return sound
        case "a call with some changes":
            return mutated(sound, [sound], chance)
        case "frames of a call":
            return head_of(pattern) + first_part(pattern, plan) + grammar.requests(chance)
        case _:
            return grammar.frames(chance)


@exercises(*_ENDS, *_SOURCES, "success", "failure", "a handler began")
@given(calls=st.lists(_CALL, min_size=1, max_size=4), leaves=st.booleans())
@example(calls=[("a call with some changes", "talk", "finishes", seed) for seed in range(30)], leaves=False)
@example(calls=[("frames of a call", "talk", "finishes", seed) for seed in range(30)], leaves=True)
async def test_whatever_a_client_sends_as_a_call_it_has_one_outcome_and_leaves_nothing(
    world: World, calls: list[tuple[str, str, str, int]], leaves: bool
) -> None:
    plans, sinks = list[Plan](), list[RawStream]()
    async with raw_client(world.server.address, world.transport) as peer:
        for source, pattern, end, seed in calls:
            plans.append(world.plan(Step("drain"), Step("send", 10)))
            sinks.append(RawStream())
            stream = peer.connection.open_stream(sinks[-1])
            stream.write(_requests(source, pattern, plans[-1], random.Random(seed)))
            if end == "finishes":
                stream.finish()
            else:
                stream.reset(1)
            world.count(source)
            world.count(end)
        if leaves:
            world.count("hangs up")
        else:
            for sink in sinks:
                await sink.ended.wait()
                _count_outcome(world, sink)
    # Over, with nothing left of it: the handlers have ended, and the server has dropped the connection.
    await until(lambda: all(world.run(plan).began == world.run(plan).finals for plan in plans))
    world.counts["a handler began"] += any(world.run(plan).began for plan in plans)
    await _all_is_well(world)
    await world.quiet()


def _count_outcome(world: World, sink: RawStream) -> None:
    """A trailer, the only one and the last thing, or a reset in answer to one."""
    if sink.reset_code is not None:
        return
    kinds = [kind for kind, _ in sink.frames()]
    assert kinds.count(FrameKind.TRAILER) == 1
    assert kinds[-1] == FrameKind.TRAILER
    world.count("success" if decode_trailer(sink.frames()[-1][1], 1 << 20).status is StatusCode.OK else "failure")


@pytest.mark.costly
@exercises("finishes", "resets", "says no more", "a success", "a failure")
@given(pattern=st.sampled_from(PATTERNS), seed=_CHANCE, how=st.sampled_from(_SOURCES[:3]), end=st.sampled_from(["finishes", "resets", "says no more"]))
@example(pattern="stream", seed=1, how="a sound call", end="finishes")
@example(pattern="unary", seed=1, how="frames of a call", end="says no more")
async def test_whatever_a_server_answers_the_call_has_one_outcome(world: World, pattern: str, seed: int, how: str, end: str) -> None:
    asked, chance = list[Stream](), random.Random(seed)

    def answer(stream: Stream, _: Header) -> None:
        asked.append(stream)
        data = b"".join(numbered(number, 20) for number in range(2 if pattern in ("stream", "talk") else 1)) + _SUCCESS
        match how:
            case "a sound call":
                stream.write(data)
            case "frames of a call":
                stream.write(grammar.responses(chance))
            case _:
                stream.write(mutated(data, [data], chance))
        match end:
            case "finishes":
                stream.finish()
            case "resets":
                stream.reset(1)
            case _:
                pass

    transport, outcomes = world.setting.make_transport(), list[str]()
    async with raw_server(MANIFEST, transport, answer, on_reset=lambda _: asked[0].reset(1)) as address:
        async with aster.connect(address, transport=transport) as client:
            stub = aster.with_options(await client.client(Actor), timeout=0.05 if end == "says no more" else None)
            try:
                await world.call(pattern, Plan(), lambda: iter([Part(1)]), actor=stub)
                outcomes.append("a success")
            except RpcError:
                outcomes.append("a failure")
        assert len(outcomes) == 1
    world.count(end)
    world.count(outcomes[0])


@pytest.mark.costly
@exercises("was refused", "was greeted")
@given(seed=_CHANCE, mutates=st.booleans(), more=st.booleans())
@example(seed=1, mutates=False, more=False)
async def test_whatever_a_client_sends_first_it_is_greeted_or_refused_and_no_other_client_notices(world: World, seed: int, mutates: bool, more: bool) -> None:
    chance = random.Random(seed)
    first = grammar.client_hello(chance)
    first = mutated(first, [first], chance) if mutates else first
    async with raw(world.server, world.transport, hello=first or b"\x00") as peer:
        if more:
            peer.control.write(grammar.frames(chance))
        peer.control.finish()
        # A control stream that ends is a breach too, unless something before it was.
        await peer.lost.wait()
        world.count("was greeted" if peer.heard.received else "was refused")
    await _all_is_well(world)


@pytest.mark.costly
@exercises("was refused", "was greeted")
@given(seed=_CHANCE, says=st.sampled_from(["go away", "frames", "a mutated go away"]), before=st.booleans())
async def test_whatever_a_server_says_on_its_control_stream_a_client_ends_well(world: World, seed: int, says: str, before: bool) -> None:
    controls, chance = list[Stream](), random.Random(seed)

    def say() -> None:
        data = grammar.frames(chance) if says == "frames" else grammar.go_away(chance)
        controls[0].write(mutated(data, [data], chance) if says == "a mutated go away" else data)

    def on_control(stream: Stream) -> None:
        controls.append(stream)
        if before:
            say()

    def answer(stream: Stream, _: Header) -> None:
        if not before and len(controls) == 1:
            say()
        stream.write(numbered(0, 5) + _SUCCESS)
        stream.finish()

    transport = world.setting.make_transport()
    async with raw_server(MANIFEST, transport, answer, on_control=on_control) as address:
        greeted = False
        with suppress(ConnectError):
            async with aster.connect(address, transport=transport) as client:
                greeted = True
                with suppress(RpcError), anyio.move_on_after(0.1):
                    stub = await client.client(Actor)
                    for _ in range(2):
                        await stub.unary(Plan())
    world.count("was greeted" if greeted else "was refused")
