"""Law 1, ownership: a call is one task of the server, which owns its stream: the server's half of it ends when that task has unwound, and not before."""

from __future__ import annotations

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster.errors import RpcError, StatusCode
from tests.laws.actor import Part, Step
from tests.laws.world import PATTERNS, World, exercises
from tests.rpc.probes import until

pytestmark = pytest.mark.anyio

_LINGER = st.one_of(st.just(0.0), st.floats(0.003, 0.03))


@exercises("returned", "failed", "was cancelled", "overdue", "lingered")
@given(pattern=st.sampled_from(PATTERNS), linger=_LINGER, ending=st.sampled_from(["return", "fail", "cancel", "overdue"]))
async def test_the_servers_half_ends_when_its_task_has_unwound_and_not_before(world: World, pattern: str, linger: float, ending: str) -> None:
    last = {"return": Step("return"), "fail": Step("fail", int(StatusCode.ABORTED))}.get(ending, Step("hang"))
    plan = world.plan(Step("linger", seconds=linger), Step("send", 10), last)
    run, end = world.run(plan), world.server_end
    open_at_the_end = list[int]()
    world.hosted.on_unwound = lambda _: open_at_the_end.append(end.open_streams)

    async def caller() -> None:
        try:
            with anyio.move_on_after(0.05 if ending == "overdue" else None):
                await world.call(pattern, plan, lambda: iter([Part(1)]))
        except RpcError:
            assert ending == "fail"

    async with anyio.create_task_group() as group:
        group.start_soon(caller)
        if ending == "cancel":
            await until(lambda: run.where == "hang")
            group.cancel_scope.cancel()
    await world.quiet()  # until the half has ended
    world.hosted.on_unwound = lambda _: None
    assert run.began == run.finals == len(open_at_the_end) <= 1
    if not run.began:
        assert ending == "overdue"
        return
    assert open_at_the_end == [2], "the stream of the call, beside the one for control, is open to the last line of its handler"
    world.count({"return": "returned", "fail": "failed", "cancel": "was cancelled", "overdue": "overdue"}[ending])
    if linger:
        world.count("lingered")
