"""Interceptors: the onion around whole calls, at both ends and for all patterns alike."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import aster
from aster import StatusCode
from aster.decorators import bidi_stream, client_stream, rpc, server_stream, service
from aster.testing import assert_no_orphans
from aster.transports.base import Transport
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item, Nothing, Requests, numbers_of
from tests.rpc.probes import CALLS, Endless, cancelled_at_every_step, error_of, kept_cancellation, server_record, until
from tests.rpc.rooms import Lobby, Room

pytestmark = pytest.mark.anyio

Around = Callable[[aster.InterceptedCall], AsyncGenerator[None]]


class By(aster.Interceptor):
    """Runs what a test gives it."""

    def __init__(self, around: Around) -> None:
        self._around = around

    async def intercept(self, call: aster.InterceptedCall) -> AsyncIterator[None]:
        steps = self._around(call)
        await anext(steps)
        try:
            yield
        except BaseException as exc:
            try:
                await steps.athrow(exc)
            except StopAsyncIteration:
                return
            raise AssertionError from exc
        with pytest.raises(StopAsyncIteration):
            await anext(steps)


class Noting(aster.Interceptor):
    """Notes what passes by, under a name."""

    def __init__(self, name: str, log: list[str]) -> None:
        self._name = name
        self._log = log

    async def intercept(self, call: aster.InterceptedCall) -> AsyncIterator[None]:
        self._log.append(f"{self._name} in")
        call.on_request(functools.partial(self._pass, "request"))
        call.on_response(functools.partial(self._pass, "response"))
        try:
            yield
        except BaseException as exc:
            self._log.append(f"{self._name} {exc.code.name if isinstance(exc, aster.RpcError) else 'cancelled'}")
            raise
        self._log.append(f"{self._name} out")

    def _pass(self, kind: str, message: Item) -> Item:
        self._log.append(f"{self._name} {kind}")
        return message


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


# The log


async def test_a_call_is_one_line_in_the_log_with_the_same_id_at_both_ends(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aster.calls")
    bound: list[str | None] = []

    class Looking(Echo):
        @rpc
        async def same(self, item: Item) -> Item:
            bound.append(aster.request_id())
            return item

        @rpc
        async def nothing(self, nothing: Nothing) -> Nothing:
            raise aster.RpcError(StatusCode.NOT_FOUND)

    async with running(Looking(), interceptors=[aster.LoggingInterceptor], client={"interceptors": [aster.LoggingInterceptor()]}) as (_, client):
        echo = await client.client(Echo)
        await echo.same(Item(1))
        await error_of(aster.with_options(echo, metadata={"x-request-id": "mine"}).nothing(Nothing()))
        await numbers_of(echo.count(Item(3)))
    records: list[Any] = [record for record in caplog.records if record.name == "aster.calls"]
    by_side = {side: [record for record in records if record.side == side] for side in ("client", "server")}
    assert [record.method for record in by_side["client"]] == ["same", "nothing", "count"]
    assert [record.request_id for record in by_side["client"]] == [record.request_id for record in by_side["server"]]
    assert bound == [by_side["server"][0].request_id]
    assert by_side["server"][1].request_id == "mine"
    assert [(record.code, record.requests, record.responses) for record in by_side["server"]] == [("OK", 1, 1), ("NOT_FOUND", 1, 0), ("OK", 1, 3)]
    assert by_side["server"][0].peer == client.endpoint_id
    assert by_side["client"][0].getMessage().startswith("client Echo.same OK in ")
    assert aster.request_id() is None


@pytest.mark.parametrize("sent", ["a b", "x" * 65, "line\nbreak", "", b"bytes"])
async def test_an_id_that_would_spoil_the_log_is_not_taken_over(running: Running, caplog: pytest.LogCaptureFixture, sent: Any) -> None:
    caplog.set_level(logging.INFO, "aster.calls")
    async with running(Echo(), interceptors=[aster.LoggingInterceptor]) as (_, client):
        await aster.with_options(await client.client(Echo), metadata={"x-request-id": sent}).same(Item(1))
    (record,) = [record for record in caplog.records if record.name == "aster.calls"]
    taken: Any = record
    assert taken.request_id != sent
    assert len(taken.request_id) == 16


# Interceptors that end before their call does, or has begun


async def test_interceptors_that_raise_cancellation_by_hand_let_no_call_by(running: Running) -> None:
    raised = await kept_cancellation()

    async def refuse(call: aster.InterceptedCall) -> AsyncGenerator[None]:
        raise raised
        yield

    hosted = Endless(3)
    async with running(hosted, client={"interceptors": [By(refuse)]}) as (_, client):
        echo = await client.client(Echo)
        for call in CALLS.values():
            with pytest.raises(anyio.get_cancelled_exc_class()):
                await call(echo)
    assert hosted.witness.began == 0


async def test_a_scope_of_an_interceptor_that_expires_while_the_call_waits_for_its_turn_takes_it_along(running: Running) -> None:
    async def hurry(call: aster.InterceptedCall) -> AsyncGenerator[None]:
        with anyio.fail_after(0.05 if call.metadata.get("hurry") else 10):
            yield

    hosted = Endless(3)
    async with running(hosted, max_concurrent_calls=1, client={"interceptors": [By(hurry)]}) as (_, client):
        echo = await client.client(Echo)
        async with echo.count(Item()) as responses:
            await anext(responses)
            hurried = aster.with_options(echo, metadata={"hurry": "yes"})
            with pytest.raises(TimeoutError):
                await anext(hurried.count(Item()))
            with pytest.raises(TimeoutError):
                await hurried.same(Item())
    assert hosted.witness.began == 1


async def test_a_stream_that_is_closed_while_its_interceptors_begin_makes_no_call(running: Running) -> None:
    log: list[str] = []

    async def slow(call: aster.InterceptedCall) -> AsyncGenerator[None]:
        log.append("in")
        try:
            await anyio.sleep(0.02)
            yield
        finally:
            log.append("out")

    hosted = Endless(3)
    async with running(hosted, client={"interceptors": [By(slow)]}) as (_, client), anyio.create_task_group() as group:
        stream = (await client.client(Echo)).count(Item())

        async def read() -> None:
            with pytest.raises(anyio.ClosedResourceError):
                await anext(stream)
            log.append("closed")

        group.start_soon(read)
        await until(lambda: log == ["in"])
        await stream.aclose()
        assert log[:2] == ["in", "out"]
        await until(lambda: "closed" in log)
    assert hosted.witness.began == 0


async def test_a_stream_that_is_closed_at_whatever_step_of_its_beginning_is_closed_for_its_reader(running: Running) -> None:
    """Whatever its interceptors do when they are cancelled."""

    async def stumbling(call: aster.InterceptedCall) -> AsyncGenerator[None]:
        try:
            await anyio.lowlevel.checkpoint()
            yield
        except anyio.get_cancelled_exc_class():
            raise LookupError from None

    closed = 0

    async def read(stream: aster.ResponseStream[Item]) -> None:
        nonlocal closed
        try:
            assert await numbers_of(stream) == [0, 1, 2]
        except anyio.ClosedResourceError:
            closed += 1

    async with running(Echo(), client={"interceptors": [By(stumbling)]}) as (_, client):
        echo = await client.client(Echo)
        for steps in range(30):
            stream = echo.count(Item(3))
            async with anyio.create_task_group() as group:
                group.start_soon(read, stream)
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                await stream.aclose()
    assert closed > 3


async def test_a_stream_that_is_closed_while_its_call_waits_for_its_turn_is_closed_for_its_reader(running: Running) -> None:
    hosted = Endless(3)
    async with running(hosted, max_concurrent_calls=1, client={"interceptors": [Noting("client", [])]}) as (_, client):
        echo = await client.client(Echo)
        async with echo.count(Item()) as running_one, anyio.create_task_group() as group:
            await anext(running_one)
            waiting = echo.count(Item())

            async def read() -> None:
                with pytest.raises(anyio.ClosedResourceError):
                    await anext(waiting)

            group.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            await waiting.aclose()
    assert hosted.witness.began == 1


async def test_a_request_iterable_that_fails_while_it_is_closed_leaves_no_interceptor_behind(running: Running) -> None:
    log: list[str] = []

    async def requests() -> AsyncIterator[Item]:
        try:
            yield Item(1)
            await anyio.sleep_forever()
        finally:
            raise LookupError

    async def leave(echo: Echo) -> None:
        async with echo.chat(requests()) as responses:
            await anext(responses)

    async with running(Endless(), client={"interceptors": [Noting("client", log)]}) as (_, client):
        with pytest.raises(LookupError):
            await leave(await client.client(Echo))
        assert "client cancelled" in log


async def test_a_stream_after_the_clients_block_fails_as_it_does_without_interceptors(running: Running) -> None:
    async with running(Echo(), client={"interceptors": [Noting("client", [])]}) as (_, client):
        echo = await client.client(Echo)
    assert (await error_of(numbers_of(echo.count(Item(1))))).code is StatusCode.UNAVAILABLE
    with pytest.raises(aster.RpcError) as caught:
        async with aster.open_call(echo.chat):
            raise AssertionError
    assert caught.value.code is StatusCode.UNAVAILABLE


async def test_an_answer_from_a_hook_is_given_once_also_while_another_task_receives(running: Running) -> None:
    async def answer(call: aster.InterceptedCall) -> AsyncGenerator[None]:
        def from_hook(item: Item) -> Item:
            call.answer(Item(1), Item(2))
            return item

        call.on_request(from_hook)
        yield

    got: list[int] = []
    async with running(Endless(), client={"interceptors": [By(answer)]}) as (_, client):
        echo = await client.client(Echo)
        async with aster.open_call(echo.count) as opened, anyio.create_task_group() as group:

            async def receive() -> None:
                got.extend([item.number async for item in opened])

            group.start_soon(receive)
            await anyio.sleep(0.005)
            await opened.send(Item(1))
    assert got == [1, 2]


async def test_what_a_hook_raises_fails_an_open_call_for_good(running: Running) -> None:
    log: list[str] = []

    async def fail(call: aster.InterceptedCall) -> AsyncGenerator[None]:
        def look(item: Item) -> Item:
            raise LookupError

        call.on_request(look)
        yield

    async with running(Endless(), client={"interceptors": [Noting("outside", log), By(fail)]}) as (_, client):
        async with aster.open_call((await client.client(Echo)).chat) as opened:
            with pytest.raises(LookupError):
                await opened.send(Item(1))
            with pytest.raises(LookupError):
                await opened.receive()
        assert log[-1] == "outside cancelled", "which stands for whatever is no RpcError"


async def test_leaving_the_client_ends_the_interceptors_of_a_session_that_had_ended(running: Running) -> None:
    lobby, log = Lobby(), list[str]()
    left = anyio.Event()
    async with anyio.create_task_group() as group:

        async def sit(client: aster.AsterClient) -> None:
            async with client.session(Room) as room:
                await room.add(Item(3))
                async with aster.open_call(room.each) as opened:
                    await opened.send(Item(1))
                    await opened.receive()
                    log.append("sits")
                    await left.wait()

        async with running(lobby.service, client={"interceptors": [Noting("client", log)]}) as (_, client):
            group.start_soon(sit, client)
            await until(lambda: "sits" in log)
            server_record(client).transport.close()
            await until(lambda: lobby.closed == [1])
        left.set()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_what_interceptors_do_after_a_call_that_went_well_is_part_of_its_time(running: Running, call: Callable[[Echo], Awaitable[None]]) -> None:
    async def linger(call: aster.InterceptedCall) -> AsyncGenerator[None]:
        yield
        await anyio.sleep(10)

    async with running(Echo(), client={"interceptors": [By(linger)]}) as (_, client):
        error = await error_of(call(aster.with_options(await client.client(Echo), timeout=0.1)))
        assert (error.code, "its interceptors took too long" in error.message) == (StatusCode.DEADLINE_EXCEEDED, True)


class _Cut(Echo):
    """Whose streams lose their end."""

    @server_stream
    async def count(self, item: Item) -> AsyncIterator[Item]:
        yield item
        raise aster.RpcError(StatusCode.DATA_LOSS, "the rest is lost")


@pytest.mark.parametrize("by_hand", [False, True], ids=["stream", "open call"])
async def test_who_gives_up_waiting_for_the_interceptors_at_the_end_still_hears_how_the_call_ended(running: Running, by_hand: bool) -> None:
    async def slow(call: aster.InterceptedCall) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            await anyio.sleep(0.05)

    async def read(take: Callable[[], Awaitable[Item]]) -> None:
        while True:
            with anyio.move_on_after(0.02):
                assert await take() == Item(1)

    async with running(_Cut(), client={"interceptors": [By(slow)]}) as (_, client):
        echo = await client.client(Echo)
        for _ in range(2):
            if by_hand:
                async with aster.open_call(echo.count) as opened:
                    await opened.send(Item(1))
                    assert (await error_of(read(opened.receive))).code is StatusCode.DATA_LOSS
                    assert (await error_of(opened.receive())).code is StatusCode.DATA_LOSS
            else:
                async with echo.count(Item(1)) as responses:
                    assert (await error_of(read(responses.__anext__))).code is StatusCode.DATA_LOSS


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_task_group_across_the_yield_leaves_a_failure_as_it_is(running: Running, call: Callable[[Echo], Awaitable[None]]) -> None:
    async def group(call: aster.InterceptedCall) -> AsyncGenerator[None]:
        async with anyio.create_task_group():
            yield

    class Refusing(aster.Interceptor):
        async def intercept(self, call: aster.InterceptedCall, /) -> AsyncIterator[None]:
            raise aster.RpcError(StatusCode.NOT_FOUND)
            yield

    async with running(Echo(), interceptors=[Refusing], client={"interceptors": [By(group), By(group)]}) as (_, client):
        assert (await error_of(call(await client.client(Echo)))).code is StatusCode.NOT_FOUND


# By hand


@pytest.mark.parametrize("name", ["same", "total"])
async def test_who_takes_a_single_response_by_hand_and_leaves_has_had_a_success(running: Running, name: str) -> None:
    log: list[str] = []

    async def late(call: aster.InterceptedCall) -> AsyncGenerator[None]:
        yield
        call.add_trailer("over", "yes")

    async with running(Echo(), interceptors=[By(late)], client={"interceptors": [Noting("client", log)]}) as (_, client):
        echo = await client.client(Echo)
        for timeout in (None, 0.5) if name == "same" else (None,):
            async with aster.open_call(getattr(aster.with_options(echo, timeout=timeout), name)) as opened:
                await opened.send(Item(1))
                await opened.end()
                assert await opened.receive() == Item(1)
                await until(lambda: len(opened.trailers))
                # The block may last for longer than the call.
                await anyio.sleep(0 if timeout is None else timeout)
            assert log[-1] == "client out"
        async with aster.open_call(getattr(echo, name)):
            pass
        assert log[-1] == "client cancelled"


async def test_what_an_interceptor_makes_of_a_success_comes_out_once_of_the_block_or_of_the_end(running: Running) -> None:
    async def late(call: aster.InterceptedCall) -> AsyncGenerator[None]:
        yield
        call.add_trailer("over", "yes")

    async def fail(call: aster.InterceptedCall) -> AsyncGenerator[None]:
        yield
        raise LookupError

    async def use(echo: Echo, *, to_its_end: bool) -> None:
        async with aster.open_call(echo.same) as opened:
            await opened.send(Item(1))
            assert await opened.receive() == Item(1)
            await until(lambda: len(opened.trailers))
            if to_its_end:
                with pytest.raises(LookupError):
                    await opened.receive()

    async with running(Echo(), interceptors=[By(late)], client={"interceptors": [By(fail)]}) as (_, client):
        echo = await client.client(Echo)
        with pytest.raises(LookupError):
            await use(echo, to_its_end=False)
        await use(echo, to_its_end=True)


async def test_a_wrong_request_is_its_callers_alone_and_passes_no_hook(running: Running) -> None:
    log: list[str] = []
    async with running(Echo(), client={"interceptors": [Noting("client", log)]}) as (_, client):
        echo = await client.client(Echo)
        no_item: Any = "text"
        no_number: Any = Item(number=no_item)
        async with aster.open_call(echo.chat) as opened:
            for wrong in (no_item, no_number):
                with pytest.raises(TypeError, match="Item"):
                    await opened.send(wrong)
            assert log == ["client in"]
            await opened.send(Item(1))
            assert await opened.receive() == Item(1)
            await opened.end()
            with pytest.raises(RuntimeError, match=r"the requests of Echo\.chat were ended"):
                await opened.send(Item(2))
            with pytest.raises(anyio.EndOfStream):
                await opened.receive()
        assert log == ["client in", "client request", "client response", "client out"]
        async with aster.open_call(echo.same) as single:
            with pytest.raises(TypeError, match="this call expects a Item, not a str"):
                await single.send(no_item)
            await single.send(Item(1))
            assert await single.receive() == Item(1)
        for wrong in (no_item, no_number):
            log.clear()
            with pytest.raises(TypeError, match=r"this call expects|Item\.number"):
                await echo.total([wrong])
            with pytest.raises(TypeError, match=r"this call expects|Item\.number"):
                await numbers_of(echo.chat([wrong]))
            assert "client request" not in log


async def test_a_request_that_a_hook_changes_in_place_or_spoils_is_what_it_made_of_it(running: Running) -> None:
    outcomes: list[str] = []

    async def change(call: aster.InterceptedCall) -> AsyncGenerator[None]:
        def hook(item: Item) -> Item:
            item.number = item.number + 1 if item.number >= 0 else "spoiled"  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
            return item

        call.on_request(hook)
        try:
            yield
        except TypeError:
            outcomes.append(call.method)
            raise

    async with running(Echo(), client={"interceptors": [By(change)]}) as (_, client):
        echo = await client.client(Echo)
        assert await numbers_of(echo.chat([Item(1), Item(2)])) == [2, 3]
        with pytest.raises(TypeError, match=r"Item\.number"):
            await echo.total([Item(-1)])
        async with aster.open_call(echo.chat) as opened:
            await opened.send(Item(1))
            assert await opened.receive() == Item(2)
            for step in (functools.partial(opened.send, Item(-1)), opened.receive):
                with pytest.raises(TypeError, match=r"Item\.number"):
                    await step()
            with pytest.raises(anyio.BrokenResourceError):
                await opened.send(Item(1))
    assert outcomes == ["total", "chat"]


async def test_a_call_is_used_inside_its_block_whatever_wraps_it(running: Running) -> None:
    async def answer_or_refuse(call: aster.InterceptedCall) -> AsyncGenerator[None]:
        if call.method == "same":
            raise aster.RpcError(StatusCode.PERMISSION_DENIED, "not you")
        if call.method == "count":
            call.answer(Item(1))
        yield

    async def refuses(opened: Any) -> None:
        for step in (functools.partial(opened.send, Item()), opened.receive, opened.end):
            with pytest.raises(RuntimeError, match="the call has not begun: use it inside"):
                await step()
        for name in ("metadata", "trailers"):
            with pytest.raises(RuntimeError, match="the call has not begun: use it inside"):
                getattr(opened, name)

    async with running(Echo(), client={"interceptors": [By(answer_or_refuse)]}) as (_, client):
        echo = await client.client(Echo)
        opened = aster.open_call(echo.chat)
        await refuses(opened)
        async with opened:
            assert (len(opened.metadata), len(opened.trailers)) == (0, 0)
        refused = aster.open_call(echo.same)
        with pytest.raises(aster.RpcError, match="not you"):
            await refused.__aenter__()
        await refuses(refused)
        async with aster.open_call(echo.count) as answered:
            await answered.end()
            assert (len(answered.metadata), len(answered.trailers)) == (0, 0)
            with pytest.raises(anyio.BrokenResourceError):
                await answered.send(Item(1))
            assert [item.number async for item in answered] == [1]


async def test_a_request_that_comes_while_an_interceptor_makes_up_its_mind_keeps_it_from_nothing(running: Running) -> None:
    heard, go_on = anyio.Event(), anyio.Event()

    async def fall_back(call: aster.InterceptedCall) -> AsyncGenerator[None]:
        call.on_request(lambda item: item)
        try:
            yield
        except aster.RpcError:
            heard.set()
            await go_on.wait()
            call.answer(Item(99))

    class Failing(Echo):
        async def chat(self, items: Any) -> AsyncIterator[Item]:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
            yield await anext(items)
            raise aster.RpcError(StatusCode.NOT_FOUND)

    got: list[int] = []
    async with running(Failing(), client={"interceptors": [By(fall_back)]}) as (_, client):
        echo = await client.client(Echo)
        async with aster.open_call(echo.chat) as opened, anyio.create_task_group() as group:

            async def receive() -> None:
                got.extend([item.number async for item in opened])

            await opened.send(Item(1))
            group.start_soon(receive)
            await heard.wait()
            with pytest.raises(anyio.BrokenResourceError):
                await opened.send(Item(2))
            go_on.set()
    assert got == [1, 99]


# On the server


@service("Careless")
class Careless:
    """Handlers that go on whatever comes of reading their requests."""

    @client_stream
    async def total(self, items: AsyncIterator[Item]) -> Item:
        total = Item()
        while True:
            try:
                total.number += (await anext(items)).number
            except StopAsyncIteration:
                return total
            except Exception:
                total.text += "!"

    @bidi_stream
    async def chat(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
        last = Item()
        while True:
            try:
                item = await anext(items)
            except StopAsyncIteration:
                return
            except Exception as exc:
                if last.text:
                    raise ValueError from exc
                item = Item(-1)
            yield (last := item)


class RefusingTwos(aster.Interceptor):
    """Refuses a request, and says what the call has failed with."""

    def __init__(self, outcomes: list[str]) -> None:
        self._outcomes = outcomes

    async def intercept(self, call: aster.InterceptedCall) -> AsyncIterator[None]:
        def look(item: Item) -> Item:
            if item.number == 2:
                raise aster.RpcError(StatusCode.PERMISSION_DENIED, "no twos")
            return item

        call.on_request(look)
        try:
            yield
        except Exception as exc:
            self._outcomes.append(str(exc))
            raise


@pytest.mark.parametrize("text", ["", "raises something else"])
async def test_what_a_hook_refuses_is_refused_whatever_the_handler_makes_of_it(running: Running, text: str) -> None:
    outcomes: list[str] = []
    async with running(Careless(), interceptors=[RefusingTwos(outcomes)]) as (_, client):
        careless = await client.client(Careless)
        assert (await careless.total([Item(1), Item(3)])).number == 4
        got: list[int] = []
        for call in (careless.total([Item(1), Item(2), Item(3)]), numbers_of(careless.chat([Item(1, text), Item(2), Item(3)]), got)):
            error = await error_of(call)
            assert (error.code, error.message) == (StatusCode.PERMISSION_DENIED, "no twos")
        assert got == [1]
    assert outcomes == ["PERMISSION_DENIED: no twos"] * 2


class Answering(aster.Interceptor):
    """Gives an answer ahead of the call, or in place of its failure."""

    def __init__(self, *answers: Item, late: bool = False) -> None:
        self._answers = answers
        self._late = late

    async def intercept(self, call: aster.InterceptedCall) -> AsyncIterator[None]:
        if not self._late:
            call.answer(*self._answers)
        try:
            yield
        except aster.RpcError:
            call.answer(*self._answers)


class Failed(Echo):
    @rpc
    async def same(self, item: Item) -> Item:
        raise aster.RpcError(StatusCode.NOT_FOUND)


@pytest.mark.parametrize("late", [False, True], ids=["ahead", "in place of a failure"])
async def test_an_answer_that_cannot_be_sent_is_no_success_for_those_around(running: Running, caplog: pytest.LogCaptureFixture, late: bool) -> None:
    caplog.set_level(logging.INFO, "aster.calls")
    no_number: Any = "no number"
    for answer, code in ((Item(number=no_number), StatusCode.INTERNAL), (Item(data=bytes(5_000)), StatusCode.RESOURCE_EXHAUSTED)):
        caplog.clear()
        interceptors = [aster.LoggingInterceptor, Answering(answer, late=late)]
        async with running(Failed(), interceptors=interceptors, client={"max_message_size": 1_000}) as (_, client):
            assert (await error_of((await client.client(Echo)).same(Item(1)))).code is code
        (line,) = (record for record in caplog.records if record.name == "aster.calls")
        assert vars(line)["code"] == code.name


async def test_an_interceptor_that_hears_of_its_answer_may_give_another(running: Running) -> None:
    async def try_twice(call: aster.InterceptedCall) -> AsyncGenerator[None]:
        no_number: Any = "no number"
        with pytest.raises(TypeError, match=r"Item\.number"):
            call.answer(Item(number=no_number))
        call.answer(Item(7))
        yield

    async with running(Echo(), interceptors=[By(try_twice)]) as (_, client):
        assert await (await client.client(Echo)).same(Item(1)) == Item(7)


# The code in the log


@service("Ending")
class Ending:
    """Handlers that end in ways of their own."""

    def __init__(self) -> None:
        self.begun = anyio.Event()

    @rpc
    async def together(self, item: Item) -> Item:
        async with anyio.create_task_group() as group:
            group.start_soon(self._fail)
        return item

    async def _fail(self) -> None:
        raise aster.RpcError(StatusCode.NOT_FOUND, "in a group")

    @rpc
    async def by_hand(self, item: Item) -> Item:
        raise await kept_cancellation()

    @rpc
    async def forever(self, item: Item) -> Item:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            group.start_soon(anyio.sleep_forever)
            self.begun.set()
            await anyio.sleep_forever()
        return item


async def test_the_code_in_the_log_is_the_callers_unless_its_server_has_cancelled_the_call(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aster.calls")
    logs: dict[str, Any] = {"interceptors": [aster.LoggingInterceptor], "client": {"interceptors": [aster.LoggingInterceptor]}}
    hosted, codes = Ending(), list[StatusCode]()
    async with running(hosted, drain_grace=0, **logs) as (server, client):
        ending = await client.client(Ending)
        for call in (ending.together(Item()), ending.by_hand(Item()), aster.with_options(ending, timeout=0.3).forever(Item())):
            codes.append((await error_of(call)).code)
        await until(lambda: len([record for record in caplog.records if record.name == "aster.calls"]) == 6)
        hosted.begun = anyio.Event()
        async with anyio.create_task_group() as group:

            async def go() -> None:
                codes.append((await error_of(ending.forever(Item()))).code)

            group.start_soon(go)
            await hosted.begun.wait()
            await server.drain(0)
    logged = {side: [vars(record)["code"] for record in caplog.records if vars(record).get("side") == side] for side in ("client", "server")}
    assert [code.name for code in codes] == ["NOT_FOUND", "INTERNAL", "DEADLINE_EXCEEDED", "UNAVAILABLE"]
    assert logged["client"] == [code.name for code in codes]
    assert logged["server"] == ["NOT_FOUND", "INTERNAL", "DEADLINE_EXCEEDED", "CANCELLED"]


async def test_two_logs_around_one_call_have_one_id(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aster.calls")
    async with running(Echo(), interceptors=[aster.LoggingInterceptor(), aster.LoggingInterceptor()]) as (_, client):
        await (await client.client(Echo)).same(Item(1))
    ids = [vars(record)["request_id"] for record in caplog.records if record.name == "aster.calls"]
    assert (len(ids), len(set(ids))) == (2, 1)


# Answered, and then


@pytest.mark.parametrize("how", ["ahead of the yield", "from a hook"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_interceptors_that_linger_after_their_answer_are_told_of_as_what_took_too_long(
    running: Running, how: str, call: Callable[[Echo], Awaitable[None]]
) -> None:
    async def answer(call: aster.InterceptedCall) -> AsyncGenerator[None]:
        def from_hook(item: Item) -> Item:
            call.answer(Item(1))
            return item

        if how == "from a hook" and not call.pattern.streams_requests:
            call.on_request(from_hook)
        else:
            call.answer(Item(1))
        yield
        await anyio.sleep_forever()

    async with running(Echo(), client={"interceptors": [By(answer)]}) as (_, client):
        error = await error_of(call(aster.with_options(await client.client(Echo), timeout=0.1)))
        assert error.code is StatusCode.DEADLINE_EXCEEDED
        assert error.message.endswith("did not end within its timeout: its interceptors took too long")


@pytest.mark.parametrize("name", ["total", "chat"])
@pytest.mark.parametrize("raises", [False, True])
async def test_the_requests_of_a_call_that_was_answered_are_closed_once(running: Running, name: str, raises: bool) -> None:
    async def answer(call: aster.InterceptedCall) -> AsyncGenerator[None]:
        call.answer(Item(7))
        yield
        if raises:
            raise LookupError

    requests = Requests(1, 2)
    async with running(Echo(), client={"interceptors": [By(answer)]}) as (_, client):
        echo = await client.client(Echo)
        with pytest.raises(LookupError) if raises else contextlib.nullcontext():
            if name == "total":
                assert await echo.total(requests) == Item(7)
            else:
                assert await numbers_of(echo.chat(requests)) == [7]
    assert requests.closings == 1
