"""Law 7, one outcome: the caller of a call and its handler each see exactly one end of it; a stream that ends without one is an error."""

from __future__ import annotations

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import aster
from aster._protocol.events import Header
from aster.errors import RpcError, StatusCode
from aster.transports.base import Stream
from tests.laws.actor import Actor, Part, Plan, Step, message
from tests.laws.wire import MANIFEST, SILENT_ENDS, end_silently, first_part, head_of, is_single, numbered
from tests.laws.world import PATTERNS, World, exercises
from tests.rpc.probes import until
from tests.rpc.raw import RawStream, raw_client, raw_server

pytestmark = pytest.mark.anyio

_SENDS = st.lists(st.builds(Step, st.just("send"), st.integers(0, 40_000)), max_size=4)
_END = st.sampled_from(
    [Step("return"), Step("fail", int(StatusCode.NOT_FOUND)), Step("fail", int(StatusCode.CANCELLED)), Step("bug"), Step("raise cancellation"), Step("hang")]
)


@exercises("succeeded", "failed", "cancelled", "left early", "raise cancellation")
@given(pattern=st.sampled_from(PATTERNS), sends=_SENDS, end=_END)
async def test_every_call_has_one_outcome_at_each_end(world: World, pattern: str, sends: list[Step], end: Step) -> None:
    plan, outcomes = world.plan(*sends, end), list[object]()

    async def caller() -> None:
        try:
            outcomes.append(await world.call(pattern, plan))
        except RpcError as exc:
            outcomes.append(exc.code)

    async with anyio.create_task_group() as group:
        group.start_soon(caller)
        if end.what == "hang":
            await until(lambda: world.run(plan).where == "hang")
            group.cancel_scope.cancel()
    await world.quiet()
    run = world.run(plan)
    assert (run.began, run.finals) == (1, 1)
    if end.what == "hang":
        assert (outcomes, run.cancelled) == ([], 1)
        world.count("cancelled")
    elif end.what == "return":
        expected = [message(number, step.amount) for number, step in enumerate(sends)]
        single = pattern in ("unary", "gather")
        assert outcomes == [(expected or [Part(-1)])[-1:] if single else expected]
        world.count("succeeded")
    else:
        assert outcomes == [StatusCode(end.amount) if end.what == "fail" else StatusCode.INTERNAL]
        world.count("failed")
    assert run.cancelled == (end.what in ("hang", "raise cancellation"))
    world.count(end.what)
    if run.sent:
        world.count("left early" if end.what == "hang" else "sent")


@exercises("read on")
@given(sizes=st.lists(st.integers(0, 6_000), max_size=5), steps=st.integers(1, 3))
async def test_a_stream_that_has_ended_stays_so(world: World, sizes: list[int], steps: int) -> None:
    """However often its reader asks again."""
    plan = world.plan(*(Step("send", size) for size in sizes), Step("fail", int(StatusCode.DATA_LOSS)))
    responses = world.actor.stream(plan)
    for number, size in enumerate(sizes):
        assert await anext(responses) == message(number, size)
    for _ in range(steps):
        with pytest.raises(RpcError) as failure:
            await anext(responses)
        assert failure.value.code is StatusCode.DATA_LOSS
        world.count("read on")
    assert world.run(plan).finals == 1


_either_end = pytest.mark.parametrize("end", [Step("return"), Step("fail", int(StatusCode.NOT_FOUND))], ids=["success", "failure"])


@_either_end
@pytest.mark.parametrize("pattern", PATTERNS)
async def test_a_caller_cancelled_while_its_outcome_travels_sees_its_cancellation_alone(world: World, pattern: str, end: Step) -> None:
    plan, outcomes = world.plan(Step("drain"), Step("send", 10), end), list[object]()
    with anyio.CancelScope() as scope:
        world.hosted.on_unwound = lambda _: scope.cancel()
        try:
            outcomes.append(await world.call(pattern, plan, lambda: iter([Part(1)])))
        except RpcError as exc:
            outcomes.append(exc.code)
        finally:
            world.hosted.on_unwound = lambda _: None
    assert scope.cancelled_caught
    assert outcomes == []
    await world.quiet()
    run = world.run(plan)
    assert (run.began, run.cancelled, run.finals) == (1, 0, 1)


@exercises("cancelled in its handler", "had its outcome")
@_either_end
@pytest.mark.parametrize("pattern", PATTERNS)
async def test_a_cancellation_that_races_with_an_outcome_leaves_one_of_them(world: World, pattern: str, end: Step) -> None:
    """Also when both come in one step: then a result is returned, and a failure gives way."""
    # Where time is simulated, turns of the scheduler take none of it.
    pause = Step("wait", seconds=0.002 if world.network is not None else 0.0)
    plans, outcomes = [world.plan(*[pause] * 10, Step("drain"), Step("send", 10), *[pause] * 10, end)], list[object]()

    async def program() -> None:
        try:
            outcomes.append(await world.call(pattern, plans[-1], lambda: iter([Part(1)])))
        except RpcError as exc:
            outcomes.append(exc.code)
        except anyio.get_cancelled_exc_class():
            outcomes.append("cancelled")
            raise

    async def one_outcome() -> None:
        await world.quiet()
        run = world.run(plans[-1])
        assert run.began == run.finals <= 1
        if outcomes and outcomes != ["cancelled"]:
            assert outcomes == [[message(0, 10)] if end.what == "return" else StatusCode.NOT_FOUND]
            assert (run.began, run.cancelled) == (1, 0)
            world.count("had its outcome")
        elif run.cancelled:
            world.count("cancelled in its handler")
        outcomes.clear()
        plans.append(world.plan(*plans[-1].steps))

    await world.cancelled_everywhere(program, one_outcome)


@pytest.mark.costly
@exercises("finished", "cut", "reset", "after responses", "before any response")
@given(pattern=st.sampled_from(PATTERNS), sizes=st.lists(st.integers(0, 6_000), max_size=4), how=SILENT_ENDS)
@example(pattern="stream", sizes=[], how="finished")
@example(pattern="talk", sizes=[1, 20_000], how="cut")
@example(pattern="unary", sizes=[1], how="reset")
async def test_a_call_whose_responses_end_without_an_outcome_fails(world: World, pattern: str, sizes: list[int], how: str) -> None:
    """Once, as an error of the server's, and after the responses that came before, unless a reset overtook them."""
    sent = [message(number, size) for number, size in enumerate(sizes)]
    sent = sent[:1] if pattern in ("unary", "gather") else sent

    def answer(stream: Stream, _: Header) -> None:
        for part in sent:
            stream.write(numbered(part.number, len(part.data)))
        end_silently(stream, how)

    transport = world.setting.make_transport()
    async with raw_server(MANIFEST, transport, answer) as address, aster.connect(address, transport=transport) as client:
        actor, received, failures = await client.client(Actor), list[Part](), list[StatusCode]()
        try:
            if pattern in ("unary", "gather"):
                await world.call(pattern, Plan(), actor=actor)
            else:
                async for part in actor.stream(Plan()) if pattern == "stream" else actor.talk([Part(plan=Plan())]):
                    received.append(part)
        except RpcError as exc:
            failures.append(exc.code)
    assert failures == [StatusCode.INTERNAL]
    if pattern in ("stream", "talk"):
        assert received == sent[: len(received)] if how == "reset" else received == sent
    world.count(how)
    world.count("after responses" if received else "before any response")


@pytest.mark.costly
@exercises("finished", "cut", "its handler had begun", "no handler had begun")
@given(pattern=st.sampled_from(PATTERNS), sizes=st.lists(st.integers(0, 6_000), max_size=4), how=SILENT_ENDS.filter(lambda how: how != "reset"))
@example(pattern="unary", sizes=[], how="cut")
@example(pattern="gather", sizes=[1, 20_000], how="cut")
@example(pattern="talk", sizes=[], how="finished")
async def test_a_handler_whose_requests_end_without_their_end_is_cancelled(world: World, pattern: str, sizes: list[int], how: str) -> None:
    """It never takes them for complete. (A reset is how a client cancels: law 3.)"""
    single = is_single(pattern)
    plan = world.plan(Step("drain"), Step("hang"))
    requests = b"" if single else first_part(pattern, plan) + b"".join(numbered(number, size) for number, size in enumerate(sizes))
    async with raw_client(world.server.address, world.transport) as raw:
        sink = RawStream()
        stream = raw.connection.open_stream(sink)
        stream.write(head_of(pattern) + requests)
        if not single:
            await until(lambda: world.run(plan).where == "drain" and len(world.run(plan).read) == len(sizes))
        end_silently(stream, how)
        trailer = await sink.trailer()
    assert trailer.status is StatusCode.INTERNAL
    run = world.run(plan)
    assert (run.began, run.cancelled, run.finals) == ((0, 0, 0) if single else (1, 1, 1))
    assert single or run.where == "drain"
    world.count(how)
    world.count("its handler had begun" if run.began else "no handler had begun")
