"""Interceptors: the onion around whole calls, at both ends and for all patterns alike."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import aster
from aster import StatusCode
from aster.decorators import rpc, server_stream, service
from aster.testing import assert_no_orphans
from aster.transports.base import Transport
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item, numbers_of
from tests.rpc.interceptors import By, Noting
from tests.rpc.probes import CALLS, Endless, cancelled_at_every_step, error_of, server_record, until
from tests.rpc.rooms import Lobby, Room

pytestmark = pytest.mark.anyio


_LOG: list[str] = []


class OfService(Noting):
    """Made by a server, without arguments."""

    def __init__(self) -> None:
        super().__init__("service", _LOG)


@service("Echo", interceptors=[OfService])
class Wrapped(Echo):
    """The same service, whose calls are wrapped."""


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_the_onion_has_the_client_outside_and_the_service_inside(running: Running, call: Callable[[Echo], Awaitable[None]]) -> None:
    _LOG.clear()
    outer, inner, server = Noting("outer", _LOG), Noting("inner", _LOG), Noting("server", _LOG)
    async with running(Wrapped(), interceptors=[server], client={"interceptors": [outer, inner]}) as (_, client):
        await call(await client.client(Echo))
        await until(lambda: "outer out" in _LOG)
    layers = ["outer", "inner", "server", "service"]
    assert [entry for entry in _LOG if entry.endswith(" in")] == [f"{layer} in" for layer in layers]
    assert [entry for entry in _LOG if entry.endswith(" out")] == [f"{layer} out" for layer in reversed(layers)]
    first = {kind: [_LOG.index(f"{layer} {kind}") for layer in layers] for kind in ("request", "response")}
    assert first["request"] == sorted(first["request"])
    assert first["response"] == sorted(first["response"], reverse=True)
    assert [sum(entry == f"{layer} request" for entry in _LOG) for layer in layers] == [_LOG.count("outer request")] * 4


async def test_messages_are_transformed_on_their_way_at_both_ends(running: Running) -> None:
    async def double(call: aster.InterceptedCall) -> AsyncGenerator[None]:
        call.on_request(lambda item: Item(item.number * 2))
        call.on_response(lambda item: Item(item.number + 1))
        yield

    async with running(Echo(), interceptors=[By(double)], client={"interceptors": [By(double)]}) as (_, client):
        echo = await client.client(Echo)
        assert (await echo.same(Item(1))).number == 6
        assert await numbers_of(echo.count(Item(1))) == [2, 3, 4, 5]
        assert (await echo.total([Item(1), Item(2)])).number == 14
        assert await numbers_of(echo.chat([Item(1), Item(2)])) == [6, 10]
        async with aster.open_call(echo.chat) as opened:
            await opened.send(Item(1))
            assert await opened.receive() == Item(6)
        async with aster.open_call(echo.same) as single:
            await single.send(Item(1))
            assert await single.receive() == Item(6)


async def test_metadata_and_trailers_go_through_them(running: Running) -> None:
    @service("Told")
    class Told:
        @rpc
        async def tell(self, item: Item) -> Item:
            return Item(text="|".join(f"{key}={value!s}" for key, value in aster.current_call().metadata))

    seen: list[Any] = []

    async def at_client(call: aster.InterceptedCall) -> AsyncGenerator[None]:
        no_hook: Any = "no hook"
        with pytest.raises(TypeError, match="on_request takes a function of one message, not 'no hook'"):
            call.on_request(no_hook)
        call.metadata = [*call.metadata, ("via", "client")]
        with pytest.raises(RuntimeError, match="trailers are sent by servers"):
            call.add_trailer("no", "no")
        yield
        seen.append(call.trailers.get("took"))

    async def at_server(call: aster.InterceptedCall) -> AsyncGenerator[None]:
        seen.append((call.side, call.service, call.version, call.method, call.pattern, call.deadline < math.inf))
        call.metadata = [*call.metadata, ("via", "server")]
        yield
        with pytest.raises(RuntimeError, match=r"the handler of Told\.tell has its metadata: change it ahead of the yield"):
            call.metadata = {}
        for late in (call.on_request, call.on_response):
            with pytest.raises(RuntimeError, match=rf"the call of Told\.tell has begun.*use {late.__name__} ahead of the yield"):
                late(lambda item: item)
        call.add_trailer("took", "3 ms")

    async with running(Told(), interceptors=[By(at_server)], client={"interceptors": [By(at_client)]}) as (_, client):
        told = aster.with_options(await client.client(Told), metadata={"user": "ada"}, timeout=5)
        assert (await told.tell(Item())).text == "user=ada|via=client|via=server"
    assert seen == [("server", "Told", 1, "tell", aster.RpcPattern.UNARY, True), "3 ms"]


@pytest.mark.parametrize("where", ["client", "server"])
@pytest.mark.parametrize("how", ["ahead of the yield", "from a hook"])
async def test_an_interceptor_may_answer_without_the_handler(running: Running, where: str, how: str) -> None:
    log: list[str] = []

    async def answer(call: aster.InterceptedCall) -> AsyncGenerator[None]:
        responses = [Item(7), Item(8)] if call.pattern.streams_responses else [Item(7)]

        def from_hook(item: Item) -> Item:
            call.answer(*responses)
            return item

        if how == "from a hook" and not call.pattern.streams_requests:
            call.on_request(from_hook)
        else:
            call.answer(*responses)
        yield
        log.append("after")

    class Unreachable(Endless):
        """Whose handlers would never end."""

    hosted = Unreachable()
    interceptors = [Noting("outside", log), By(answer)]
    sides: dict[str, Any] = {"client": {"interceptors": interceptors}} if where == "client" else {"interceptors": interceptors}
    async with running(hosted, **sides) as (_, client):
        echo = await client.client(Echo)
        assert await echo.same(Item(1)) == Item(7)
        assert await numbers_of(echo.count(Item(1))) == [7, 8]
        assert await echo.total([Item(1)]) == Item(7)
        assert await numbers_of(echo.chat([Item(1)])) == [7, 8]
        async with aster.open_call(echo.count) as opened:
            if where == "server" or how == "from a hook":
                await opened.send(Item(1))
            assert [item.number async for item in opened] == [7, 8]
    assert hosted.witness.began == 0
    assert log.count("after") == log.count("outside out") == 5
    # Those further out see the answers as responses.
    assert log.count("outside response") == 8


@pytest.mark.parametrize("where", ["client", "server"])
async def test_an_interceptor_may_turn_a_failure_into_another_or_into_an_answer(running: Running, where: str) -> None:
    async def turn(call: aster.InterceptedCall) -> AsyncGenerator[None]:
        try:
            yield
        except (LookupError, aster.RpcError) as exc:
            if call.method == "same":
                raise aster.RpcError(StatusCode.NOT_FOUND, "turned") from exc
            call.answer(Item(99))

    class Failing(Echo):
        @rpc
        async def same(self, item: Item) -> Item:
            raise LookupError

        async def count(self, item: Item) -> AsyncIterator[Item]:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
            yield item
            raise LookupError

    sides: dict[str, Any] = {"client": {"interceptors": [By(turn)]}} if where == "client" else {"interceptors": [By(turn)]}
    async with running(Failing(), **sides) as (_, client):
        echo = await client.client(Echo)
        error = await error_of(echo.same(Item(1)))
        assert (error.code, error.message) == (StatusCode.NOT_FOUND, "turned")
        assert await numbers_of(echo.count(Item(1))) == [1, 99]
        async with aster.open_call(echo.count) as opened:
            await opened.send(Item(1))
            assert [item.number async for item in opened] == [1, 99]
            with pytest.raises(anyio.EndOfStream):
                await opened.receive()


@pytest.mark.parametrize("where", ["client", "server"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_what_an_interceptor_raises_ahead_of_its_yield_refuses_the_call(running: Running, where: str, call: Callable[[Echo], Awaitable[None]]) -> None:
    async def refuse(call: aster.InterceptedCall) -> AsyncGenerator[None]:
        raise aster.RpcError(StatusCode.PERMISSION_DENIED, "not you")
        yield

    hosted = Endless()
    sides: dict[str, Any] = {"client": {"interceptors": [By(refuse)]}} if where == "client" else {"interceptors": [By(refuse)]}
    async with running(hosted, **sides) as (_, client):
        error = await error_of(call(await client.client(Echo)))
        assert (error.code, error.message) == (StatusCode.PERMISSION_DENIED, "not you")
    assert hosted.witness.began == 0


@pytest.mark.parametrize("how", ["answered", "refused"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_call_whose_outcome_is_an_interceptors_is_a_checkpoint(running: Running, how: str, call: Callable[[Echo], Awaitable[None]]) -> None:
    async def at_once(call: aster.InterceptedCall) -> AsyncGenerator[None]:
        if how == "refused":
            raise aster.RpcError(StatusCode.ABORTED)
        call.answer(Item(1))
        yield

    turns = 0
    async with running(Echo(), client={"interceptors": [By(at_once)]}) as (_, client):
        echo = await client.client(Echo)

        async def count() -> None:
            nonlocal turns
            while True:
                await anyio.lowlevel.checkpoint()
                turns += 1

        async with anyio.create_task_group() as group:
            group.start_soon(count)
            for _ in range(100):
                with contextlib.suppress(aster.RpcError, anyio.EndOfStream, anyio.BrokenResourceError):
                    await call(echo)
            assert turns >= 50
            group.cancel_scope.cancel()
            for _ in range(3):
                with contextlib.suppress(aster.RpcError, anyio.EndOfStream, anyio.BrokenResourceError):
                    await call(echo)
            raise AssertionError("a scope that was cancelled lets no call by")
        assert group.cancel_scope.cancelled_caught


class Forgetful(aster.Interceptor):
    async def intercept(self, call: aster.InterceptedCall) -> AsyncIterator[None]:
        if call.service == "nobody's":
            yield


class Twice(aster.Interceptor):
    async def intercept(self, call: aster.InterceptedCall) -> AsyncIterator[None]:
        yield
        yield


class Swallowing(aster.Interceptor):
    async def intercept(self, call: aster.InterceptedCall) -> AsyncIterator[None]:
        with contextlib.suppress(Exception):
            yield


class Losing(aster.Interceptor):
    async def intercept(self, call: aster.InterceptedCall) -> AsyncIterator[None]:
        call.on_response(lambda item: None)
        yield


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Forgetful, "Forgetful.intercept ended ahead of its yield, without an answer"),
        (Twice, "Twice.intercept yields more than once"),
        (Swallowing, "Swallowing.intercept swallowed what the call of Echo.same ended with, without an answer"),
        (Losing, "a response hook of Echo.same returned None in place of a Item"),
    ],
)
@pytest.mark.parametrize("where", ["client", "server"])
async def test_a_mistake_in_an_interceptor_loses_no_call(
    running: Running, kind: type[aster.Interceptor], words: str, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Echo):
        @rpc
        async def same(self, item: Item) -> Item:
            if kind is Swallowing:
                raise aster.RpcError(StatusCode.ABORTED, "no")
            return item

    sides: dict[str, Any] = {"client": {"interceptors": [kind]}} if where == "client" else {"interceptors": [kind]}
    async with running(Failing(), **sides) as (_, client):
        echo = await client.client(Echo)
        if where == "client":
            with pytest.raises((RuntimeError, TypeError), match=words):
                await echo.same(Item(1))
        else:
            assert (await error_of(echo.same(Item(1)))).code is StatusCode.INTERNAL
            assert words in caplog.text
            if kind is not Losing:
                assert "the handler of Echo.same, or an interceptor around it, raised RuntimeError" in caplog.text


def test_what_is_no_interceptor_is_refused() -> None:
    with pytest.raises(TypeError, match="must be an async generator with one yield"):

        class Coroutine(aster.Interceptor):  # pyright: ignore[reportUnusedClass]
            async def intercept(self, call: aster.InterceptedCall) -> None:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
                """No generator."""

    with pytest.raises(TypeError, match=r"Alone\.intercept is called with the call alone: too many positional arguments"):

        class Alone(aster.Interceptor):  # pyright: ignore[reportUnusedClass]
            async def intercept(self) -> AsyncIterator[None]:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
                yield

    with pytest.raises(TypeError, match=r"Waiting\.__init__ is async"):

        class Waiting(aster.Interceptor):  # pyright: ignore[reportUnusedClass]
            async def __init__(self) -> None:  # type: ignore[misc]
                """Nobody would wait for it."""

    name: Any = "INFO"
    with pytest.raises(TypeError, match=r"logger must be a logging\.Logger, not 'INFO': write logging\.getLogger"):
        aster.LoggingInterceptor(name)
    adapter: Any = logging.LoggerAdapter(logging.getLogger("aster.calls"), {"app": "mine"})
    with pytest.raises(TypeError, match=r"logger must be a logging\.Logger, not a LoggerAdapter, which drops the line's attributes"):
        aster.LoggingInterceptor(adapter)
    with pytest.raises(TypeError, match=r"level must be a number such as logging\.INFO, not 'INFO'"):
        aster.LoggingInterceptor(level=name)

    class Demanding(aster.LoggingInterceptor):
        def __init__(self, needed: int) -> None:
            """Needs something."""

    class Misspelled(aster.Interceptor):
        async def intercpt(self, call: aster.InterceptedCall) -> AsyncIterator[None]:
            raise aster.RpcError(StatusCode.UNAUTHENTICATED, "nobody passes")
            yield

    nothing = "Misspelled has no intercept of its own"
    wrong_ones = [(5, "a list"), ("Timing", "a list"), ([Demanding], "cannot be made without arguments"), ([Misspelled], nothing), ([Misspelled()], nothing)]
    for wrong, words in [([int], "aster.Interceptor"), *wrong_ones]:
        given: Any = wrong
        with pytest.raises(TypeError, match=words):
            aster.serve([Echo()], interceptors=given)
        with pytest.raises(TypeError, match=words):
            aster.connect("aster://" + "a" * 64 + "@127.0.0.1:1", interceptors=given)
    with pytest.raises(TypeError, match=r"int in interceptors is no aster\.Interceptor"):
        service(interceptors=[int])(Echo)  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=nothing):
        service(interceptors=[Misspelled])(Echo)


def test_a_server_makes_one_of_each_class_and_a_subclass_keeps_those_of_its_base() -> None:
    made: list[object] = []

    class Counted(aster.LoggingInterceptor):
        def __init__(self) -> None:
            made.append(self)

    class More(aster.LoggingInterceptor): ...

    @service("One", interceptors=[Counted])
    class One(Echo): ...

    @service("Other", interceptors=[More])
    class Other(One): ...

    aster.serve([One(), Other()])
    assert len(made) == 1
    from aster.decorators import service_info

    assert service_info(Other).interceptors == (Counted, More)


@pytest.mark.parametrize("where", ["client", "server"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_scope_around_the_yield_is_a_deadline_for_the_call(running: Running, where: str, call: Callable[[Echo], Awaitable[None]]) -> None:
    async def hurry(call: aster.InterceptedCall) -> AsyncGenerator[None]:
        try:
            with anyio.fail_after(0.05):
                yield
        except TimeoutError:
            raise aster.RpcError(StatusCode.DEADLINE_EXCEEDED, "too slow") from None

    hosted = Endless(1)
    sides: dict[str, Any] = {"client": {"interceptors": [By(hurry)]}} if where == "client" else {"interceptors": [By(hurry)]}
    async with running(hosted, **sides) as (_, client):
        error = await error_of(call(await client.client(Echo)))
        assert (error.code, error.message) == (StatusCode.DEADLINE_EXCEEDED, "too slow")
        await until(lambda: hosted.witness.running == 0)
    assert hosted.witness.cancelled == hosted.witness.began


async def test_what_an_interceptor_waits_for_ahead_of_its_yield_is_part_of_the_calls_time(running: Running) -> None:
    async def slow(call: aster.InterceptedCall) -> AsyncGenerator[None]:
        await anyio.sleep(10 if call.method in ("same", "count") else 0)
        yield

    async with running(Echo(), client={"interceptors": [By(slow)]}) as (_, client):
        echo = aster.with_options(await client.client(Echo), timeout=0.03)
        assert (await error_of(echo.same(Item(1)))).code is StatusCode.DEADLINE_EXCEEDED
        assert (await error_of(numbers_of(echo.count(Item(1))))).code is StatusCode.DEADLINE_EXCEEDED


async def test_a_stream_that_is_dropped_or_left_ends_its_interceptors(running: Running) -> None:
    log: list[str] = []
    hosted = Endless(3)
    async with running(hosted, client={"interceptors": [Noting("client", log)]}) as (_, client):
        echo = await client.client(Echo)
        async for _ in echo.count(Item()):
            break
        await until(lambda: "client cancelled" in log)
        async with echo.chat([Item(1)]) as responses:
            await anext(responses)
        assert log.count("client cancelled") == 2
        async with aster.open_call(echo.chat) as opened:
            await opened.send(Item(1))
        assert log.count("client cancelled") == 3
        kept = echo.count(Item())
        await anext(kept)
    # Leaving the client's block ends what is still there.
    await until(lambda: log.count("client cancelled") == 4)
    assert_no_orphans()
    del kept


@service("Deaf")
class Deaf:
    """Handlers that shield themselves, and end as if nothing had happened."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        self.go_on = anyio.Event()

    async def _wait(self) -> None:
        with anyio.CancelScope(shield=True):
            self.begun.set()
            await self.go_on.wait()

    @rpc
    async def same(self, item: Item) -> Item:
        await self._wait()
        return item

    @server_stream
    async def count(self, item: Item) -> AsyncIterator[Item]:
        await self._wait()
        yield item


@pytest.mark.parametrize("call", [CALLS["unary"], CALLS["server stream"]], ids=["unary", "server stream"])
async def test_a_cancelled_call_is_cancelled_for_its_interceptors_also_where_the_handler_has_not_noticed(
    running: Running, call: Callable[[Any], Coroutine[Any, Any, None]]
) -> None:
    log: list[str] = []
    hosted = Deaf()
    async with running(hosted, interceptors=[Noting("server", log)]) as (_, client):
        async with anyio.create_task_group() as group:
            group.start_soon(call, await client.client(Deaf))
            await hosted.begun.wait()
            group.cancel_scope.cancel()
        (at_server,) = server_record(client).calls
        await until(lambda: at_server._interrupted)  # pyright: ignore[reportPrivateUsage] (nothing shows it outside, and that is the point)
        hosted.go_on.set()
        await until(lambda: "server cancelled" in log)
    assert "server out" not in log


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_calls_inside_interceptors_can_be_cancelled_at_every_step(
    running: Running, transport: Transport, native: bool, call: Callable[[Echo], Awaitable[None]]
) -> None:
    entered, left = [0], [0]

    async def count(call: aster.InterceptedCall) -> AsyncGenerator[None]:
        entered[0] += 1
        try:
            await anyio.lowlevel.checkpoint()
            yield
        finally:
            left[0] += 1

    async with running(Echo(), interceptors=[By(count)], client={"interceptors": [By(count), By(count)]}) as (_, client):
        echo = await client.client(Echo)

        async def check() -> None:
            await until(lambda: entered == left)

        times = await cancelled_at_every_step(lambda: call(echo), check, transport, native=native)
    assert times > 3
    assert entered == left


async def test_calls_of_a_session_are_wrapped_as_others_are(running: Running) -> None:
    log: list[str] = []
    lobby = Lobby()
    sides: dict[str, Any] = {"interceptors": [Noting("server", log)], "client": {"interceptors": [Noting("client", log)]}}
    async with running(lobby.service, **sides) as (_, client), client.session(Room) as room:
        assert await room.add(Item(2)) == Item(2)
        assert await numbers_of(room.count(Item())) == [0, 1]
        async with room.count(Item()) as numbers:
            await anext(numbers)
            with pytest.raises(RuntimeError, match="one call at a time"):
                await room.add(Item(1))
    assert log.count("client in") == log.count("server in") + 1 == 4
