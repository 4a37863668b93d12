"""The four patterns: what is sent arrives, in order, once, and both ends see the end."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aster
from aster.decorators import bidi_stream, client_stream, rpc, server_stream, service
from aster.transports.base import Transport
from aster.transports.memory import MemoryTransport
from aster.transports.quic import QuicTransport
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item, Nothing, numbers_of

pytestmark = pytest.mark.anyio


async def items_of(*numbers: int) -> AsyncIterator[Item]:
    for number in numbers:
        await anyio.lowlevel.checkpoint()
        yield Item(number)


@service("Open")
class OpenEnded:
    """Handlers that wait until they are cancelled, and say when they have begun and ended."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        self.ended = anyio.Event()
        self.endings = 0

    async def _wait(self) -> None:
        self.begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.endings += 1
            self.ended.set()

    @rpc
    async def single(self, item: Item) -> Item:
        await self._wait()
        return item

    @server_stream
    async def stream(self, item: Item) -> AsyncIterator[Item]:
        for number in range(item.number):
            yield Item(number)
        await self._wait()

    @client_stream
    async def collect(self, items: AsyncIterator[Item]) -> Item:
        try:
            last = Item()
            async for last in items:  # noqa: B007 (the last one is what it is for)
                self.begun.set()
            return last
        finally:
            self.endings += 1
            self.ended.set()

    @bidi_stream
    async def talk(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
        async for item in items:
            yield item
        await self._wait()


@service("Brief")
class Brief:
    """Handlers that end before their requests do."""

    @client_stream
    async def first(self, items: AsyncIterator[Item]) -> Item:
        return await anext(items)

    @bidi_stream
    async def two(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
        yield await anext(items)
        yield await anext(items)


# What travels


async def test_an_empty_message_travels_both_ways(running: Running) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        assert await echo.nothing(Nothing()) == Nothing()
        assert await echo.same(Item()) == Item()


async def test_a_large_unary_call_arrives_byte_for_byte(running: Running) -> None:
    request, response = bytes(itertools.islice(itertools.cycle(range(251)), 271_828)), bytes(itertools.islice(itertools.cycle(range(241)), 314_159))

    @service
    class Large:
        @rpc
        async def swap(self, item: Item) -> Item:
            assert item.data == request
            return Item(data=response)

    async with running(Large()) as (_, client):
        large = await client.client(Large)
        assert (await large.swap(Item(data=request))).data == response


async def test_a_client_streams_sum_is_right(running: Running) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        assert (await echo.total(Item(number) for number in range(1_000))).number == 499_500
        assert (await echo.total(items_of(27_182, 8, 1_828, 45_904))).number == 74_922


async def test_a_client_stream_with_zero_requests_works(running: Running) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        assert await echo.total([]) == Item()
        assert await echo.total(items_of()) == Item()


async def test_a_server_stream_keeps_exact_order_and_sizes(running: Running) -> None:
    sizes = [31_415, 9, 2_653, 58_979, 0, 1, 16_383, 16_384, 16_385, 300_000]

    @service
    class Sizes:
        @server_stream
        async def all(self, item: Item) -> AsyncIterator[Item]:
            for number, size in enumerate(sizes):
                yield Item(number, data=bytes([number]) * size)

    async with running(Sizes()) as (_, client):
        stub = await client.client(Sizes)
        got = [(item.number, item.data) async for item in stub.all(Item())]
        assert got == [(number, bytes([number]) * size) for number, size in enumerate(sizes)]


async def test_zero_responses_are_a_normal_end(running: Running) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        assert [item async for item in echo.count(Item(0))] == []


async def test_each_reply_of_a_ping_pong_arrives_before_the_next_request_is_sent(running: Running) -> None:
    log: list[str] = []
    answered = anyio.Event()

    async def pings() -> AsyncIterator[Item]:
        nonlocal answered
        for number in range(50):
            log.append(f"ping {number}")
            yield Item(number)
            await answered.wait()
            answered = anyio.Event()

    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        async for pong in echo.chat(pings()):
            log.append(f"pong {pong.number}")
            answered.set()
    assert log == [f"{side} {number}" for number in range(50) for side in ("ping", "pong")]


async def test_an_empty_bidirectional_call_ends_well(running: Running) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        assert [item async for item in echo.chat([])] == []
        assert [item async for item in echo.chat(items_of())] == []


@pytest.mark.parametrize("make_transport", [MemoryTransport, QuicTransport])
@settings(max_examples=25)
@given(
    sizes=st.lists(st.one_of(st.integers(0, 100), st.sampled_from([16_300, 16_384, 40_000, 270_000])), max_size=12), window=st.sampled_from([1, 1_000, 262_144])
)
async def test_messages_of_any_sizes_arrive_in_order_and_once(make_transport: Callable[[], Transport], sizes: list[int], window: int) -> None:
    transport = make_transport()
    sent = [Item(number, data=bytes([number]) * size) for number, size in enumerate(sizes)]
    async with aster.serve([Echo()], transport=transport, window=window) as server, aster.connect(server.address, transport=transport, window=window) as client:
        echo = await client.client(Echo)
        assert [item async for item in echo.chat(sent)] == sent


# The early end


async def test_a_server_that_finishes_before_the_client_half_closes_ends_the_call_at_once(running: Running) -> None:
    closed: list[str] = []

    async def endless(name: str) -> AsyncIterator[Item]:
        try:
            for number in itertools.count():
                yield Item(number)
                if number == 1:
                    await anyio.sleep_forever()
        finally:
            closed.append(name)

    async with running(Brief()) as (_, client):
        brief = await client.client(Brief)
        assert await brief.first(endless("first")) == Item(0)
        assert closed == ["first"]
        assert [item.number async for item in brief.two(endless("two"))] == [0, 1]
        assert closed == ["first", "two"]


async def test_a_server_that_fails_before_the_requests_end_ends_the_call_at_once(running: Running) -> None:
    @service
    class Picky:
        @client_stream
        async def collect(self, items: AsyncIterator[Item]) -> Item:
            async for item in items:
                raise aster.RpcError(aster.StatusCode.OUT_OF_RANGE, f"not {item.number}")
            return Item()

        @bidi_stream
        async def talk(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
            yield await anext(items)
            raise aster.RpcError(aster.StatusCode.OUT_OF_RANGE, "not one more")

    async with running(Picky()) as (_, client):
        picky = await client.client(Picky)
        requests, got = Requests(13, at_end=lambda: None), list[int]()
        with pytest.raises(aster.RpcError, match="OUT_OF_RANGE: not 13"):
            await picky.collect(requests)
        assert requests.closings == 1
        requests = Requests(13, at_end=lambda: None)
        with pytest.raises(aster.RpcError, match="OUT_OF_RANGE: not one more"):
            await numbers_of(picky.talk(requests), got)
        assert requests.closings == 1
        assert got == [13]


async def test_a_sender_that_never_pauses_stops_when_the_server_has_finished(running: Running) -> None:
    async with running(Brief()) as (_, client):
        brief = await client.client(Brief)
        assert await brief.first(itertools.repeat(Item(7))) == Item(7)
        assert [item.number async for item in brief.two(map(Item, itertools.count()))] == [0, 1]


async def test_a_server_may_answer_before_the_first_request(running: Running) -> None:
    @service
    class Greeter:
        @bidi_stream
        async def greet(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
            yield Item(text="welcome")

        @client_stream
        async def ignore(self, items: AsyncIterator[Item]) -> Item:
            return Item(text="no, thank you")

    async def silent() -> AsyncIterator[Item]:
        await anyio.sleep_forever()
        yield Item()

    async with running(Greeter()) as (_, client):
        greeter = await client.client(Greeter)
        assert [item.text async for item in greeter.greet(silent())] == ["welcome"]
        assert (await greeter.ignore(silent())).text == "no, thank you"


# Request iterables


class Requests:
    """An async iterator of requests that counts its closings; after the last one it ends, fails, or does something and waits for ever."""

    def __init__(self, *numbers: int, error: BaseException | None = None, at_end: Callable[[], None] | None = None) -> None:
        self._numbers = iter(numbers)
        self._error = error
        self._at_end = at_end
        self.closings = 0

    def __aiter__(self) -> Requests:
        return self

    async def __anext__(self) -> Item:
        await anyio.lowlevel.checkpoint()
        for number in self._numbers:
            return Item(number)
        if self._error is not None:
            raise self._error
        if self._at_end is not None:
            self._at_end()
            await anyio.sleep_forever()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        with anyio.CancelScope(shield=True):
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
        self.closings += 1


class PlainRequests(Iterator[Item]):
    """A plain iterator with a ``close``, as generators have it."""

    def __init__(self, *numbers: int, error: Exception | None = None) -> None:
        self._numbers = iter(numbers)
        self._error = error
        self.closings = 0

    def __next__(self) -> Item:
        for number in self._numbers:
            return Item(number)
        raise self._error or StopIteration

    def close(self) -> None:
        self.closings += 1


@pytest.mark.parametrize("make", [Requests, PlainRequests])
async def test_an_iterable_of_requests_is_closed_once_before_the_call_returns(running: Running, make: type[Requests | PlainRequests]) -> None:
    async with running(Echo(), Brief()) as (_, client):
        echo, brief = await client.client(Echo), await client.client(Brief)
        requests = make(1, 2, 3)
        assert (await echo.total(requests)).number == 6
        assert requests.closings == 1
        requests = make(1, 2, 3)
        assert [item.number async for item in echo.chat(requests)] == [1, 2, 3]
        assert requests.closings == 1
        requests = make(1, 2, 3)
        assert (await brief.first(requests)).number == 1
        assert requests.closings == 1


@pytest.mark.parametrize("make", [Requests, PlainRequests])
async def test_the_exception_of_an_iterable_cancels_the_call_and_comes_out_of_it(running: Running, make: type[Requests | PlainRequests]) -> None:
    error = LookupError("no more")
    for method in ("collect", "talk"):
        hosted = OpenEnded()
        async with running(hosted) as (_, client):
            stub = await client.client(OpenEnded)
            requests = make(1, error=error)
            call = stub.collect(requests) if method == "collect" else numbers_of(stub.talk(requests))
            with pytest.raises(LookupError) as caught:
                await call
            assert caught.value is error
            assert requests.closings == 1


async def test_the_exception_of_an_iterable_reaches_the_handler_as_cancellation(running: Running) -> None:
    hosted = OpenEnded()

    async def requests() -> AsyncIterator[Item]:
        yield Item(1)
        await hosted.begun.wait()
        raise LookupError("no more")

    async with running(hosted) as (_, client):
        stub = await client.client(OpenEnded)
        with pytest.raises(LookupError):
            await stub.collect(requests())
        await hosted.ended.wait()
        assert hosted.endings == 1


async def test_an_rpc_error_of_an_iterable_comes_out_as_itself(running: Running) -> None:
    error = aster.RpcError(aster.StatusCode.ABORTED, "another call failed")
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        with pytest.raises(aster.RpcError) as caught:
            await echo.total(Requests(1, error=error))
        assert caught.value is error


async def test_a_generator_that_fails_while_it_is_closed_fails_the_call_with_that(running: Running) -> None:
    async def requests() -> AsyncIterator[Item]:
        try:
            yield Item(1)
            await anyio.sleep_forever()
        finally:
            raise LookupError("closing failed")

    async with running(Brief()) as (_, client):
        brief = await client.client(Brief)
        with pytest.raises(LookupError, match="closing failed"):
            await brief.first(requests())


async def test_an_iterable_whose_tasks_fail_while_they_are_cancelled_fails_one_call(running: Running) -> None:
    """On trio the failure then comes in one group with the cancellation."""

    async def fail_in_the_end() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise LookupError("cleanup failed")

    class Tasked(Requests):
        async def __anext__(self) -> Item:
            try:
                return await super().__anext__()
            except StopAsyncIteration:
                async with anyio.create_task_group() as group:
                    group.start_soon(anyio.sleep_forever)
                    group.start_soon(fail_in_the_end)
                    await anyio.sleep_forever()
                raise

    async with running(Brief(), Echo()) as (_, client):
        brief, echo = await client.client(Brief), await client.client(Echo)
        requests = Tasked(1)
        with pytest.raises(BaseExceptionGroup) as caught:
            await brief.first(requests)
        assert caught.group_contains(LookupError, match="cleanup failed")
        assert isinstance(caught.value, Exception)
        assert requests.closings == 1
        assert await echo.same(Item(1)) == Item(1)


@pytest.mark.parametrize("method", ["collect", "talk"])
async def test_a_cancelled_call_has_closed_its_requests_when_it_returns(running: Running, method: str) -> None:
    async with running(OpenEnded()) as (_, client):
        stub = await client.client(OpenEnded)
        scope = anyio.CancelScope()
        requests = Requests(1, at_end=scope.cancel)
        with scope:
            await (stub.collect(requests) if method == "collect" else numbers_of(stub.talk(requests)))
        assert scope.cancelled_caught
        assert requests.closings == 1


async def test_what_is_no_stream_of_requests_is_refused_with_the_remedy(running: Running) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        with pytest.raises(TypeError, match=r"Echo\.total takes an iterable or async iterable of Item, not Item.*\[Item\("):
            await echo.total(Item())  # pyright: ignore[reportArgumentType] (callers without a type checker)
        with pytest.raises(TypeError, match=r"Echo\.chat takes an iterable or async iterable of Item, not Item.*\[Item\("):
            echo.chat(Item())  # pyright: ignore[reportArgumentType] (callers without a type checker)


# Streams of responses


async def test_a_response_stream_is_its_own_iterator(running: Running) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        for stream in (echo.count(Item(2)), echo.chat([Item(0), Item(1)])):
            assert isinstance(stream, aster.ResponseStream)
            assert aiter(stream) is stream
            assert [item.number async for item in stream] == [0, 1]
            with pytest.raises(StopAsyncIteration):
                await anext(stream)


async def test_a_break_inside_the_block_pauses_and_the_blocks_end_cancels(running: Running) -> None:
    hosted = OpenEnded()
    async with running(hosted) as (_, client):
        stub = await client.client(OpenEnded)
        async with stub.stream(Item(4)) as stream:
            async for item in stream:
                if item.number == 1:
                    break
            assert (await anext(stream)).number == 2
            async for item in stream:
                assert item.number == 3
                break
            await hosted.begun.wait()
            assert not hosted.ended.is_set()
        await hosted.ended.wait()


async def test_a_cancelled_wait_inside_the_block_leaves_the_stream_alive(running: Running) -> None:
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        go_on = anyio.Event()

        async def requests() -> AsyncIterator[Item]:
            await go_on.wait()
            yield Item(1)

        async with echo.chat(requests()) as stream:
            with anyio.move_on_after(0.01):  # the wait ends only by this
                await anext(stream)
            go_on.set()
            assert [item.number async for item in stream] == [1]


async def test_a_break_outside_a_block_keeps_the_call_as_long_as_the_stream_is_referenced(running: Running) -> None:
    hosted = OpenEnded()
    async with running(hosted) as (_, client):
        stub = await client.client(OpenEnded)
        stream = stub.stream(Item(3))
        async for _ in stream:
            break
        assert (await anext(stream)).number == 1
        await hosted.begun.wait()
        assert not hosted.ended.is_set()
        del stream
        await hosted.ended.wait()
        assert hosted.endings == 1


async def test_a_break_from_an_unreferenced_stream_cancels_the_call(running: Running) -> None:
    hosted = OpenEnded()
    async with running(hosted) as (_, client):
        stub = await client.client(OpenEnded)
        async for _ in stub.stream(Item(1)):
            await hosted.begun.wait()
            break
        await hosted.ended.wait()


async def test_the_last_reference_may_be_dropped_in_another_thread(running: Running) -> None:
    hosted = OpenEnded()
    async with running(hosted) as (_, client):
        stub = await client.client(OpenEnded)
        holder = [stub.stream(Item(1))]
        await anext(holder[0])
        await hosted.begun.wait()
        thread = threading.Thread(target=holder.clear)
        thread.start()
        thread.join()
        await hosted.ended.wait()


async def test_dropping_a_bidirectional_stream_stops_its_requests(running: Running) -> None:
    requests = Requests(1, at_end=lambda: None)
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        stream = echo.chat(requests)
        assert (await anext(stream)).number == 1
        del stream
    assert requests.closings == 1


async def test_a_stream_that_was_never_iterated_makes_no_call(running: Running) -> None:
    hosted = OpenEnded()
    async with running(hosted) as (_, client):
        stub = await client.client(OpenEnded)
        stub.stream(Item(1))
        await stub.stream(Item(1)).aclose()
    assert not hosted.begun.is_set()


async def test_the_end_of_the_client_block_cancels_what_is_still_referenced(running: Running) -> None:
    hosted = OpenEnded()
    async with running(hosted) as (_, client):
        stub = await client.client(OpenEnded)
        stream = stub.stream(Item(1))
        await anext(stream)
        await hosted.begun.wait()
    assert hosted.endings == 1
    with pytest.raises(aster.RpcError) as caught:
        await anext(stream)
    assert caught.value.code is aster.StatusCode.CANCELLED


async def test_aclose_is_idempotent_and_ends_the_iteration(running: Running) -> None:
    hosted = OpenEnded()
    async with running(hosted) as (_, client):
        stub = await client.client(OpenEnded)
        stream = stub.stream(Item(2))
        await anext(stream)
        await stream.aclose()
        await stream.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await anext(stream)


async def test_a_second_task_that_iterates_is_refused_and_the_first_goes_on(running: Running) -> None:
    go_on = anyio.Event()

    async def requests() -> AsyncIterator[Item]:
        await go_on.wait()
        yield Item(1)

    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        stream = echo.chat(requests())
        got: list[int] = []

        async def read() -> None:
            got.extend([item.number async for item in stream])

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(anyio.BusyResourceError):
                await anext(stream)
            go_on.set()
        assert got == [1]


# Calls by hand


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


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancelled_task_that_an_iterable_waited_for_never_hangs_the_call(running: Running) -> None:
    """On trio nobody can raise a cancellation by hand."""

    async def requests() -> AsyncIterator[Item]:
        yield Item(1)
        raise asyncio.CancelledError("a task that this awaited")

    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        with pytest.raises(asyncio.CancelledError, match="a task that this awaited"):
            await echo.total(requests())
        with pytest.raises(asyncio.CancelledError, match="a task that this awaited"):
            async for _item in echo.chat(requests()):
                pass
        assert await echo.same(Item(1)) == Item(1)


@pytest.mark.parametrize("pattern", ["same", "count", "total", "chat", "open_call"])
async def test_an_ambient_deadline_that_passed_before_the_call_began_stays_native(running: Running, pattern: str) -> None:
    """The loop had no turn to tell the scope, as on a machine that is busy."""
    async with running(Echo()) as (_, client):
        echo = await client.client(Echo)
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "same": lambda: echo.same(Item()),
            "count": lambda: numbers_of(echo.count(Item(2))),
            "total": lambda: echo.total([]),
            "chat": lambda: numbers_of(echo.chat([])),
            "open_call": aster.open_call(echo.chat).__aenter__,
        }
        with anyio.CancelScope(deadline=anyio.current_time() + 0.001) as scope:
            while anyio.current_time() <= scope.deadline:
                pass
            await calls[pattern]()
        assert scope.cancelled_caught
