"""How a stream of batches is read, paused, cancelled and closed."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest

import aster
from aster.arrow import RecordBatches, record_batches
from aster.arrow.engine import pa
from aster.codec import auto_tag, make_codec
from tests.arrow.rows import Given, all_batches, gather

pytestmark = pytest.mark.anyio


@dataclass
class Row:
    number: int


def _rows(count: int) -> list[Row]:
    return [Row(number) for number in range(count)]


def _numbers(batch: Any) -> list[int]:
    return batch.column("number").to_pylist()


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (3, [3]), (4, [3, 1]), (6, [3, 3]), (7, [3, 3, 1])])
async def test_batches_have_exactly_the_size_but_for_the_last(count: int, sizes: list[int]) -> None:
    batches = await all_batches(_rows(count), Row, size=3)
    assert [batch.num_rows for batch in batches] == sizes
    assert [number for batch in batches for number in _numbers(batch)] == list(range(count))


async def test_the_iterator_is_its_own_and_stays_at_its_end() -> None:
    batches = record_batches(Given([Row(0), StopAsyncIteration(), Row(1)]), Row)
    assert isinstance(batches, RecordBatches)
    assert aiter(batches) is batches
    assert [_numbers(batch) async for batch in batches] == [[0]]
    for _ in range(2):
        with pytest.raises(StopAsyncIteration):
            await anext(batches)


async def test_a_break_inside_the_block_pauses_and_its_end_closes_the_stream() -> None:
    given = Given(_rows(6))
    async with record_batches(given, Row, size=2) as batches:
        async for batch in batches:
            assert _numbers(batch) == [0, 1]
            break
        assert given.closings == 0
        assert _numbers(await anext(batches)) == [2, 3]
    assert given.closings == 1
    with pytest.raises(anyio.ClosedResourceError):
        await anext(batches)


async def test_an_async_generator_is_closed_in_the_block_that_reads_it() -> None:
    ended: list[str] = []

    async def rows() -> AsyncIterator[Row]:
        try:
            for row in _rows(5):
                yield row
        finally:
            await anyio.lowlevel.checkpoint()
            ended.append("closed")

    class Body(Exception):
        pass

    async def left_by_an_error() -> None:
        async with record_batches(rows(), Row, size=2) as batches:
            await anext(batches)
            raise Body

    with pytest.raises(Body):
        await left_by_an_error()
    assert ended == ["closed"]


async def test_what_has_no_way_to_be_closed_is_read_no_more() -> None:
    class Endless:
        reads = 0

        def __aiter__(self) -> Endless:
            return self

        async def __anext__(self) -> Row:
            self.reads += 1
            return Row(self.reads)

    endless = Endless()
    async with record_batches(endless, Row, size=2) as batches:
        assert _numbers(await anext(batches)) == [1, 2]
    with pytest.raises(anyio.ClosedResourceError):
        await anext(batches)
    assert endless.reads == 2


@pytest.mark.parametrize("rows", [_rows(3), [], [ValueError("gone")], [Row(0), ValueError("gone")]], ids=["rows", "none", "failure", "row and failure"])
async def test_closing_is_idempotent_and_ends_the_iteration_wherever_it_is(rows: list[Any]) -> None:
    for steps in range(3):
        given = Given(rows)
        batches = record_batches(given, Row, size=1)
        for _ in range(steps):
            with suppress(StopAsyncIteration, ValueError):
                await anext(batches)
        await batches.aclose()
        await batches.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await anext(batches)
        assert given.closings == 2


# Failures


async def test_the_rows_before_a_failure_are_given_first() -> None:
    failure = aster.RpcError(aster.StatusCode.UNAVAILABLE, "gone")
    batches = record_batches(Given([*_rows(5), failure]), Row, size=3)
    assert [_numbers(await anext(batches)) for _ in range(2)] == [[0, 1, 2], [3, 4]]
    with pytest.raises(aster.RpcError) as caught:
        await anext(batches)
    assert caught.value is failure


@pytest.mark.parametrize("count", [0, 3])
async def test_a_failure_after_whole_batches_comes_at_once(count: int) -> None:
    batches = record_batches(Given([*_rows(count), ValueError("gone")]), Row, size=3)
    got: list[Any] = []
    with pytest.raises(ValueError, match="gone"):
        await gather(batches, got)
    assert list(map(_numbers, got)) == [[0, 1, 2]] * (count // 3)


async def test_after_a_bad_row_the_batches_go_on() -> None:
    wrong: Any = Row("x")  # pyright: ignore[reportArgumentType]
    batches = record_batches(Given([Row(0), wrong, *_rows(3)]), Row, size=2)
    with pytest.raises(TypeError, match=r"row 1 of the stream: Row\.number must be int, not str"):
        await anext(batches)
    assert [_numbers(batch) async for batch in batches] == [[0, 1], [2]]


async def test_a_stream_that_goes_on_after_a_failure_does_so_in_batches_too() -> None:
    batches = record_batches(Given([*_rows(4), ValueError("once"), *_rows(4)]), Row, size=3)
    assert [_numbers(await anext(batches)) for _ in range(2)] == [[0, 1, 2], [3]]
    with pytest.raises(ValueError, match="once"):
        await anext(batches)
    assert [_numbers(batch) async for batch in batches] == [[0, 1, 2], [3]]


async def test_that_somebody_else_reads_the_stream_or_has_closed_it_is_no_end_of_its_rows() -> None:
    batches = record_batches(Given([Row(0), anyio.BusyResourceError("reading"), Row(1), Row(2), anyio.ClosedResourceError()]), Row, size=2)
    with pytest.raises(anyio.BusyResourceError):
        await anext(batches)
    assert _numbers(await anext(batches)) == [0, 1]
    with pytest.raises(anyio.ClosedResourceError):
        await anext(batches)


# Cancellation


class Waiting:
    """A stream whose rows come when they are let through, and that keeps those whose reader was cancelled."""

    def __init__(self) -> None:
        self.send, self.receive = anyio.create_memory_object_stream[Row](100)

    def __aiter__(self) -> Waiting:
        return self

    async def __anext__(self) -> Row:
        try:
            return await self.receive.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        self.receive.close()
        self.send.close()


async def test_a_wait_that_is_cancelled_keeps_the_rows_that_had_come() -> None:
    waiting = Waiting()
    async with record_batches(waiting, Row, size=4) as batches:
        for number in range(10):
            with anyio.move_on_after(0):  # cancelled at each checkpoint
                await anext(batches)
                pytest.fail("there are too few rows for a batch")
            if number == 3:
                break
            await waiting.send.send(Row(number))
        await waiting.send.send(Row(3))
        assert _numbers(await anext(batches)) == [0, 1, 2, 3]


async def test_no_row_is_lost_or_doubled_at_whatever_step_readers_are_cancelled() -> None:
    cancelled = 0
    for first in range(12):
        waiting = Waiting()
        got: list[int] = []

        async def read(batches: RecordBatches, got: list[int] = got) -> None:
            async for batch in batches:
                got += _numbers(batch)

        async with record_batches(waiting, Row, size=3) as batches, anyio.create_task_group() as group:
            group.start_soon(_feed, waiting)
            for steps in itertools.islice(itertools.cycle(range(12)), first, None):
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as readers:
                        readers.start_soon(read, batches)
                        for _ in range(steps):
                            await anyio.lowlevel.checkpoint()
                        scope.cancel()
                cancelled += scope.cancelled_caught
                if len(got) == 18:
                    break
        assert got == list(range(18))
    assert cancelled > 12


async def _feed(waiting: Waiting) -> None:
    for row in _rows(18):
        await anyio.lowlevel.checkpoint()
        await waiting.send.send(row)


async def test_the_block_closes_its_stream_also_when_it_is_cancelled() -> None:
    waiting = Waiting()
    with anyio.CancelScope() as scope:
        async with record_batches(waiting, Row) as batches:
            scope.cancel()
            await anext(batches)
    assert scope.cancelled_caught
    assert waiting.receive.statistics().open_receive_streams == 0


async def test_a_second_reader_is_refused_and_the_first_goes_on() -> None:
    waiting = Waiting()
    got: list[list[int]] = []

    async with record_batches(waiting, Row, size=2) as batches, anyio.create_task_group() as group:

        async def read() -> None:
            got.extend([_numbers(batch) async for batch in batches])

        await waiting.send.send(Row(0))
        group.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.BusyResourceError):
            await anext(batches)
        await waiting.send.send(Row(1))
        waiting.send.close()
    assert got == [[0, 1]]


async def test_a_stream_that_another_task_closes_ends_there_with_whatever_rows_it_had() -> None:
    waiting = Waiting()
    async with record_batches(waiting, Row, size=2) as batches, anyio.create_task_group() as group:

        async def read() -> None:
            with pytest.raises(anyio.ClosedResourceError):
                await anext(batches)
            group.cancel_scope.cancel()

        await waiting.send.send(Row(0))
        group.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        await batches.aclose()
        await waiting.send.aclose()
        await anyio.sleep_forever()


async def test_a_plain_for_or_with_says_what_to_write() -> None:
    batches: Any = record_batches(Given([]), Row)
    with pytest.raises(TypeError, match="write 'async for batch in"):
        list(batches)
    with pytest.raises(TypeError, match="write 'async with record_batches"), batches:
        pass


async def _lost() -> AsyncIterator[Row]:
    yield Row(0)
    raise ValueError("gone")


async def _spoilt() -> AsyncIterator[Row]:
    yield Row(0)
    yield Row(cast("Any", "no number"))


@pytest.mark.parametrize("rows", [_lost, _spoilt])
async def test_nothing_is_kept_of_a_stream_that_failed(rows: Any) -> None:
    """Not by a cycle either: outside of a block, to drop the last reference ends the call at once."""
    gc.collect()
    gc.disable()
    try:
        batches = record_batches(rows(), Row)
        known = weakref.ref(batches)
        refused = 0
        for _ in range(3):
            try:
                await anext(batches)
            except (ValueError, TypeError):
                refused += 1
            except StopAsyncIteration:
                pass
        assert refused == 1
        del batches
        assert known() is None
    finally:
        gc.enable()


async def test_a_batch_ends_early_when_its_rows_keep_much(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Blob:
        number: int
        blob: bytes

    codec = make_codec(aster.SerializationMode.ROW, {Blob: auto_tag(Blob)})
    views = [codec.decoder(Blob)(codec.encoder(Blob)(Blob(number, bytes(1_000)))) for number in range(10)]
    monkeypatch.setattr("aster.arrow.batches.MAX_HELD", 3_000)
    schema = pa.schema([("number", pa.int64())])
    sizes = [batch.num_rows async for batch in record_batches(Given(views), Blob, schema=schema)]
    assert sizes == [3, 3, 3, 1]
    assert [batch.num_rows async for batch in record_batches(Given([views[0]] * 10), Blob, schema=schema)] == [10]
