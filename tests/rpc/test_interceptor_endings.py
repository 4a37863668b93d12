"""Interceptors that end before their call does, or has begun."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

import anyio
import anyio.lowlevel
import pytest

import aster
from aster import StatusCode
from aster.decorators import server_stream
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item, numbers_of
from tests.rpc.interceptors import By, Noting
from tests.rpc.probes import CALLS, Endless, error_of, kept_cancellation, server_record, until
from tests.rpc.rooms import Lobby, Room

pytestmark = pytest.mark.anyio


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
