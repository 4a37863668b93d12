"""What both type checkers must refuse: each marked line, and no other. Read by them alone; nothing here runs.

The marks are the checkers' own, one for each of them. The project's ordinary runs complain of a mark that is not needed; the test beside this file takes the
marks away and looks for an error in each line that had one.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

import aster
from aster.decorators import bidi_stream, client_stream, rpc, server_stream, service
from tests.typing.services import AbstractRoom, Answer, Ask, TaskService


async def requests(tasks: TaskService, answers: AsyncIterable[Answer]) -> None:
    await tasks.get(Answer())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await tasks.get()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await tasks.get(Ask(), Ask())  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await tasks.get(request=Ask())  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await tasks.get([Ask()])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await tasks.get_with_options(Ask(), deep="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    tasks.watch(Answer())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    tasks.watch()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await tasks.ingest(Ask())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await tasks.ingest([Answer()])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    await tasks.ingest(answers)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await tasks.ingest(asks=[Ask()])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    tasks.execute(Ask())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    tasks.execute([Answer()])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    tasks.execute(answers)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await tasks.got(Ask())  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


async def responses(tasks: TaskService) -> None:
    wrong: Ask = await tasks.get(Ask())  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    tasks.get(Ask())  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    await tasks.watch(Ask())  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
    async for _ in tasks.get(Ask()):  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType]
        pass
    stream: aster.ResponseStream[Ask] = tasks.execute([Ask()])  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    (await tasks.ingest([])).count = 3  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    print(wrong, stream)


class Handlers:
    @rpc  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    def not_async(self, ask: Ask) -> Answer:
        return Answer(ask.text)

    @rpc  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    async def yields(self, ask: Ask) -> AsyncIterator[Answer]:
        yield Answer(ask.text)

    @server_stream  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    async def returns(self, ask: Ask) -> Answer:
        return Answer(ask.text)

    @client_stream  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    async def takes_one(self, ask: Ask) -> Answer:
        return Answer(ask.text)

    @bidi_stream  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    async def returns_one(self, asks: AsyncIterator[Ask]) -> Answer:
        return Answer("".join([ask.text async for ask in asks]))

    @rpc(timeout="3")  # type: ignore[call-overload, untyped-decorator]  # pyright: ignore[reportArgumentType]
    async def wrong_option(self, ask: Ask) -> Answer:
        return Answer(ask.text)


class Overrides(TaskService):
    @rpc
    async def get(self, ask: Answer) -> Answer:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        return ask

    @rpc
    async def watch(self, ask: Ask) -> Answer:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        return Answer(ask.text)

    @client_stream
    async def ingest(self, asks: AsyncIterator[Ask]) -> Ask:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        return await anext(asks)

    # Decorate an override again: an undecorated one is no handler to a type checker.
    async def ingest_with_options(self, asks: AsyncIterable[Ask]) -> Answer:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        return Answer("".join([ask.text async for ask in asks]))


def services(cls: type[TaskService], anything: Any) -> None:
    service(3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    service("Name", version="1")(cls)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    service(scoped="session")(cls)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    service(unknown=anything)(cls)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    service(errors=[Ask()])(cls)  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    service("Name", errors=Ask)(cls)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    service("Name", name="Name")(cls)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    AbstractRoom()  # type: ignore[abstract]  # pyright: ignore[reportAbstractUsage]


async def clients(client: aster.AsterClient, tasks: TaskService) -> None:
    wrong: AbstractRoom = await client.client(TaskService)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    other: AbstractRoom = aster.with_options(tasks, timeout=2.0)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    aster.with_options(tasks, timeout="2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await client.client(tasks)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await client.client("Tasks")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    async with aster.open_call(tasks.execute) as call:
        await call.send(Answer())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    print(wrong, other)


async def _says_nothing(peer: aster.Peer) -> None:
    """As an admission would that forgets to return."""


def policies(services: list[object]) -> None:
    aster.role(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    aster.any_of(["admin"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    aster.serve(services, admit=_says_nothing)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    aster.serve(services, admit=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    aster.serve(services, authorize=["admin"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    aster.serve(services, authorize={"id": 3})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    rpc(requires="admin")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


class Awaiting(aster.Interceptor):
    async def intercept(self, call: aster.InterceptedCall) -> None:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        """No generator."""


def interceptors(services: list[object], cls: type[TaskService], logged: aster.LoggingInterceptor) -> None:
    aster.serve(services, interceptors=aster.LoggingInterceptor)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    aster.serve(services, interceptors=logged)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    aster.connect(interceptors=[int])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    service(interceptors=[logged])(cls)  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
