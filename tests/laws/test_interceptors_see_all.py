"""Whatever becomes of a call, by laws 3 to 8, the interceptors of both ends see it once, and see it as it is."""

from __future__ import annotations

import functools
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import aster
from aster import StatusCode, role
from aster._protocol.events import Header
from aster.decorators import service
from aster.transports.base import Stream
from aster.types import Metadata
from tests.laws.actor import Actor, Part, Plan, Step
from tests.laws.wire import MANIFEST, SILENT_ENDS, end_silently, first_part, head_of, is_single, numbered
from tests.laws.world import PATTERNS, World, exercises
from tests.rpc.probes import error_of, until
from tests.rpc.raw import RawStream, raw_client, raw_server

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


@service("SeatedActor", scoped="stream")
class _SeatedActor(Actor):
    """The same in sessions."""

    def __init__(self, peer: str, *, hosted: Actor) -> None:
        super().__init__()
        self.runs = hosted.runs


@service("LockedActor", requires=role("nobody"))
class _LockedActor(Actor):
    """Whom nobody may call."""


def _beside(hosted: Actor) -> Sequence[object]:
    return [functools.partial(_SeatedActor, hosted=hosted), _LockedActor()]


_WATCHED: Any = {"authorize": {}, "interceptors": [_AT_SERVER], "client": {"interceptors": [_AT_CLIENT]}, "beside": _beside}


@pytest.fixture(scope="module")
async def world(setting: Any, anyio_backend: object) -> AsyncGenerator[World]:
    """One with interceptors at both ends."""
    async with World.made(setting, **_WATCHED) as world:
        yield world


@dataclass
class _Try:
    """One call to make."""

    world: World
    key: str
    actor: Actor
    pattern: str
    sends: list[Step]
    requests: int
    code: StatusCode
    by_hand: bool
    """Whether with ``open_call``."""

    @property
    def sending(self) -> str:
        """The pattern, or one with many requests."""
        return self.pattern if self.pattern in ("gather", "talk") else "talk"

    async def call(self, *steps: Step, pattern: str = "", requests: Callable[[], Iterator[Part]] = lambda: iter(())) -> None:
        """Make the call, whose handler sends the responses first."""
        await self.carry_out(self.world.plan(*self.sends, *steps), pattern, requests)

    async def carry_out(self, plan: Plan, pattern: str = "", requests: Callable[[], Iterator[Part]] = lambda: iter(())) -> None:
        """Make the call of a plan."""
        if self.by_hand:
            await _by_hand(self.actor, pattern or self.pattern, plan, requests)
        else:
            await self.world.call(pattern or self.pattern, plan, requests, actor=self.actor)

    async def cancelled(self, *steps: Step, pattern: str = "", requests: Callable[[], Iterator[Part]] = lambda: iter(())) -> None:
        """Cancel the call once its handler is at ``hang``, and nothing moves any more."""
        plan = self.world.plan(*self.sends, *steps, Step("hang"))

        async with anyio.create_task_group() as group:
            group.start_soon(self.carry_out, plan, pattern, requests)
            await until(lambda: self.world.run(plan).where == "hang")
            group.cancel_scope.cancel()

    @property
    def soon(self) -> float:
        """Seconds: long enough to get there over a network that loses packets; a loaded machine's own clock may be late."""
        return 3.0 if self.world.network is not None else 0.05 if self.world.setting.virtual else 0.3


async def _by_hand(actor: Actor, pattern: str, plan: Plan, requests: Callable[[], Iterator[Part]] = lambda: iter(())) -> None:
    async with aster.open_call(getattr(actor, pattern)) as call:
        if is_single(pattern):
            await call.send(plan)
        else:
            # A call that is over takes no more; how it ended is heard below.
            with suppress(anyio.BrokenResourceError):
                for request in (Part(-1, plan=plan), *requests()):
                    await call.send(request)
            await call.end()
        async for _ in call:
            pass


async def _complete(one: _Try) -> tuple[str, str]:
    await one.call(Step("drain"), requests=lambda: iter([Part(number) for number in range(one.requests)]))
    return "OK", "OK"


async def _many_requests(one: _Try) -> tuple[str, str]:
    await one.call(Step("drain"), Step("send", 10), pattern="talk", requests=lambda: iter([Part(number) for number in range(50)]))
    return "OK", "OK"


async def _early_end(one: _Try) -> tuple[str, str]:
    # The handler does not read what is sent.
    await one.call(requests=lambda: iter([Part(number) for number in range(20)]))
    return "OK", "OK"


async def _fail(one: _Try) -> tuple[str, str]:
    await error_of(one.call(Step("fail", int(one.code))))
    return one.code.name, one.code.name


async def _bug(one: _Try) -> tuple[str, str]:
    await error_of(one.call(Step("bug")))
    return "INTERNAL", "ZeroDivisionError"


async def _cancel(one: _Try) -> tuple[str, str]:
    await one.cancelled()
    return "cancelled", "cancelled"


async def _cancel_shielded(one: _Try) -> tuple[str, str]:
    await one.cancelled(Step("linger", seconds=0.005))
    return "cancelled", "cancelled"


async def _cancel_sender(one: _Try) -> tuple[str, str]:
    await one.cancelled(pattern=one.sending, requests=lambda: iter([Part(number, bytes(10_000)) for number in range(100)]))
    return "cancelled", "cancelled"


async def _left_early(one: _Try) -> tuple[str, str]:
    plan = one.world.plan(Step("send", 10), Step("hang"))
    if one.by_hand:
        async with aster.open_call(one.actor.stream) as call:
            await call.send(plan)
            await call.receive()
        return "cancelled", "cancelled"
    async with one.actor.stream(plan) as parts:
        async for _ in parts:
            break
    return "cancelled", "cancelled"


async def _requests_fail(one: _Try) -> tuple[str, str]:
    plan = one.world.plan(*one.sends, Step("drain"), Step("hang"))

    async def requests() -> AsyncIterator[Part]:
        yield Part(-1, plan=plan)
        for number in range(one.requests):
            yield Part(number)
        # One that never came to the server would have no outcome there.
        await until(lambda: one.world.run(plan).where == "drain")
        raise LookupError

    with pytest.raises(LookupError):
        await one.world.call_with(one.sending, requests(), actor=one.actor)
    return "LookupError", "cancelled"


async def _timeout(one: _Try) -> tuple[str, str]:
    one.actor = aster.with_options(one.actor, timeout=one.soon)
    await error_of(one.call(Step("hang")))
    return "DEADLINE_EXCEEDED", "expired"


async def _scope_expires(one: _Try) -> tuple[str, str]:
    with anyio.move_on_after(one.soon):
        await one.call(Step("hang"))
    return "expired", "expired or cancelled"


async def _capped(one: _Try) -> tuple[str, str]:
    await error_of(one.call(Step("hang")))
    return "DEADLINE_EXCEEDED", "expired"


async def _lost(one: _Try) -> tuple[str, str]:
    plan = one.world.plan(*one.sends, Step("hang"))

    async def lose() -> None:
        await until(lambda: one.world.run(plan).where == "hang")
        one.world.server_end.close()

    async with anyio.create_task_group() as group:
        group.start_soon(lose)
        await error_of(one.carry_out(plan))
    return "UNAVAILABLE", "cancelled"


async def _refused(one: _Try) -> tuple[str, str]:
    one.actor = aster.with_options(await one.world.client.client(_LockedActor), metadata={"key": one.key}, timeout=None)
    await error_of(one.call())
    return "PERMISSION_DENIED", "nothing"


_WAYS = {
    "complete": _complete,
    "many requests": _many_requests,
    "early end": _early_end,
    "fail": _fail,
    "bug": _bug,
    "cancel": _cancel,
    "cancel a handler that shields itself": _cancel_shielded,
    "cancel while sending": _cancel_sender,
    "left early": _left_early,
    "requests fail": _requests_fail,
    "timeout": _timeout,
    "the caller's scope expires": _scope_expires,
    "the server's cap": _capped,
    "lost": _lost,
    "refused": _refused,
}

_APART: dict[str, dict[str, Any]] = {"lost": {}, "the server's cap": {"max_deadline": 0.3}}
"""Those that need a world of their own, with which options."""


@asynccontextmanager
async def _called(world: World, key: str, *, seated: bool) -> AsyncGenerator[Actor]:
    """Whom to call, in a session or not."""
    async with world.client.session(_SeatedActor) if seated else nullcontext(world.actor) as actor:
        yield aster.with_options(actor, metadata={"key": key}, timeout=None)


@pytest.mark.costly(12)  # since there are so many of it
@pytest.mark.parametrize("way", _WAYS)
@given(
    pattern=st.sampled_from(PATTERNS),
    responses=st.integers(0, 3),
    requests=st.integers(0, 3),
    seated=st.booleans(),
    code=st.sampled_from([code for code in StatusCode if code is not StatusCode.OK]),
    by_hand=st.booleans(),
)
async def test_interceptors_of_both_ends_see_every_outcome_once(
    world: World, way: str, pattern: str, responses: int, requests: int, seated: bool, code: StatusCode, by_hand: bool
) -> None:
    key = f"{len(_AT_CLIENT.seen)} {world.setting}"
    sends = [Step("send", 10)] * (responses if pattern in ("stream", "talk") else 0)
    async with world.fresh(**_WATCHED, **_APART[way]) if way in _APART else nullcontext(world) as place, _called(place, key, seated=seated) as actor:
        at_client, at_server = await _WAYS[way](_Try(place, key, actor, pattern, sends, requests, code, by_hand))
        await until(lambda: _AT_CLIENT.seen[key].outcomes and (at_server == "nothing" or _AT_SERVER.seen[key].outcomes))
    world.count(way)
    if way not in _APART:
        await world.quiet()
    client, server = _AT_CLIENT.seen[key], _AT_SERVER.seen.get(key, _Sight(1, ["nothing"]))
    assert (client.begins, server.begins) == (1, 1)
    assert client.outcomes == [at_client]
    assert len(server.outcomes) == 1
    assert server.outcomes[0] in at_server.split(" or ")
    assert client.responses <= server.responses
    assert client.requests >= server.requests
    if at_server == "OK" and way != "early end":
        assert (client.requests, client.responses) == (server.requests, server.responses)


@pytest.mark.costly
@exercises("finished", "cut", "reset", "by hand", "by itself")
@given(pattern=st.sampled_from(PATTERNS), responses=st.integers(0, 3), how=SILENT_ENDS, by_hand=st.booleans())
@example(pattern="stream", responses=1, how="finished", by_hand=True)
@example(pattern="talk", responses=2, how="cut", by_hand=False)
@example(pattern="unary", responses=0, how="reset", by_hand=True)
async def test_a_callers_interceptors_see_once_that_the_server_has_ended_without_an_outcome(
    world: World, pattern: str, responses: int, how: str, by_hand: bool
) -> None:
    key = f"{len(_AT_CLIENT.seen)} {world.setting}"
    sent = min(responses, 1) if pattern in ("unary", "gather") else responses

    def answer(stream: Stream, _: Header) -> None:
        for number in range(sent):
            stream.write(numbered(number, 10))
        end_silently(stream, how)

    transport = world.setting.make_transport()
    async with raw_server(MANIFEST, transport, answer) as address, aster.connect(address, transport=transport, interceptors=[_AT_CLIENT]) as client:
        actor = aster.with_options(await client.client(Actor), metadata={"key": key})
        await error_of(_by_hand(actor, pattern, Plan()) if by_hand else world.call(pattern, Plan(), actor=actor))
    seen = _AT_CLIENT.seen[key]
    assert (seen.begins, seen.outcomes) == (1, ["INTERNAL"])
    # A reset overtakes what was sent before it; and the one response of a call counts when its outcome has come.
    assert seen.responses <= sent if how == "reset" or pattern in ("unary", "gather") else seen.responses == sent
    world.count(how)
    world.count("by hand" if by_hand else "by itself")


@pytest.mark.costly
@exercises("finished", "cut", "reset", "its handler had begun", "no handler had begun")
@given(pattern=st.sampled_from(PATTERNS), sizes=st.lists(st.integers(0, 6_000), max_size=4), how=SILENT_ENDS)
@example(pattern="unary", sizes=[], how="finished")
@example(pattern="gather", sizes=[1, 20_000], how="cut")
@example(pattern="talk", sizes=[1], how="reset")
async def test_a_servers_interceptors_see_once_that_the_client_has_ended_without_the_end_of_its_requests(
    world: World, pattern: str, sizes: list[int], how: str
) -> None:
    key = f"{len(_AT_CLIENT.seen)} {len(_AT_SERVER.seen)} {world.setting}"
    plan = world.plan(Step("drain"), Step("hang"))
    parts = b"" if is_single(pattern) else first_part(pattern, plan) + b"".join(numbered(number, size) for number, size in enumerate(sizes))
    async with raw_client(world.server.address, world.transport) as raw:
        sink = RawStream()
        stream = raw.connection.open_stream(sink)
        stream.write(head_of(pattern, metadata=Metadata({"key": key})) + parts)
        await until(lambda: key in _AT_SERVER.seen and (is_single(pattern) or len(world.run(plan).read) == len(sizes)))
        end_silently(stream, how)
        await until(lambda: _AT_SERVER.seen[key].outcomes)
        await sink.ended.wait()
    seen = _AT_SERVER.seen[key]
    assert (seen.begins, seen.outcomes) == (1, ["cancelled"])
    assert (seen.requests, seen.responses) == (0 if is_single(pattern) else len(sizes) + 1, 0)
    world.count(how)
    world.count("its handler had begun" if world.run(plan).began else "no handler had begun")
