"""Rows of a stream, gathered and given as record batches."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import anyio

from aster._streams import ResponseStream
from aster.arrow.columns import arrays_of, columns_of, type_check
from aster.arrow.engine import pa
from aster.codec import wire_types
from aster.codec.fields import field_shapes
from aster.codec.hints import is_class
from aster.codec.row import kept_by
from aster.codec.shapes import Message
from aster.codec.tags import short_name
from aster.codec.walk import Mismatch
from aster.errors import DecodeError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["MAX_HELD", "RecordBatches", "arrow_schema", "record_batches"]

T = TypeVar("T")

MAX_HELD = 8 * 1024 * 1024
"""Bytes of received messages that wait for their batch. Views keep theirs whole, whatever few of their fields become columns. And of nothing but empty lists,
the smallest values that there are, the batch of so many takes three seconds (measured)."""


def arrow_schema(cls: type[Any]) -> Any:
    """The ``pyarrow.Schema`` of a dataclass: a column for each field, in the order of definition. Fields are nullable if they are Optional.

    Datetimes become ``timestamp[us, UTC]``, so they must be aware; times and timedeltas count microseconds. Decimals and UUIDs become strings, which hold
    them exactly; Enums dictionaries of the names of all members. Lists, tuples and sets become lists, dicts maps, dataclasses structs; a tuple of fixed
    length is a struct whose fields are called ``"0"``, ``"1"`` and so on, and a Literal is what its values are.

    Raises:
        TypeError: it is no dataclass, or has a field for which there is no column: a Union, a class that contains itself, a dict with None for a key.
    """
    return _BatchMaker(cls, None).schema


def record_batches(rows: AsyncIterable[T], cls: type[T], *, size: int = 10_000, schema: Any = None) -> RecordBatches:
    """The rows of a stream in batches, each a ``pyarrow.RecordBatch``. An empty stream gives none.

    Inside the iterator's ``async with`` block, which is the stream's as well, a ``break`` only pauses, and the end of the block closes the stream. Without
    the block, read it to its end.

    Args:
        rows: instances of the class or views of them, from any async iterable: mostly what a streaming method of a stub returns.
        cls: their dataclass.
        size: rows in a batch. The last one may have fewer, and so may each whose rows keep received messages of 8 MiB; rows that are
            no views are only counted. To make one holds the loop: some
            35 ms for 10,000 views of five fields.
        schema: a ``pyarrow.Schema`` for other types than those of ``arrow_schema(cls)``: a ``timestamp("us")`` for naive datetimes, say, or a
            ``decimal128(12, 2)``. Values that would lose something are refused. The fields that it has not are not read.

    Raises:
        TypeError, ValueError: an argument is none of these, or has a field for which there is no column; nothing of the stream was read.
    """
    if not isinstance(rows, AsyncIterable):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
        raise TypeError(
            f"record_batches takes an async iterable of rows, such as the stream that a call returns, not {type(rows).__name__}; "
            "give it the items of a list by an async generator"
        )
    if type(size) is not int:
        raise TypeError(f"size must be an int, a number of rows, not {size!r}")
    if size < 1:
        raise ValueError(f"size must be at least 1 row, not {size}")
    if schema is not None and not isinstance(schema, pa.Schema):
        raise TypeError(f"schema must be a pyarrow.Schema, not {type(schema).__name__}")
    return RecordBatches(rows, _BatchMaker(cls, schema), size)


class RecordBatches(AsyncIterator[Any]):
    """The rows of a stream in batches: an async iterator, and an async context manager that closes the stream. ``record_batches`` makes it."""

    def __init__(self, rows: AsyncIterable[Any], make: Callable[[list[Any], int], Any], size: int) -> None:
        self._rows = aiter(rows)
        self._make = make
        self._size = size
        self._waiting: list[Any] = []
        self._held = 0
        self._message = b""
        self._given = 0
        self._ended = False
        self._closed = False
        self._failure: Exception | None = None
        self._guard = anyio.ResourceGuard("reading from")

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        """The next batch.

        Raises:
            StopAsyncIteration: the stream ended well.
            TypeError, ValueError: a field of a row holds what its column cannot; tells which. The rows of that batch are gone, and the next step goes on.
            DecodeError: a row that the peer sent cannot be read; likewise.
            Exception: what the stream raised; the rows that came before have all been given, the last of them in a batch of fewer.
            BusyResourceError: another task is waiting for the next batch.
            ClosedResourceError: this, or the stream, was closed.

        Cancellation does what it does to the stream. The rows that had come are kept: where the stream goes on, so does the batch.
        """
        with self._guard:
            if not self._ended and self._failure is None:
                await self._fill()
            if self._closed:
                raise anyio.ClosedResourceError("this stream of record batches was closed")
            rows, self._waiting = self._waiting, []
            self._held, self._message = 0, b""
            if rows:
                self._given += len(rows)
                return self._make(rows, self._given - len(rows))
            failure, self._failure = self._failure, None
            if failure is None:
                raise StopAsyncIteration
            try:
                raise failure
            finally:
                del failure  # whose traceback knows this frame, and through it the stream

    async def _fill(self) -> None:
        """Read until there are rows for a batch, or nothing follows."""
        rows, step = self._waiting, self._rows.__anext__
        try:
            while len(rows) < self._size and self._held < MAX_HELD and not self._closed:
                row = await step()
                rows.append(row)
                if (message := kept_by(row)) is not self._message:  # rows of one message keep it once
                    self._message = message
                    self._held += len(message)
        except StopAsyncIteration:
            self._ended = True
        except (anyio.BusyResourceError, anyio.ClosedResourceError):
            raise
        except Exception as exc:
            self._failure = exc  # to be raised once the rows before it are given

    async def aclose(self) -> None:
        """Close the stream, as its own ``aclose`` does, if it has one. Closing again does nothing.

        Raises:
            Exception: what closing the stream raises.
        """
        self._close()
        close: Any = getattr(self._rows, "aclose", None)
        if close is not None:
            await close()

    def _close(self) -> None:
        self._closed = True
        self._failure = None  # whose traceback knows this object
        self._waiting.clear()
        self._message = b""

    if not TYPE_CHECKING:
        # Type checkers refuse these for want of the methods; whoever uses none hears what to write.
        def __iter__(self) -> NoReturn:
            raise TypeError("record batches arrive one after the other: write 'async for batch in ...'")

        def __enter__(self) -> NoReturn:
            raise TypeError("record batches are closed asynchronously: write 'async with record_batches(...) as batches'")

        def __exit__(self, *_: object) -> None: ...

    async def __aenter__(self) -> Self:
        if isinstance(self._rows, ResponseStream):
            await self._rows.__aenter__()
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        self._close()
        if isinstance(self._rows, ResponseStream):
            await self._rows.__aexit__(exc_type, exc, traceback)
        else:
            await self.aclose()


class _BatchMaker:
    """Makes the batches of one schema, or of that of a class, from rows of that class."""

    def __init__(self, cls: type[Any], schema: Any) -> None:
        if not is_class(cls):
            raise TypeError(f"{cls!r} is not a class: give the dataclass that the rows are of")
        wire_types([cls])
        if issubclass(cls, Enum) or not field_shapes(cls):
            raise TypeError(f"{short_name(cls)} has no fields to make columns of: a row is a dataclass that has some")
        self._cls = cls
        self._columns = columns_of(cls, schema)
        self._check = type_check(Message(cls), nullable=False)
        self.schema = pa.schema([column.field for column in self._columns]) if schema is None else schema

    def __call__(self, rows: Sequence[Any], first: int) -> Any:
        """The batch of some rows, of which the first has this number."""
        try:
            return self._batch(rows)
        except (Mismatch, DecodeError) as exc:
            place, fault = self._first_refused(rows) or (None, exc.with_traceback(None))
        where = f"rows {first} to {first + len(rows) - 1}" if place is None else f"row {first + place}"
        try:
            if isinstance(fault, Mismatch):
                what = f": {fault.describe(short_name(self._cls))}" if fault.path else f" {fault.text}"
                raise fault.kind(f"{where} of the stream{what}") from fault.__cause__
            fault.add_note(f"in {where} of the stream")
            raise fault
        finally:
            del fault, rows  # else the traceback keeps the rows for as long as it is kept

    def _batch(self, rows: Sequence[Any]) -> Any:
        self._check(rows)
        return pa.RecordBatch.from_arrays(arrays_of(self._columns, rows), schema=self.schema)

    def _first_refused(self, rows: Sequence[Any]) -> tuple[int, Mismatch | DecodeError] | None:
        """The first row that is refused alone too, and why: a whole column does not tell which value it was.

        By halves, so that all of it makes no more rows than the batch has: a peer may send a bad row in each.
        """
        first, end = 0, len(rows)
        while end - first > 1:
            middle = (first + end) // 2
            if self._refusal(rows[first:middle]) is None:
                first = middle
            else:
                end = middle
        fault = self._refusal(rows[first:end])
        return None if fault is None else (first, fault)

    def _refusal(self, rows: Sequence[Any]) -> Mismatch | DecodeError | None:
        try:
            self._batch(rows)
        except (Mismatch, DecodeError) as exc:
            exc.__context__ = None  # what a whole batch was refused for
            return exc.with_traceback(None)  # whose frames would lead back to it, and to the rows
        return None
