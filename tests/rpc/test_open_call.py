"""Calls whose messages are sent and received by hand."""

from __future__ import annotations

import anyio
import pytest

import aster
from tests.rpc.conftest import Running
from tests.rpc.echo import Brief, Echo, Item, OpenEnded

pytestmark = pytest.mark.anyio


async def test_open_call_carries_all_four_patterns(running: Running) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        async with aster.open_call(echo.same) as single:
            await single.send(Item(3))
            assert (await single.receive()).number == 3
            with pytest.raises(anyio.EndOfStream):
                await single.receive()
        async with aster.open_call(echo.count) as counting:
            await counting.send(Item(2))
            assert [item.number async for item in counting] == [0, 1]
            with pytest.raises(anyio.EndOfStream):
                await counting.receive()
        async with aster.open_call(echo.total) as total:
            for number in range(4):
                await total.send(Item(number))
            await total.end()
            assert (await total.receive()).number == 6
            with pytest.raises(anyio.EndOfStream):
                await total.receive()
        async with aster.open_call(echo.chat) as chat:
            for number in range(4):
                await chat.send(Item(number))
                assert (await chat.receive()).number == number
            await chat.end()
            with pytest.raises(anyio.EndOfStream):
                await chat.receive()


async def test_nothing_can_be_sent_after_the_end_of_requests(running: Running) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        async with aster.open_call(echo.chat) as chat:
            await chat.end()
            await chat.end()
            with pytest.raises(RuntimeError, match=r"requests of Echo\.chat were ended"):
                await chat.send(Item())
        async with aster.open_call(echo.same) as single:
            await single.send(Item(1))
            with pytest.raises(RuntimeError, match=r"Echo\.same"):
                await single.send(Item(2))
            assert await single.receive() == Item(1)


async def test_ending_a_unary_call_without_its_request_is_refused_with_the_remedy(running: Running) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        async with aster.open_call(echo.same) as single:
            with pytest.raises(RuntimeError, match=r"Echo\.same takes exactly one request: send it"):
                await single.end()
            await single.send(Item(5))
            await single.end()
            assert await single.receive() == Item(5)


async def test_sending_to_a_call_that_has_ended_says_that_it_is_over(running: Running) -> None:
    async with running(Brief()) as (_, client):
        brief = await client.client(Brief)
        async with aster.open_call(brief.first) as call:
            await call.send(Item(1))
            assert (await call.receive()).number == 1
            with pytest.raises(anyio.EndOfStream):
                await call.receive()
            with pytest.raises(anyio.BrokenResourceError):
                await call.send(Item(2))
            await call.end()


async def test_leaving_an_open_call_before_the_end_cancels_it(running: Running) -> None:
    for name in ("single", "stream", "collect", "talk"):
        hosted = OpenEnded()
        async with running(hosted) as (_, client):
            stub = await client.client(OpenEnded)
            async with aster.open_call(getattr(stub, name)) as call:
                await call.send(Item(1))
                if name == "talk":
                    assert await call.receive() == Item(1)
                    await call.end()
                if name != "collect":
                    await hosted.begun.wait()
        assert hosted.endings == 1 or name == "collect"


async def test_leaving_after_the_end_and_the_outcome_is_silent(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        async with aster.open_call(echo.total) as call:
            await call.send(Item(1))
            await call.end()
            await call.receive()
    assert [record for record in caplog.records if record.name == "aster"] == []


async def test_an_open_call_is_entered_once_and_used_inside_its_block(running: Running) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        call = aster.open_call(echo.same)
        with pytest.raises(RuntimeError, match=r"async with aster\.open_call"):
            await call.send(Item())
        async with call:
            await call.send(Item())
            await call.receive()
        with pytest.raises(RuntimeError, match="entered before"):
            await call.__aenter__()


async def test_open_call_refuses_what_is_no_stub_method(running: Running) -> None:
    async with running(Echo()):
        for wrong in (Echo().same, Echo.same, Echo, None):
            with pytest.raises(TypeError, match=r"open_call takes a method of a stub"):
                aster.open_call(wrong)  # pyright: ignore[reportArgumentType, reportCallIssue] (callers without a type checker)


async def test_one_task_may_send_while_another_receives(running: Running) -> None:
    async with running(Echo(), window=1_000, client={"window": 1_000}) as (_, client):
        echo = await client.client(Echo)
        got: list[int] = []
        async with aster.open_call(echo.chat) as call:

            async def receive() -> None:
                got.extend([item.number async for item in call])

            async with anyio.create_task_group() as group:
                group.start_soon(receive)
                for number in range(100):
                    await call.send(Item(number, data=bytes(100)))
                await call.end()
        assert got == list(range(100))
