"""The built-in interceptors that log: one line a call."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest

import aster
from aster import StatusCode
from aster.decorators import rpc, service
from tests.rpc.conftest import Running
from tests.rpc.echo import Echo, Item, Nothing, numbers_of
from tests.rpc.probes import error_of, kept_cancellation, until

pytestmark = pytest.mark.anyio


async def test_a_call_is_one_line_in_the_log_with_the_same_id_at_both_ends(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aster.calls")
    bound: list[str | None] = []

    class Looking(Echo):
        @rpc
        async def same(self, item: Item) -> Item:
            bound.append(aster.request_id())
            return item

        @rpc
        async def nothing(self, nothing: Nothing) -> Nothing:
            raise aster.RpcError(StatusCode.NOT_FOUND)

    async with running(Looking(), interceptors=[aster.LoggingInterceptor], client={"interceptors": [aster.LoggingInterceptor()]}) as (_, client):
        echo = await client.client(Echo)
        await echo.same(Item(1))
        await error_of(aster.with_options(echo, metadata={"x-request-id": "mine"}).nothing(Nothing()))
        await numbers_of(echo.count(Item(3)))
    records: list[Any] = [record for record in caplog.records if record.name == "aster.calls"]
    by_side = {side: [record for record in records if record.side == side] for side in ("client", "server")}
    assert [record.method for record in by_side["client"]] == ["same", "nothing", "count"]
    assert [record.request_id for record in by_side["client"]] == [record.request_id for record in by_side["server"]]
    assert bound == [by_side["server"][0].request_id]
    assert by_side["server"][1].request_id == "mine"
    assert [(record.code, record.requests, record.responses) for record in by_side["server"]] == [("OK", 1, 1), ("NOT_FOUND", 1, 0), ("OK", 1, 3)]
    assert by_side["server"][0].peer == client.endpoint_id
    assert by_side["client"][0].getMessage().startswith("client Echo.same OK in ")
    assert aster.request_id() is None


@pytest.mark.parametrize("sent", ["a b", "x" * 65, "line\nbreak", "", b"bytes"])
async def test_an_id_that_would_spoil_the_log_is_not_taken_over(running: Running, caplog: pytest.LogCaptureFixture, sent: Any) -> None:
    caplog.set_level(logging.INFO, "aster.calls")
    async with running(Echo(), interceptors=[aster.LoggingInterceptor]) as (_, client):
        await aster.with_options(await client.client(Echo), metadata={"x-request-id": sent}).same(Item(1))
    (record,) = [record for record in caplog.records if record.name == "aster.calls"]
    taken: Any = record
    assert taken.request_id != sent
    assert len(taken.request_id) == 16


@service("Ending")
class Ending:
    """Handlers that end in ways of their own."""

    def __init__(self) -> None:
        self.begun = anyio.Event()

    @rpc
    async def together(self, item: Item) -> Item:
        async with anyio.create_task_group() as group:
            group.start_soon(self._fail)
        return item

    async def _fail(self) -> None:
        raise aster.RpcError(StatusCode.NOT_FOUND, "in a group")

    @rpc
    async def by_hand(self, item: Item) -> Item:
        raise await kept_cancellation()

    @rpc
    async def forever(self, item: Item) -> Item:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            group.start_soon(anyio.sleep_forever)
            self.begun.set()
            await anyio.sleep_forever()
        return item


async def test_the_code_in_the_log_is_the_callers_unless_its_server_has_cancelled_the_call(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aster.calls")
    logs: dict[str, Any] = {"interceptors": [aster.LoggingInterceptor], "client": {"interceptors": [aster.LoggingInterceptor]}}
    hosted, codes = Ending(), list[StatusCode]()
    async with running(hosted, drain_grace=0, **logs) as (server, client):
        ending = await client.client(Ending)
        for call in (ending.together(Item()), ending.by_hand(Item()), aster.with_options(ending, timeout=0.3).forever(Item())):
            codes.append((await error_of(call)).code)
        await until(lambda: len([record for record in caplog.records if record.name == "aster.calls"]) == 6)
        hosted.begun = anyio.Event()
        async with anyio.create_task_group() as group:

            async def go() -> None:
                codes.append((await error_of(ending.forever(Item()))).code)

            group.start_soon(go)
            await hosted.begun.wait()
            await server.drain(0)
    logged = {side: [vars(record)["code"] for record in caplog.records if vars(record).get("side") == side] for side in ("client", "server")}
    assert [code.name for code in codes] == ["NOT_FOUND", "INTERNAL", "DEADLINE_EXCEEDED", "UNAVAILABLE"]
    assert logged["client"] == [code.name for code in codes]
    assert logged["server"] == ["NOT_FOUND", "INTERNAL", "DEADLINE_EXCEEDED", "CANCELLED"]


async def test_two_logs_around_one_call_have_one_id(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aster.calls")
    async with running(Echo(), interceptors=[aster.LoggingInterceptor(), aster.LoggingInterceptor()]) as (_, client):
        await (await client.client(Echo)).same(Item(1))
    ids = [vars(record)["request_id"] for record in caplog.records if record.name == "aster.calls"]
    assert (len(ids), len(set(ids))) == (2, 1)
