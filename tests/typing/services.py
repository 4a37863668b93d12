"""Services as an application writes them, for the type tests beside this file."""

from __future__ import annotations

import abc
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from aster.codec import wire_type
from aster.decorators import bidi_stream, client_stream, rpc, server_stream, service
from aster.types import SerializationMode, role


@wire_type("tests.typing/Ask")
@dataclass
class Ask:
    text: str = ""


@wire_type("tests.typing/Answer")
@dataclass
class Answer:
    text: str = ""


@service("Tasks", version=1)
class TaskService:
    """Every pattern, bare and with options."""

    @rpc
    async def get(self, ask: Ask) -> Answer:
        return Answer(ask.text)

    @rpc(timeout=10.0, idempotent=True, serialization=SerializationMode.NATIVE, requires=role("admin"))
    async def get_with_options(self, ask: Ask, *, deep: bool = False) -> Answer:
        return Answer(f"{ask.text} {deep}")

    @server_stream
    async def watch(self, ask: Ask) -> AsyncIterator[Answer]:
        yield Answer(ask.text)

    @server_stream(timeout=10, idempotent=True)
    async def watch_with_options(self, ask: Ask) -> AsyncGenerator[Answer, None]:
        yield Answer(ask.text)

    @server_stream
    async def watch_iterable(self, ask: Ask) -> AsyncIterable[Answer]:
        yield Answer(ask.text)

    @client_stream
    async def ingest(self, asks: AsyncIterator[Ask]) -> Answer:
        return Answer("".join([ask.text async for ask in asks]))

    @client_stream(timeout=None)
    async def ingest_with_options(self, asks: AsyncIterable[Ask]) -> Answer:
        return Answer("".join([ask.text async for ask in asks]))

    @client_stream
    async def ingest_generator(self, asks: AsyncGenerator[Ask, None]) -> Answer:
        return Answer("".join([ask.text async for ask in asks]))

    @bidi_stream
    async def execute(self, asks: AsyncIterator[Ask]) -> AsyncIterator[Answer]:
        async for ask in asks:
            yield Answer(ask.text)

    @bidi_stream(serialization=SerializationMode.ROW)
    async def execute_with_options(self, asks: AsyncIterable[Ask]) -> AsyncGenerator[Answer, None]:
        async for ask in asks:
            yield Answer(ask.text)


class DecoratedAgain(TaskService):
    """How an implementation apart from its interface is written, to please a type checker."""

    @rpc
    async def get(self, ask: Ask) -> Answer:
        first = await super().get(ask)
        return Answer(first.text.upper())

    @server_stream
    async def watch(self, ask: Ask) -> AsyncIterator[Answer]:
        async with super().watch(ask) as answers:
            async for answer in answers:
                yield answer

    @client_stream
    async def ingest(self, asks: AsyncIterator[Ask]) -> Answer:
        return await super().ingest(asks)

    @bidi_stream
    async def execute(self, asks: AsyncIterator[Ask]) -> AsyncIterator[Answer]:
        async for answer in super().execute(asks):
            yield answer


@service(scoped="stream")
class AbstractRoom(abc.ABC):
    """An interface without bodies."""

    @rpc
    @abc.abstractmethod
    async def say(self, ask: Ask) -> Answer: ...

    @server_stream
    @abc.abstractmethod
    def listen(self, ask: Ask) -> AsyncIterator[Answer]: ...


@service
class AbstractShop(abc.ABC):
    """An interface of a shared service."""

    @rpc
    @abc.abstractmethod
    async def find(self, ask: Ask) -> Answer: ...


@service
class ShopProtocol(Protocol):
    """An interface that implementations need not inherit from."""

    @rpc
    async def find(self, ask: Ask) -> Answer: ...


@service
class Room(AbstractRoom):
    def __init__(self, peer: str | None = None) -> None:
        self.peer = peer

    @rpc
    async def say(self, ask: Ask) -> Answer:
        return Answer(ask.text)

    @server_stream
    async def listen(self, ask: Ask) -> AsyncIterator[Answer]:
        yield Answer(ask.text)
