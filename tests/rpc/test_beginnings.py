"""Calls that cannot begin, and options that make no sense: each says so once, and what was given is closed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import anyio
import pytest

import aster
from aster.transports.base import Transport
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item
from tests.rpc.probes import Endless, until

pytestmark = pytest.mark.anyio


class Requests:
    """Requests that remember whether they were closed."""

    def __init__(self) -> None:
        self.closed = False

    def __aiter__(self) -> Requests:
        return self

    async def __anext__(self) -> Item:
        return Item(1)

    async def aclose(self) -> None:
        self.closed = True


@pytest.mark.parametrize("method", ["total", "chat"])
async def test_requests_of_a_call_that_never_began_are_closed(running: Running, method: str) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
    requests = Requests()
    begin = echo.total(requests) if method == "total" else anext(echo.chat(requests))
    with pytest.raises(aster.RpcError) as failure:
        await begin
    assert failure.value.code is aster.StatusCode.UNAVAILABLE
    assert requests.closed


async def test_closing_a_stream_before_its_first_step_closes_its_requests(running: Running) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        requests = Requests()
        await echo.chat(requests).aclose()
        assert requests.closed


async def test_a_stream_that_was_cancelled_while_it_waited_for_its_turn_begins_no_call_later(running: Running) -> None:
    service = Endless()
    stream: aster.ResponseStream[Item] | None = None
    async with running(service, max_concurrent_calls=1) as (_, client), anyio.create_task_group() as group:
        endless = await client.client(Endless)
        group.start_soon(endless.same, Item(1))
        await until(lambda: service.witness.running == 1)
        stream = endless.count(Item(1))
        with anyio.move_on_after(0.01) as scope:  # any time will do: there is no room for the call
            await anext(stream)
        assert scope.cancelled_caught
        group.cancel_scope.cancel()
    assert stream is not None
    with pytest.raises(anyio.ClosedResourceError):
        await anext(stream)
    assert service.witness.began == 1


async def test_a_request_that_waits_for_credit_while_the_requests_are_ended_says_so(running: Running) -> None:
    class Deaf(Echo):
        @aster.client_stream
        async def total(self, items: AsyncIterator[Item]) -> Item:
            await anyio.sleep_forever()
            return Item()

    async with running(Deaf(), client={"window": 1}) as (_, client):
        echo = await client.client(Echo)
        async with aster.open_call(echo.total) as call:
            await call.send(Item(1))
            async with anyio.create_task_group() as group:

                async def send_one_more() -> None:
                    with pytest.raises(RuntimeError, match="were ended while this one waited"):
                        await call.send(Item(2))

                group.start_soon(send_one_more)
                await anyio.wait_all_tasks_blocked()
                await call.end()


async def test_a_service_that_is_a_context_manager_hears_what_ended_the_server(transport: Transport) -> None:
    heard: list[object] = []

    @aster.service
    class Listening(Echo):
        @aster.rpc
        async def same(self, item: Item) -> Item:
            return item

        async def __aenter__(self) -> Listening:
            return self

        async def __aexit__(self, exc_type: object, exc: object, traceback: object) -> None:
            heard.append(exc)

    failure = ValueError("the body's")
    with pytest.raises(ValueError, match="the body's"):
        async with aster.serve([Listening()], transport=transport):
            raise failure
    assert heard == [failure]


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("drain_grace", "1", TypeError),
        ("drain_grace", -1, ValueError),
        ("max_deadline", True, TypeError),
        ("max_deadline", 0, ValueError),
        ("identity", 5, TypeError),
    ],
)
async def test_serve_names_the_option_that_makes_no_sense(option: str, value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=option):
        aster.serve([Echo()], **cast("dict[str, Any]", {option: value}))


async def test_stubs_refuse_options_of_a_wrong_type(running: Running) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        for options, text in (
            ({"timeout": "1"}, "timeout"),
            ({"timeout": True}, "timeout"),
            ({"serialization": 1}, "serialization"),
            ({"metadata": 5}, "metadata"),
        ):
            with pytest.raises(TypeError, match=text):
                aster.with_options(echo, **cast("dict[str, Any]", options))
        with pytest.raises(TypeError, match="'ab' is no pair"):
            aster.with_options(echo, metadata=cast("Any", ["ab"]))
