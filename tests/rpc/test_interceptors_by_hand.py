"""Interceptors around calls that are made by hand."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import anyio
import pytest

import aster
from aster import StatusCode
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item, numbers_of
from tests.rpc.interceptors import By, Noting
from tests.rpc.probes import until

pytestmark = pytest.mark.anyio


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
