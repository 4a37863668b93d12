"""Interceptors of servers, and what handlers make of what they refuse and answer."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import pytest

import aster
from aster import StatusCode
from aster.decorators import bidi_stream, client_stream, rpc, service
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item, Requests, numbers_of
from tests.rpc.interceptors import By
from tests.rpc.probes import CALLS, error_of

pytestmark = pytest.mark.anyio


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
