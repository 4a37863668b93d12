"""The methods of an ordinary instance run its handlers, without RPC."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any

import pytest

from aster._streams import LocalResponseStream, RequestIterator, ResponseStream
from aster.decorators import bidi_stream, client_stream, rpc, server_stream, service
from aster.types import Metadata
from tests.decorators.messages import Answer, Ask, Item

pytestmark = pytest.mark.anyio


@service
class Shop:
    def __init__(self) -> None:
        self.log: list[str] = []

    @rpc
    async def find(self, ask: Ask, *, rank: int = 0) -> Answer:
        return Answer(ask.text, rank)

    @server_stream
    async def browse(self, ask: Ask, *, pages: int = 3) -> AsyncIterator[Answer]:
        try:
            for rank in range(pages):
                yield Answer(ask.text, rank)
        finally:
            self.log.append("closed")

    @client_stream
    async def total(self, items: AsyncIterator[Item]) -> Answer:
        return Answer(rank=sum([item.number async for item in items]))

    @bidi_stream
    async def double(self, items: AsyncIterator[Item]) -> AsyncIterator[Answer]:
        async for item in items:
            yield Answer(rank=2 * item.number)


class AsyncOnly:
    """An async iterable that is no iterator of its own."""

    async def __aiter__(self) -> AsyncIterator[Item]:
        for number in range(3):
            yield Item(number)


def _generated() -> Iterator[Item]:
    for number in range(3):
        yield Item(number)


async def _async_generated() -> AsyncIterator[Item]:
    for item in _generated():
        yield item


_STREAMS = pytest.mark.parametrize(
    "requests",
    [
        lambda: [Item(0), Item(1), Item(2)],
        lambda: (Item(number) for number in range(3)),
        _generated,
        _async_generated,
        AsyncOnly,
        lambda: RequestIterator([Item(0), Item(1), Item(2)]),
    ],
    ids=["list", "generator expression", "generator", "async generator", "async iterable", "request iterator"],
)


async def test_a_unary_method_runs_its_handler() -> None:
    shop = Shop()
    assert await shop.find(Ask("tea")) == Answer("tea")
    assert await shop.find(ask=Ask("tea"), rank=4) == Answer("tea", 4)


async def test_a_method_is_reached_through_the_class_too() -> None:
    shop = Shop()
    assert await Shop.find(shop, Ask("tea"), rank=1) == Answer("tea", 1)
    assert [answer.rank async for answer in Shop.double(shop, [Item(4)])] == [8]


async def test_methods_without_streamed_responses_are_coroutine_functions() -> None:
    shop = Shop()
    assert inspect.iscoroutinefunction(shop.find)
    assert inspect.iscoroutinefunction(shop.total)
    coroutine = shop.total([])
    assert inspect.iscoroutine(coroutine)
    await coroutine


async def test_a_bound_method_keeps_its_name_and_signature_and_equals_itself() -> None:
    shop = Shop()
    for name in ("find", "browse", "total", "double"):
        method: Any = getattr(shop, name)
        assert method.__name__ == name
        assert method.__self__ is shop
        assert method == getattr(shop, name)
    assert str(inspect.signature(shop.browse)) == "(ask: 'Ask', *, pages: 'int' = 3) -> 'AsyncIterator[Answer]'"


async def test_a_server_stream_gives_what_its_handler_yields() -> None:
    shop = Shop()
    stream = shop.browse(Ask("tea"), pages=2)
    assert isinstance(stream, ResponseStream)
    assert [answer.rank async for answer in stream] == [0, 1]
    assert shop.log == ["closed"]


@_STREAMS
async def test_a_client_stream_takes_any_iterable(requests: Any) -> None:
    assert await Shop().total(requests()) == Answer(rank=3)


@_STREAMS
async def test_a_bidirectional_stream_takes_any_iterable(requests: Any) -> None:
    assert [answer.rank async for answer in Shop().double(requests())] == [0, 2, 4]


@pytest.mark.parametrize("method", ["total", "double"])
async def test_a_single_request_in_place_of_a_stream_is_refused_with_advice(method: str) -> None:
    with pytest.raises(TypeError, match=rf"Shop\.{method} takes a stream of requests.*not Item.*\[request\]"):
        await getattr(Shop(), method)(Item())


async def test_a_break_inside_the_block_only_pauses_and_the_end_of_the_block_closes() -> None:
    shop = Shop()
    async with shop.browse(Ask()) as answers:
        async for answer in answers:
            assert answer.rank == 0
            break
        assert (await anext(answers)).rank == 1
        assert shop.log == []
    assert shop.log == ["closed"]
    with pytest.raises(StopAsyncIteration):
        await anext(answers)


async def test_a_stream_is_its_own_iterator_and_may_be_closed_twice() -> None:
    stream = Shop().browse(Ask())
    assert aiter(stream) is stream
    await stream.aclose()
    await stream.aclose()
    assert [answer async for answer in stream] == []


async def test_a_handlers_exception_comes_out_of_the_stream() -> None:
    class Broken(Shop):
        @server_stream
        async def browse(self, ask: Ask, *, pages: int = 3) -> AsyncIterator[Answer]:
            yield Answer()
            raise LookupError("no more tea")

    stream = Broken().browse(Ask())
    assert await anext(stream) == Answer()
    with pytest.raises(LookupError, match="no more tea"):
        await anext(stream)


async def test_an_exception_of_a_request_iterable_comes_out_of_the_call() -> None:
    def broken() -> Iterator[Item]:
        yield Item(1)
        raise LookupError("no more items")

    with pytest.raises(LookupError, match="no more items"):
        await Shop().total(broken())
    async with Shop().double(broken()) as answers:
        assert (await anext(answers)).rank == 2
        with pytest.raises(LookupError, match="no more items"):
            await anext(answers)


async def test_a_local_stream_has_no_metadata() -> None:
    async with Shop().browse(Ask()) as stream:
        assert stream.metadata == stream.trailers == Metadata()


async def test_an_override_may_build_on_the_method_that_it_overrides() -> None:
    class Loud(Shop):
        @rpc
        async def find(self, ask: Ask, *, rank: int = 0) -> Answer:
            found = await super().find(ask, rank=rank)
            return Answer(found.text.upper(), found.rank)

        @bidi_stream
        async def double(self, items: AsyncIterator[Item]) -> AsyncIterator[Answer]:
            async for answer in super().double(items):
                yield Answer("loud", answer.rank)

    assert await Loud().find(Ask("tea"), rank=2) == Answer("TEA", 2)
    assert [answer async for answer in Loud().double([Item(1)])] == [Answer("loud", 2)]


async def test_a_response_stream_is_made_by_subclasses_only() -> None:
    abstract: Any = ResponseStream
    with pytest.raises(TypeError, match="abstract"):
        abstract()
    assert issubclass(LocalResponseStream, ResponseStream)


async def test_requests_that_are_async_already_are_handed_on_as_they_are() -> None:
    requests = _async_generated()
    assert RequestIterator[Item].of(requests, "Shop.total") is requests
    plain: Iterable[Item] | AsyncIterable[Item] = [Item(5)]
    assert [item async for item in RequestIterator[Item].of(plain, "Shop.total")] == [Item(5)]
