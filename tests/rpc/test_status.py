"""How calls fail: every code, every text, and what a handler's own mistakes look like from both sides."""

from __future__ import annotations

import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aster
from aster import RpcError, StatusCode
from aster.decorators import bidi_stream, client_stream, rpc, server_stream, service
from aster.transports.base import Transport
from aster.transports.memory import MemoryTransport
from aster.transports.quic import QuicTransport
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item, numbers_of
from tests.rpc.probes import error_of

pytestmark = pytest.mark.anyio

FAILING = [code for code in StatusCode if code is not StatusCode.OK]


@service
class Failing:
    """Each method calls ``fail`` after as many responses as it has and the request's number says."""

    def __init__(self, fail: Callable[[Item], None]) -> None:
        self._fail = fail

    @rpc
    async def single(self, item: Item) -> Item:
        self._fail(item)
        return item

    @server_stream
    async def stream(self, item: Item) -> AsyncIterator[Item]:
        for number in range(item.number):
            yield Item(number)
        self._fail(item)

    @client_stream
    async def collect(self, items: AsyncIterator[Item]) -> Item:
        item = await anext(items)
        self._fail(item)
        return item

    @bidi_stream
    async def talk(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
        item = await anext(items)
        for number in range(item.number):
            yield Item(number)
        self._fail(item)


def raise_as_told(item: Item) -> None:
    """The code is as many as the data's length."""
    raise RpcError(StatusCode(len(item.data)), item.text)


def raising(error: BaseException) -> Callable[[Item], None]:
    def fail(item: Item) -> None:
        raise error

    return fail


def calls_of(stub: Failing) -> list[Callable[[Item], Awaitable[object]]]:
    """The four patterns, each as a function of one request."""

    async def stream(item: Item) -> object:
        return [response async for response in stub.stream(item)]

    async def talk(item: Item) -> object:
        return [response async for response in stub.talk([item])]

    return [stub.single, stream, lambda item: stub.collect([item]), talk]


async def test_every_status_code_arrives_on_unary_and_on_streaming_calls(running: Running) -> None:
    async with running(Failing(raise_as_told)) as (_, client):
        for call, code in itertools.product(calls_of(await client.client(Failing)), FAILING):
            error = await error_of(call(Item(data=bytes(code), text=f"because of {code.name}")))
            assert (error.code, error.message) == (code, f"because of {code.name}")
            assert str(error) == f"{code.name}: because of {code.name}"


TEXTS = [
    "",
    " ",
    "\t leading and trailing \n",
    "a\r\nb\rc\n\n",
    "naïve café ✓ 日本語 \U0001f600 e\u0301",
    "\x00\x01\x7f",
    "100% %E4 %s {braces} \\n",
    "\u202eright to left\ufeff",
    "long " * 10_000,
]


async def test_a_message_arrives_exactly_with_unicode_newlines_and_white_space(running: Running) -> None:
    async with running(Failing(raise_as_told)) as (_, client):
        for call, text in itertools.product(calls_of(await client.client(Failing)), TEXTS):
            error = await error_of(call(Item(data=bytes(StatusCode.ABORTED), text=text)))
            assert (error.code, error.message) == (StatusCode.ABORTED, text)


@pytest.mark.parametrize("make_transport", [MemoryTransport, QuicTransport])
@settings(max_examples=25)
@given(text=st.text())
async def test_any_text_arrives_as_it_was_written(make_transport: Callable[[], Transport], text: str) -> None:
    transport = make_transport()
    async with aster.serve([Failing(raise_as_told)], transport=transport) as server, aster.connect(server.address, transport=transport) as client:
        error = await error_of((await client.client(Failing)).single(Item(data=bytes(StatusCode.ABORTED), text=text)))
        assert error.message == text


async def test_a_message_with_a_lone_surrogate_fails_its_call_and_no_other(running: Running) -> None:
    error = RpcError(StatusCode.NOT_FOUND, "no file named \udcff")
    async with running(Failing(raising(error))) as (_, client):
        for call in calls_of(await client.client(Failing)):
            got = await error_of(call(Item()))
            assert (got.code, got.message) == (StatusCode.NOT_FOUND, "no file named \\udcff")


async def test_a_message_beyond_all_reason_fails_its_call_and_no_other(running: Running) -> None:
    async with running(Failing(raising(RpcError(StatusCode.NOT_FOUND, "x" * 70_000))), Echo()) as (_, client):
        for call in calls_of(await client.client(Failing)):
            got = await error_of(call(Item()))
            assert got.code is StatusCode.RESOURCE_EXHAUSTED
            assert "70" in got.message
        echo = await client.client(Echo)
        assert await echo.same(Item(1)) == Item(1)


@pytest.mark.parametrize("count", [0, 1, 5, 200])
async def test_an_error_after_some_responses_keeps_those(running: Running, count: int) -> None:
    async with running(Failing(raise_as_told)) as (_, client):
        stub = await client.client(Failing)
        request = Item(count, data=bytes(StatusCode.DATA_LOSS), text="after them")
        for stream in (stub.stream(request), stub.talk([request])):
            got: list[int] = []
            error = await error_of(numbers_of(stream, got))
            assert got == list(range(count))
            assert (error.code, error.message) == (StatusCode.DATA_LOSS, "after them")


async def test_an_error_waits_until_the_responses_before_it_were_read(running: Running) -> None:
    failed = anyio.Event()

    def fail(item: Item) -> None:
        failed.set()
        raise RpcError(StatusCode.ABORTED)

    async with running(Failing(fail)) as (_, client):
        stub = await client.client(Failing)
        async with aster.open_call(stub.stream) as call:
            await call.send(Item(3))
            await failed.wait()
            await anyio.wait_all_tasks_blocked()
            assert [(await call.receive()).number for _ in range(3)] == [0, 1, 2]
            for _ in range(2):
                with pytest.raises(RpcError, match="ABORTED"):
                    await call.receive()


@pytest.mark.parametrize("code", [StatusCode.CANCELLED, StatusCode.DEADLINE_EXCEEDED])
async def test_a_handlers_own_cancelled_or_deadline_exceeded_arrives_as_an_rpc_error(running: Running, code: StatusCode) -> None:
    async with running(Failing(raising(RpcError(code, "of my own")))) as (_, client):
        stub = await client.client(Failing)
        for call in calls_of(aster.with_options(stub, timeout=60)) + calls_of(stub):
            error = await error_of(call(Item()))
            assert (error.code, error.message) == (code, "of my own")
        with anyio.fail_after(60):
            assert (await error_of(stub.single(Item()))).code is code


def test_an_rpc_error_cannot_be_ok() -> None:
    with pytest.raises(ValueError, match="to succeed, return from the handler"):
        RpcError(StatusCode.OK)


@pytest.mark.parametrize("code", [999, -1, "NOT_FOUND", None])
def test_an_rpc_error_of_no_status_code_says_what_to_write(code: Any) -> None:
    with pytest.raises(ValueError, match=r"is no status code: write StatusCode\.NOT_FOUND"):
        RpcError(code)


@pytest.mark.parametrize("message", [KeyError("x"), None, b"bytes", 5])
def test_an_rpc_errors_message_is_text(message: Any) -> None:
    with pytest.raises(TypeError, match=f"must be a str, not {type(message).__name__}"):
        RpcError(StatusCode.NOT_FOUND, message)


async def test_an_rpc_error_that_a_handler_makes_with_ok_is_that_handlers_bug(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    def fail(item: Item) -> None:
        raise RpcError(StatusCode.OK)

    async with running(Failing(fail)) as (_, client):
        error = await error_of((await client.client(Failing)).single(Item()))
        assert error.code is StatusCode.INTERNAL
    assert "to succeed, return from the handler" in caplog.text


# Bugs


def errors_in(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "aster" and record.levelno >= logging.ERROR]


async def test_a_handlers_bug_is_internal_logged_once_with_its_traceback_and_its_text_stays(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    bug = KeyError("the password is swordfish")
    async with running(Failing(raising(bug))) as (_, client):
        names = ["single", "stream", "collect", "talk"]
        for name, call in zip(names, calls_of(await client.client(Failing)), strict=True):
            caplog.clear()
            error = await error_of(call(Item()))
            assert error.code is StatusCode.INTERNAL
            assert "swordfish" not in str(error)
            assert "KeyError" not in str(error)
            (record,) = errors_in(caplog)
            assert f"Failing.{name}" in record.getMessage()
            assert record.exc_info is not None
            assert record.exc_info[1] is bug
            assert [record for record in caplog.records if record.name == "aster" and record.levelno > logging.INFO] == [record]


async def test_debug_shows_the_type_and_the_text_of_a_bug(running: Running) -> None:
    async with running(Failing(raising(KeyError("which one?"))), debug=True) as (_, client):
        for call in calls_of(await client.client(Failing)):
            error = await error_of(call(Item()))
            assert error.code is StatusCode.INTERNAL
            assert error.message == "KeyError: 'which one?'"


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text either")


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("bug", [Unprintable(), ValueError("no file \udcff"), ValueError("x" * 100_000), ExceptionGroup("many", [ValueError(), KeyError()])])
async def test_a_bug_whose_text_cannot_be_sent_still_ends_its_call(running: Running, bug: Exception, debug: bool) -> None:
    async with running(Failing(raising(bug)), Echo(), debug=debug) as (_, client):
        for call in calls_of(await client.client(Failing)):
            assert (await error_of(call(Item()))).code is StatusCode.INTERNAL
        echo = await client.client(Echo)
        assert await echo.same(Item(1)) == Item(1)


async def test_a_bug_after_some_responses_keeps_those(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    async with running(Failing(raising(ZeroDivisionError()))) as (_, client):
        stub = await client.client(Failing)
        got: list[int] = []
        assert (await error_of(numbers_of(stub.stream(Item(3)), got))).code is StatusCode.INTERNAL
        assert got == [0, 1, 2]
    assert len(errors_in(caplog)) == 1


async def test_an_rpc_error_of_a_handler_is_no_bug_and_is_not_logged_as_one(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    async with running(Failing(raising(RpcError(StatusCode.NOT_FOUND)))) as (_, client):
        for call in calls_of(await client.client(Failing)):
            await error_of(call(Item()))
    assert errors_in(caplog) == []


async def test_a_generators_failing_cleanup_is_a_bug_of_that_call(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    @service
    class Untidy:
        @server_stream
        async def stream(self, item: Item) -> AsyncIterator[Item]:
            try:
                yield item
                raise RpcError(StatusCode.NOT_FOUND)
            finally:
                raise LookupError("untidy")

    async with running(Untidy()) as (_, client):
        untidy = await client.client(Untidy)
        error = await error_of(numbers_of(untidy.stream(Item())))
        assert error.code is StatusCode.INTERNAL
    assert [record.exc_info[0] for record in errors_in(caplog) if record.exc_info] == [LookupError]


async def test_an_error_of_a_call_that_a_handler_made_passes_on_as_it_is(running: Running) -> None:
    """Nobody has to write the same code and message again on each hop."""
    inner_error = RpcError(StatusCode.OUT_OF_RANGE, "three is too many")

    @service
    class Front:
        def __init__(self, back: Failing) -> None:
            self._back = back

        @rpc
        async def ask(self, item: Item) -> Item:
            return await self._back.single(item)

    async with running(Failing(raising(inner_error))) as (_, to_back):
        front = Front(await to_back.client(Failing))
        async with running(front) as (_, to_front):
            error = await error_of((await to_front.client(Front)).ask(Item()))
            assert (error.code, error.message) == (StatusCode.OUT_OF_RANGE, "three is too many")


async def test_two_failures_in_a_handlers_own_task_group_are_one_outcome(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    async def burn(text: str) -> None:
        raise ValueError(text)

    @service
    class Grouped:
        @rpc
        async def run(self, item: Item) -> Item:
            async with anyio.create_task_group() as group:
                group.start_soon(burn, "one")
                group.start_soon(burn, "two")
            return item

    async with running(Grouped()) as (_, client):
        error = await error_of((await client.client(Grouped)).run(Item()))
        assert error.code is StatusCode.INTERNAL
    assert len(errors_in(caplog)) == 1


async def test_an_rpc_error_alone_in_a_group_is_the_outcome_as_if_it_were_bare(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    """As a task of a handler's own task group raises it; beside another failure it is a part of a bug."""
    error = RpcError(StatusCode.OUT_OF_RANGE, "three is too many")

    async def fail() -> None:
        raise error

    @service
    class Grouped:
        @rpc
        async def run(self, item: Item) -> Item:
            async with anyio.create_task_group() as outer:
                outer.start_soon(anyio.sleep_forever)
                async with anyio.create_task_group() as inner:
                    inner.start_soon(fail)
            return item

        @server_stream
        async def two(self, item: Item) -> AsyncIterator[Item]:
            yield item
            raise ExceptionGroup("two", [error, ValueError()])

    async with running(Grouped()) as (_, client):
        grouped = await client.client(Grouped)
        got = await error_of(grouped.run(Item()))
        assert (got.code, got.message) == (StatusCode.OUT_OF_RANGE, "three is too many")
        assert errors_in(caplog) == []
        assert (await error_of(numbers_of(grouped.two(Item())))).code is StatusCode.INTERNAL
        assert len(errors_in(caplog)) == 1
