"""What both type checkers must accept, and the types that they must find. Read by them alone; nothing here runs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from typing import Any, assert_type

import aster
from aster.decorators import BidiStreamMethod, ClientStreamMethod, Handler, ServerStreamMethod, UnaryMethod, service, service_info
from aster.interceptors import LoggingInterceptor
from aster.types import Metadata, SerializationMode, ServiceInfo
from tests.typing.services import AbstractRoom, AbstractShop, Answer, Ask, DecoratedAgain, Room, ShopProtocol, TaskService


async def unary(tasks: TaskService) -> None:
    assert_type(await tasks.get(Ask()), Answer)
    assert_type(await tasks.get(ask=Ask()), Answer)
    await assert_type(tasks.get(Ask()), Coroutine[Any, Any, Answer])
    assert_type(await tasks.get_with_options(Ask()), Answer)
    assert_type(await tasks.get_with_options(Ask(), deep=True), Answer)


async def server_stream(tasks: TaskService) -> None:
    assert_type(tasks.watch(Ask()), aster.ResponseStream[Answer])
    assert_type(tasks.watch(ask=Ask()), aster.ResponseStream[Answer])
    assert_type(tasks.watch_with_options(Ask()), aster.ResponseStream[Answer])
    assert_type(tasks.watch_iterable(Ask()), aster.ResponseStream[Answer])


async def client_stream(tasks: TaskService, asks: AsyncIterable[Ask]) -> None:
    assert_type(await tasks.ingest(asks), Answer)
    assert_type(await tasks.ingest([Ask()]), Answer)
    assert_type(await tasks.ingest(_plain()), Answer)
    assert_type(await tasks.ingest(_async()), Answer)
    await assert_type(tasks.ingest(asks), Coroutine[Any, Any, Answer])
    assert_type(await tasks.ingest_with_options(Ask() for _ in range(3)), Answer)
    assert_type(await tasks.ingest_generator(asks), Answer)


async def bidi_stream(tasks: TaskService, asks: AsyncIterable[Ask]) -> None:
    assert_type(tasks.execute(asks), aster.ResponseStream[Answer])
    assert_type(tasks.execute((Ask(),)), aster.ResponseStream[Answer])
    assert_type(tasks.execute(_plain()), aster.ResponseStream[Answer])
    assert_type(tasks.execute_with_options(_async()), aster.ResponseStream[Answer])


async def response_stream(tasks: TaskService) -> None:
    async for answer in tasks.watch(Ask()):
        assert_type(answer, Answer)
    async with tasks.watch(Ask()) as answers:
        assert_type(answers, aster.ResponseStream[Answer])
        assert_type(await anext(answers), Answer)
        assert_type(answers.metadata, Metadata)
        assert_type(answers.trailers, Metadata)
        await answers.aclose()
    as_object: aster.ResponseStream[object] = answers
    as_iterator: AsyncIterator[Answer] = answers
    print(as_object, as_iterator)


async def subclasses(again: DecoratedAgain, room: Room, interface: AbstractRoom) -> None:
    assert_type(await again.get(Ask()), Answer)
    assert_type(again.watch(Ask()), aster.ResponseStream[Answer])
    assert_type(await again.ingest([Ask()]), Answer)
    assert_type(again.execute([Ask()]), aster.ResponseStream[Answer])
    assert_type(again.watch_iterable(Ask()), aster.ResponseStream[Answer])
    assert_type(await room.say(Ask()), Answer)
    assert_type(await interface.say(Ask()), Answer)
    assert_type(interface.listen(Ask()), aster.ResponseStream[Answer])
    as_base: TaskService = again
    print(as_base, Room(peer="ab"))


def methods(tasks: TaskService) -> None:
    """The bound types that other functions are typed with."""
    get: UnaryMethod[[Ask], Answer] | Callable[[Ask], Coroutine[Any, Any, Answer]] = tasks.get
    watch: ServerStreamMethod[[Ask], Answer] | Callable[[Ask], aster.ResponseStream[Answer]] = tasks.watch
    ingest: ClientStreamMethod[Ask, Answer] = tasks.ingest
    execute: BidiStreamMethod[Ask, Answer] = tasks.execute
    feed: Callable[[Iterable[Ask]], Coroutine[Any, Any, object]] = tasks.ingest
    print(get, watch, ingest, execute, feed)


def classes() -> None:
    assert_type(TaskService.ingest, Handler[ClientStreamMethod[Ask, Answer]])
    assert_type(TaskService.execute, Handler[BidiStreamMethod[Ask, Answer]])
    assert_type(TaskService(), TaskService)
    assert_type(service_info(TaskService), ServiceInfo)
    assert_type(service_info(TaskService()), ServiceInfo)
    assert_type(TaskService.get.__name__, str)


def service_forms(cls: type[Room]) -> None:
    assert_type(service(cls), type[Room])
    assert_type(service("Name")(cls), type[Room])
    assert_type(service("Name", version=2, scoped="stream")(cls), type[Room])
    assert_type(service(name="Name", serialization=SerializationMode.ROW, interceptors=[LoggingInterceptor], max_concurrent_streams=None)(cls), type[Room])
    assert_type(service("Name", errors=[Ask])(cls), type[Room])
    assert_type(service(errors=(Ask, Answer))(cls), type[Room])
    assert_type(service(serialization=[SerializationMode.XLANG, SerializationMode.NATIVE], requires=None)(cls), type[Room])


async def _admitted(peer: aster.Peer) -> bool:
    return bool(peer.endpoint_id)


async def _granted(peer: aster.Peer) -> list[str] | None:
    return [peer.endpoint_id] if peer.address else None


def _roles(peer: aster.Peer) -> Iterator[str]:
    yield peer.endpoint_id


def policies(services: list[object]) -> None:
    assert_type(aster.role("admin"), aster.CapabilityRequirement)
    assert_type(aster.any_of("admin", "auditor"), aster.CapabilityRequirement)
    assert_type(aster.all_of("reader", "writer").is_met_by({"reader"}), bool)
    aster.serve(services, admit=["id"], authorize={"id": "admin"})
    aster.serve(services, admit={"id": "admin"}.keys(), authorize={"id": ["reader", "writer"]})
    aster.serve(services, admit=lambda peer: peer.address == "memory", authorize=lambda peer: "admin" if peer.endpoint_id else None)
    aster.serve(services, admit=_admitted, authorize=_granted)
    aster.serve(services, authorize=_roles)


async def clients(client: aster.AsterClient) -> None:
    tasks = await client.client(TaskService)
    assert_type(tasks, TaskService)
    assert_type(await tasks.get(Ask()), Answer)
    assert_type(aster.with_options(tasks, timeout=2.0, metadata={"a": "b"}, serialization=SerializationMode.NATIVE), TaskService)
    assert_type(aster.open_call(tasks.ingest), aster.InteractiveCall[Ask, Answer])
    assert_type(aster.open_call(tasks.execute), aster.InteractiveCall[Ask, Answer])
    assert_type(aster.open_call(tasks.get), aster.InteractiveCall[Ask, Answer])
    assert_type(aster.open_call(tasks.get_with_options), aster.InteractiveCall[Ask, Answer])
    assert_type(aster.open_call(tasks.watch), aster.InteractiveCall[Ask, Answer])
    assert_type(aster.open_call(tasks.watch_with_options), aster.InteractiveCall[Ask, Answer])
    assert_type(aster.open_call(tasks.watch_iterable), aster.InteractiveCall[Ask, Answer])


async def interfaces(client: aster.AsterClient) -> None:
    shop = await client.client(AbstractShop)
    assert_type(shop, AbstractShop)
    assert_type(await shop.find(Ask()), Answer)
    assert_type(aster.with_options(shop, timeout=2.0), AbstractShop)
    assert_type(await client.client(ShopProtocol), ShopProtocol)
    assert_type(await client.client(AbstractRoom), AbstractRoom)
    assert_type(aster.open_call(shop.find), aster.InteractiveCall[Ask, Answer])


class Iterating(aster.Interceptor):
    async def intercept(self, call: aster.InterceptedCall) -> AsyncIterator[None]:
        call.metadata = [*call.metadata, ("key", "value")]
        call.metadata = {"key": b"value"}
        assert_type(call.metadata, Metadata)
        call.on_request(lambda message: message)
        call.on_response(_pass)
        call.answer(Answer(), Answer())
        yield


class Generating(aster.Interceptor):
    async def intercept(self, call: aster.InterceptedCall) -> AsyncGenerator[None, None]:
        yield


def interceptors(services: list[object]) -> None:
    aster.serve(services, interceptors=[Iterating, Generating(), LoggingInterceptor()])
    aster.connect(interceptors=(LoggingInterceptor,))
    same_kind = [Iterating(), Iterating()]
    aster.connect(interceptors=same_kind)


def _pass(message: Answer) -> Answer:
    return message


def _plain() -> Iterator[Ask]:
    yield Ask()


async def _async() -> AsyncIterator[Ask]:
    yield Ask()
