"""Whatever becomes of a call, by laws 3 to 8, the interceptors of both ends see it once, and see it as it is."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

import aster
from aster import StatusCode
from tests.laws.actor import Actor, Part, Step
from tests.laws.world import PATTERNS, World
from tests.rpc.probes import error_of, until

pytestmark = pytest.mark.anyio


@dataclass
class _Sight:
    """What one end saw of one call."""

    begins: int = 0
    outcomes: list[str] = field(default_factory=list[str])
    requests: int = 0
    responses: int = 0


class _Watching(aster.Interceptor):
    """Sees the calls of one end, by the key that they carry."""

    def __init__(self) -> None:
        self.seen: dict[str, _Sight] = {}

    async def intercept(self, call: aster.InterceptedCall) -> AsyncIterator[None]:
        sight = self.seen.setdefault(str(call.metadata.get("key")), _Sight())
        sight.begins += 1

        def request(message: Any) -> Any:
            sight.requests += 1
            return message

        def response(message: Any) -> Any:
            sight.responses += 1
            return message

        call.on_request(request)
        call.on_response(response)
        try:
            yield
        except aster.RpcError as exc:
            sight.outcomes.append(exc.code.name)
            raise
        except anyio.get_cancelled_exc_class():
            sight.outcomes.append("expired" if anyio.current_time() >= call.deadline < math.inf else "cancelled")
            raise
        except Exception as exc:
            sight.outcomes.append(type(exc).__name__)
            raise
        sight.outcomes.append("OK")


_AT_CLIENT, _AT_SERVER = _Watching(), _Watching()

_WAYS = ("complete", "fail", "bug", "cancel", "timeout", "early end", "left early", "many requests")


@pytest.fixture(scope="module")
async def world(setting: Any, anyio_backend: object) -> AsyncGenerator[World]:
    """One with interceptors at both ends."""
    async with World.made(setting, interceptors=[_AT_SERVER], client={"interceptors": [_AT_CLIENT]}) as world:
        yield world


@pytest.mark.costly(8)  # since there are eight of it
@pytest.mark.parametrize("way", _WAYS)
@given(pattern=st.sampled_from(PATTERNS), responses=st.integers(0, 3), requests=st.integers(0, 3))
async def test_interceptors_of_both_ends_see_every_outcome_once(world: World, way: str, pattern: str, responses: int, requests: int) -> None:
    key = f"{len(_AT_CLIENT.seen)} {world.setting}"
    actor = aster.with_options(world.actor, metadata={"key": key}, timeout=None)
    sends = [Step("send", 10)] * (responses if pattern in ("stream", "talk") else 0)
    expected = await _WAY_OF[way](world, actor, pattern, sends, requests)
    world.count(way)
    await world.quiet()
    await until(lambda: _AT_CLIENT.seen[key].outcomes and _AT_SERVER.seen[key].outcomes)
    client, server = _AT_CLIENT.seen[key], _AT_SERVER.seen[key]
    assert (client.begins, server.begins) == (1, 1)
    assert (client.outcomes, server.outcomes) == ([expected[0]], [expected[1]])
    assert client.responses <= server.responses
    assert client.requests >= server.requests
    if expected[1] == "OK" and way != "early end":
        assert (client.requests, client.responses) == (server.requests, server.responses)


async def _complete(world: World, actor: Actor, pattern: str, sends: list[Step], requests: int) -> tuple[str, str]:
    await world.call(pattern, world.plan(*sends, Step("drain")), lambda: iter([Part(number) for number in range(requests)]), actor=actor)
    return "OK", "OK"


async def _fail(world: World, actor: Actor, pattern: str, sends: list[Step], requests: int) -> tuple[str, str]:
    await error_of(world.call(pattern, world.plan(*sends, Step("fail", int(StatusCode.NOT_FOUND))), actor=actor))
    return "NOT_FOUND", "NOT_FOUND"


async def _bug(world: World, actor: Actor, pattern: str, sends: list[Step], requests: int) -> tuple[str, str]:
    await error_of(world.call(pattern, world.plan(*sends, Step("bug")), actor=actor))
    return "INTERNAL", "ZeroDivisionError"


async def _cancel(world: World, actor: Actor, pattern: str, sends: list[Step], requests: int) -> tuple[str, str]:
    plan = world.plan(*sends, Step("hang"))

    async def call() -> None:
        await world.call(pattern, plan, actor=actor)

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await until(lambda: world.run(plan).where == "hang")
        group.cancel_scope.cancel()
    return "cancelled", "cancelled"


async def _timeout(world: World, actor: Actor, pattern: str, sends: list[Step], requests: int) -> tuple[str, str]:
    plan = world.plan(*sends, Step("hang"))
    # Long enough to get there over a network that loses packets; a loaded machine's own clock may be late.
    hurried = aster.with_options(actor, timeout=3.0 if world.network is not None else 0.3 if not world.setting.virtual else 0.05)
    await error_of(world.call(pattern, plan, actor=hurried))
    return "DEADLINE_EXCEEDED", "expired"


async def _early_end(world: World, actor: Actor, pattern: str, sends: list[Step], requests: int) -> tuple[str, str]:
    # The handler does not read what is sent.
    await world.call(pattern, world.plan(*sends), lambda: iter([Part(number) for number in range(20)]), actor=actor)
    return "OK", "OK"


async def _left_early(world: World, actor: Actor, pattern: str, sends: list[Step], requests: int) -> tuple[str, str]:
    plan = world.plan(Step("send", 10), Step("hang"))
    async with actor.stream(plan) as parts:
        async for _ in parts:
            break
    return "cancelled", "cancelled"


async def _many_requests(world: World, actor: Actor, pattern: str, sends: list[Step], requests: int) -> tuple[str, str]:
    await world.call("talk", world.plan(Step("drain"), Step("send", 10)), lambda: iter([Part(number) for number in range(50)]), actor=actor)
    return "OK", "OK"


_WAY_OF = {
    "complete": _complete,
    "fail": _fail,
    "bug": _bug,
    "cancel": _cancel,
    "timeout": _timeout,
    "early end": _early_end,
    "left early": _left_early,
    "many requests": _many_requests,
}
