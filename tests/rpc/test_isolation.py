"""Many calls on one connection, and their neighbours."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import pytest

import aster
from aster import RpcError, StatusCode
from aster._protocol.frames import encode_message
from aster.decorators import rpc, server_stream, service
from aster.testing import live_connections
from aster.transports.base import Transport
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item, numbers_of
from tests.rpc.raw import END, RawStream, header_of, raw_client

pytestmark = pytest.mark.anyio


@pytest.mark.timeout(120)  # 40 MB through one engine take 5 s on two free cores, and the suite's 20 s are for what hangs
async def test_a_thousand_parallel_large_unary_calls_on_one_connection_all_succeed(running: Running) -> None:
    answers: dict[int, Item] = {}

    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)

        async def call(number: int) -> None:
            answers[number] = await echo.same(Item(number, data=number.to_bytes(2, "big") * 10_000))

        async with anyio.create_task_group() as group:
            for number in range(1_000):
                group.start_soon(call, number)
    assert answers == {number: Item(number, data=number.to_bytes(2, "big") * 10_000) for number in range(1_000)}


@service
class Troubled:
    """Fails, hangs and answers wrongly, as it is told."""

    @rpc
    async def trouble(self, item: Item) -> Item:
        match item.text:
            case "bug":
                raise ZeroDivisionError
            case "error":
                raise RpcError(StatusCode.ABORTED)
            case "hang":
                await anyio.sleep_forever()
            case "wrong":
                return None  # pyright: ignore[reportReturnType] (that is the trouble)
            case "large":
                return Item(data=bytes(200_000))
            case _:
                pass
        return item


async def test_a_failing_call_leaves_its_neighbours_alone(running: Running) -> None:
    outcomes: list[tuple[str, object]] = []

    async with running(Echo(), Troubled(), max_message_size=150_000, client={"max_message_size": 150_000}) as (_, client):
        echo, troubled = await client.client(Echo), await client.client(Troubled)

        async def trouble(kind: str) -> None:
            request = Item(text=kind, data=bytes(200_000 if kind == "oversized" else 0))
            with anyio.CancelScope() as scope:
                if kind == "hang":
                    scope.deadline = anyio.current_time() + 0.01  # at any moment; it ends only by this
                with pytest.raises(RpcError) as caught:
                    await troubled.trouble(request)
                outcomes.append((kind, caught.value.code))
            if scope.cancelled_caught:
                outcomes.append((kind, None))

        async def neighbour(number: int) -> None:
            assert (await echo.same(Item(number))).number == number

        async with aster.open_call(echo.chat) as chat:
            for turn in range(10):
                async with anyio.create_task_group() as group:
                    for kind in ("bug", "error", "hang", "wrong", "large", "oversized"):
                        group.start_soon(trouble, kind)
                        group.start_soon(neighbour, turn)
                await chat.send(Item(turn))
                assert (await chat.receive()).number == turn
    expected = {
        ("bug", StatusCode.INTERNAL),
        ("error", StatusCode.ABORTED),
        ("hang", None),
        ("wrong", StatusCode.INTERNAL),
        ("large", StatusCode.RESOURCE_EXHAUSTED),
        ("oversized", StatusCode.RESOURCE_EXHAUSTED),
    }
    assert set(outcomes) == expected
    assert len(outcomes) == 60


async def test_a_call_that_is_over_before_its_handler_began_is_no_bug_of_the_handler(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    outcomes: list[StatusCode] = []

    async def call(echo: Echo) -> None:
        with pytest.raises(RpcError) as caught:
            await echo.same(Item(1))
        outcomes.append(caught.value.code)

    async with running(Echo()) as (server, client):
        echo = await client.client(Echo)
        client_end = next(connection for connection in live_connections() if connection.peer.endpoint_id == server.endpoint_id)
        async with anyio.create_task_group() as group:
            group.start_soon(call, echo)
            while client_end.open_streams == 1:  # the one for control
                await anyio.lowlevel.checkpoint()
            # The server hears of the call and of its end in one go.
            client_end.close()
    assert outcomes == [StatusCode.UNAVAILABLE]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_call_that_has_its_outcome_does_not_count_while_its_clients_half_is_still_open(transport: Transport) -> None:
    """A packet that was lost can hold up the end of one call, and another bring the next."""
    async with aster.serve([Echo()], transport=transport, max_concurrent_calls=1) as server, raw_client(server.address, transport) as raw:
        for _ in range(3):
            sink = RawStream()
            raw.connection.open_stream(sink).write(header_of("nothing") + encode_message(b"no value, which is an outcome too") + END)
            await sink.ended.wait()
            assert b"cannot be decoded" in sink.received


class NoInit(RpcError):
    def __init__(self) -> None:
        """Forgets its parent's."""


class HostileError(RpcError):
    """Its code is computed, and that fails."""

    def __getattribute__(self, name: str) -> object:
        if name == "code":
            raise LookupError("no code either")
        return super().__getattribute__(name)


class HostileText(str):
    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        raise LookupError("no bytes either")


def _with(**attributes: object) -> RpcError:
    error = RpcError(StatusCode.NOT_FOUND, "no such thing")
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


async def test_a_malformed_error_of_a_handler_is_that_handlers_bug_and_its_neighbour_goes_on(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    errors: list[BaseException] = [
        NoInit(),
        HostileError(StatusCode.NOT_FOUND),
        _with(code=999),
        _with(code=0),
        _with(code=StatusCode.OK),
        _with(code="NOT_FOUND"),
        _with(message=KeyError("x")),
        _with(message=None),
        _with(message=HostileText("x")),
    ]
    await _assert_that_each_is_a_bug(errors, running, caplog)


class Stop(BaseException):
    """Neither an Exception nor any that Python itself raises."""


async def test_no_base_exception_of_a_handler_but_an_interrupt_ends_the_server(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    groups: list[BaseException] = [BaseExceptionGroup("several", [ValueError(), SystemExit(1)]), BaseExceptionGroup("one", [Stop()])]
    await _assert_that_each_is_a_bug([SystemExit(3), Stop(), GeneratorExit(), *groups], running, caplog)


async def _assert_that_each_is_a_bug(errors: list[BaseException], running: Running, caplog: pytest.LogCaptureFixture) -> None:
    """Raised by a unary and by a streaming handler it is INTERNAL and one line in the log, while a call of the same connection goes on."""

    class Raising(Echo):
        @rpc
        async def same(self, item: Item) -> Item:
            raise errors[item.number]

        @server_stream
        async def count(self, item: Item) -> AsyncIterator[Item]:
            yield item
            raise errors[item.number]

    async with running(Raising()) as (_, client):
        echo = await client.client(Echo)
        async with aster.open_call(echo.chat) as neighbour:
            for number in range(len(errors)):
                caplog.clear()
                with pytest.raises(RpcError) as caught:
                    await echo.same(Item(number))
                assert caught.value.code is StatusCode.INTERNAL
                with pytest.raises(RpcError) as caught:
                    await numbers_of(echo.count(Item(number)))
                assert caught.value.code is StatusCode.INTERNAL
                logged = [record for record in caplog.records if record.levelname == "ERROR"]
                assert [("Echo.same" in record.getMessage(), record.exc_info is not None) for record in logged] == [(True, True), (False, True)]
                await neighbour.send(Item(number))
                assert await neighbour.receive() == Item(number)


async def test_an_interrupt_in_a_handler_ends_the_server(transport: Transport) -> None:
    """On trio a Ctrl-C is raised in whatever task runs; it is meant for the program."""

    class Interrupted(Echo):
        @rpc
        async def same(self, item: Item) -> Item:
            raise BaseExceptionGroup("of a task group", [KeyboardInterrupt()])

    async def serve() -> None:
        async with aster.serve([Interrupted()], transport=transport) as server, aster.connect(server.address, transport=transport) as client:
            echo = await client.client(Echo)
            with pytest.raises(RpcError):
                await echo.same(Item(1))
            await anyio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as caught:
        await serve()
    assert caught.group_contains(KeyboardInterrupt)


async def test_a_clients_small_metadata_limit_is_no_bug_of_the_handler(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "aster")

    class Talkative(Echo):
        @rpc
        async def same(self, item: Item) -> Item:
            aster.current_call().send_metadata({"region": "north"})
            return item

        @server_stream
        async def count(self, item: Item) -> AsyncIterator[Item]:
            aster.current_call().add_trailer("region", "north")
            yield item

    async with running(Talkative(), client={"max_metadata_size": 1}) as (_, client):
        echo = await client.client(Echo)
        for call in (lambda: echo.same(Item(1)), lambda: numbers_of(echo.count(Item(1)))):
            caplog.clear()
            with pytest.raises(RpcError, match="the client's limit") as caught:
                await call()
            assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED
            (record,) = [record for record in caplog.records if "the client's limit is 1 bytes" in record.getMessage()]
            assert (record.levelname, record.exc_info) == ("INFO", None)
        assert not [record for record in caplog.records if record.levelname not in ("DEBUG", "INFO")]
