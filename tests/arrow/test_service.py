"""Batches of what a service streams, over memory and over QUIC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import aster
from aster.arrow import record_batches
from aster.arrow.engine import pa
from tests.arrow.rows import gather
from tests.rpc.conftest import Running

pytestmark = pytest.mark.anyio


@aster.wire_type("tests.arrow/Color")
class Color(Enum):
    RED = "r"
    BLUE = "b"


@aster.wire_type("tests.arrow/Order")
@dataclass
class Order:
    count: int
    after: str = ""
    """What comes after the rows: nothing, a failure, or nothing ever."""


@aster.wire_type("tests.arrow/Reading")
@dataclass
class Reading:
    number: int
    at: datetime
    value: float | None
    color: Color
    tags: list[str]


@aster.service("Readings", serialization=[aster.SerializationMode.ROW, aster.SerializationMode.XLANG])
class Readings:
    def __init__(self) -> None:
        self.endings = 0
        self.ended = anyio.Event()

    @aster.server_stream
    async def read(self, order: Order) -> AsyncIterator[Reading]:
        try:
            for number in range(order.count):
                yield _reading(number)
            if order.after == "failure":
                raise aster.RpcError(aster.StatusCode.DATA_LOSS, "no more")
            if order.after == "nothing ever":
                await anyio.sleep_forever()
        finally:
            self.endings += 1
            self.ended.set()

    @aster.bidi_stream
    async def same(self, readings: AsyncIterator[Reading]) -> AsyncIterator[Reading]:
        async for reading in readings:
            yield reading


def _reading(number: int) -> Reading:
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)
    return Reading(number, at, None if number % 2 else number / 4, Color.RED if number % 3 else Color.BLUE, ["x"] * (number % 3))


def _shown(number: int) -> dict[str, Any]:
    row = _reading(number)
    return {"number": number, "at": row.at, "value": row.value, "color": row.color.name, "tags": row.tags}


@pytest.mark.parametrize("mode", [aster.SerializationMode.ROW, aster.SerializationMode.XLANG])
async def test_the_rows_of_a_service_become_a_table(running: Running, mode: aster.SerializationMode) -> None:
    hosted = Readings()
    async with running(hosted) as (_, client):
        readings = aster.with_options(await client.client(Readings), serialization=mode)
        async with record_batches(readings.read(Order(250)), Reading, size=100) as batches:
            gathered = [batch async for batch in batches]
        assert [batch.num_rows for batch in gathered] == [100, 100, 50]
        assert pa.Table.from_batches(gathered).to_pylist() == [_shown(number) for number in range(250)]
        assert hosted.endings == 1


async def test_a_block_that_is_left_early_cancels_the_handler(running: Running) -> None:
    hosted = Readings()
    async with running(hosted) as (_, client):
        readings = await client.client(Readings)
        async with record_batches(readings.read(Order(25, "nothing ever")), Reading, size=10) as batches:
            async for batch in batches:
                if batch.column("number")[0].as_py() == 10:
                    break
            assert not hosted.ended.is_set()
        await hosted.ended.wait()
    assert hosted.endings == 1


async def test_a_wait_that_is_cancelled_in_the_block_keeps_call_and_rows(running: Running) -> None:
    hosted, cancelled = Readings(), 0
    async with running(hosted) as (_, client):
        readings = await client.client(Readings)
        for steps in range(20):
            async with record_batches(readings.read(Order(25)), Reading, size=10) as batches:
                first: list[Any] = []
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as group:
                        group.start_soon(_cancel_after, scope, steps)
                        first = [await anext(batches)]
                        group.cancel_scope.cancel()
                cancelled += not first
                numbers = [number for batch in [*first, *[batch async for batch in batches]] for number in batch.column("number").to_pylist()]
                assert numbers == list(range(25))
    assert hosted.endings == 20
    assert cancelled > 0


async def _cancel_after(scope: anyio.CancelScope, steps: int) -> None:
    for _ in range(steps):
        await anyio.lowlevel.checkpoint()
    scope.cancel()


async def test_outside_a_block_cancellation_ends_the_call_and_reaches_the_handler(running: Running) -> None:
    hosted = Readings()
    async with running(hosted) as (_, client):
        readings = await client.client(Readings)
        batches = record_batches(readings.read(Order(15, "nothing ever")), Reading, size=10)
        assert (await anext(batches)).num_rows == 10
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(anext, batches)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        await hosted.ended.wait()


async def test_a_break_outside_a_block_cancels_the_call_with_the_last_reference(running: Running) -> None:
    hosted = Readings()
    async with running(hosted) as (_, client):
        readings = await client.client(Readings)
        async for batch in record_batches(readings.read(Order(15, "nothing ever")), Reading, size=10):
            assert batch.num_rows == 10
            break
        await hosted.ended.wait()


async def test_the_rows_before_a_failure_come_first(running: Running) -> None:
    async with running(Readings()) as (_, client):
        readings = await client.client(Readings)
        got: list[Any] = []
        with pytest.raises(aster.RpcError) as caught:
            await gather(record_batches(readings.read(Order(25, "failure")), Reading, size=10), got)
        sizes = [batch.num_rows for batch in got]
        assert (sizes, caught.value.code, caught.value.message) == ([10, 10, 5], aster.StatusCode.DATA_LOSS, "no more")


async def test_the_error_of_the_body_comes_out_and_not_that_of_a_request_iterable_which_it_closes(running: Running) -> None:
    class Body(Exception):
        pass

    async def requests() -> AsyncIterator[Reading]:
        try:
            for number in range(10):
                yield _reading(number)
            await anyio.sleep_forever()
        finally:
            raise ValueError("of the requests")

    async def body(readings: Readings) -> None:
        async with record_batches(readings.same(requests()), Reading, size=10) as batches:
            assert (await anext(batches)).num_rows == 10
            raise Body

    async with running(Readings()) as (_, client):
        with pytest.raises(Body):
            await body(await client.client(Readings))


async def test_a_refusal_of_arguments_makes_no_call(running: Running) -> None:
    hosted = Readings()
    async with running(hosted) as (_, client):
        readings = await client.client(Readings)
        with pytest.raises(ValueError, match="size"):
            record_batches(readings.read(Order(1)), Reading, size=0)
    assert hosted.endings == 0


async def test_a_handler_that_is_called_directly_streams_batches_too() -> None:
    hosted = Readings()
    async with record_batches(hosted.read(Order(25)), Reading, size=10) as batches:
        assert (await anext(batches)).to_pylist() == [_shown(number) for number in range(10)]
    assert hosted.endings == 1


async def test_interceptors_see_the_rows_of_batches(running: Running) -> None:
    class Counting(aster.Interceptor):
        seen = 0

        async def intercept(self, call: aster.InterceptedCall) -> AsyncIterator[None]:
            def response(reading: Any) -> Any:
                Counting.seen += 1
                return reading

            call.on_response(response)
            yield

    async with running(Readings(), client={"interceptors": [Counting]}) as (_, client):
        readings = await client.client(Readings)
        async with record_batches(readings.read(Order(25)), Reading, size=10) as batches:
            assert [batch.num_rows async for batch in batches] == [10, 10, 5]
    assert Counting.seen == 25
