"""Lists, tuples and dicts in received rows, as ``Sequence`` and ``Mapping`` whose elements are read from the bytes; and sets, which are read whole."""

from __future__ import annotations

import datetime
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from typing import Any, NoReturn, TypeVar, cast, overload

from aster.codec.hashes import FEW, SALTED, HashTally, check_dict, check_keys
from aster.codec.lazy import materialize
from aster.codec.making import Making
from aster.codec.row.arrays import ArrayCell, array_items, item_at
from aster.codec.row.refusals import absent, refusing, unchangeable
from aster.codec.row.views import UNREADABLE, Origin, copied
from aster.codec.walk import Mismatch
from aster.errors import DecodeError

__all__ = ["RowList", "RowMap", "RowSet", "hashable", "plain_map"]

T = TypeVar("T")

_FEW_ALIKE = SALTED | {bool, int, float, datetime.date}
"""Types of which no peer has many values with one hash: Python salts it, or it is a number's remainder, which some dozens of 64 bits share at the most."""

_LIST_METHODS = frozenset({"append", "clear", "copy", "extend", "insert", "pop", "remove", "reverse", "sort"})
_DICT_METHODS = frozenset({"clear", "copy", "pop", "popitem", "setdefault", "update"})
_SET_METHODS = ("add", "clear", "difference_update", "discard", "intersection_update", "pop", "remove", "symmetric_difference_update", "update")

# Lists and tuples


class _Located(ABC):
    """What lists and maps have alike."""

    __slots__ = ("origin",)

    origin: Origin

    @abstractmethod
    def _plain(self, making: Making) -> Any:
        """The list, tuple or dict."""

    @abstractmethod
    def _region(self) -> tuple[bytes, int]:
        """The message that it is in, and the bytes of its part of it."""

    def __aster_materialize__(self, making: Making | None = None) -> Any:
        making = making or Making()
        making.add(*self._region())
        try:
            return self._plain(making)
        except UNREADABLE as exc:
            raise self.origin.refused(exc) from None

    def __repr__(self) -> str:
        try:
            return repr(self.__aster_materialize__())
        except DecodeError as exc:
            return f"<unreadable {type(self).__name__}: {exc}>"

    def __reduce_ex__(self, _protocol: object) -> Any:
        return copied, (self.__aster_materialize__(),)


class RowList(_Located, Sequence[T]):
    """A list or tuple in a row. It equals what it was sent as, list or tuple, and other views of that; materialized it is that.

    A single element is read without looking at others than those beside it. Elements that overlap are refused.
    """

    __slots__ = ("_array", "_kind")

    def __init__(self, array: ArrayCell, kind: type, origin: Origin) -> None:
        self._array = array
        self._kind = kind
        self.origin = origin

    def __len__(self) -> int:
        return self._array.count

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self._slice(range(*index.indices(self._array.count)))
        try:
            return item_at(self._array, self._place_of(index))
        except UNREADABLE as exc:
            raise self.origin.refused(exc) from None

    def _place_of(self, index: int) -> int:
        try:
            place = operator.index(index)
        except TypeError:
            raise TypeError(f"{self._kind.__name__} indices must be integers, not {type(index).__name__}") from None
        if place < 0:
            place += self._array.count
        if not 0 <= place < self._array.count:
            raise IndexError(f"{self._kind.__name__} index out of range")
        return place

    def _slice(self, places: range) -> Any:
        try:
            return self._kind(item_at(self._array, place) for place in places)
        except UNREADABLE as exc:
            raise self.origin.refused(exc) from None

    def __iter__(self) -> Iterator[T]:
        try:
            yield from array_items(self._array)
        except UNREADABLE as exc:
            raise self.origin.refused(exc) from None

    def __reversed__(self) -> Iterator[T]:
        return reversed(list(self))

    def __contains__(self, value: object) -> bool:
        return super().__contains__(materialize(value))

    def count(self, value: Any) -> int:
        return super().count(materialize(value))

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        return list(self).index(materialize(value), start, len(self) if stop is None else stop)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RowList | self._kind):
            return NotImplemented
        others = cast("Sequence[Any]", other)
        if getattr(others, "_kind", self._kind) is not self._kind or len(self) != len(others):
            return False
        return all(mine == its for mine, its in zip(self, others, strict=True))

    def __hash__(self) -> int:
        return hash(self.__aster_materialize__() if self._kind is tuple else list[Any]())  # which says that lists have none

    def __getattr__(self, name: str) -> NoReturn:
        raise absent(name, self._kind.__name__, _LIST_METHODS if self._kind is list else ())

    __setitem__ = refusing("set item", "sequence")
    __delitem__ = refusing("delete item", "sequence")
    __add__ = __radd__ = __iadd__ = refusing("add", "sequence")
    __mul__ = __rmul__ = __imul__ = refusing("multiply", "sequence")

    def _plain(self, making: Making) -> Any:
        return self._kind(array_items(self._array, making))

    def _region(self) -> tuple[bytes, int]:
        return self._array.buffer, self._array.stop - self._array.start

    def slot(self, index: int) -> tuple[ArrayCell, int]:
        """The array that an element is in, and its place there."""
        return self._array, self._place_of(index)


# Dicts


class RowMap(_Located, Mapping[Any, T]):
    """A dict in a row. It equals the dict that it was sent as, and other views of that; materialized it is that.

    The first look at its keys reads all of them; values are read one by one.
    """

    __slots__ = ("_keys", "_places", "_values")
    __hash__ = None

    def __init__(self, keys: ArrayCell, values: ArrayCell, origin: Origin) -> None:
        self._keys = keys
        self._values = values
        self.origin = origin
        self._places: dict[Any, int] | None = None

    def _index(self) -> dict[Any, int]:
        if self._places is None:
            try:
                keys = list(hashable(self._keys, Making(self._region()[1]), check_dict))
                places = {key: place for place, key in enumerate(keys)}
                _refuse_duplicates(keys, places)
            except UNREADABLE as exc:
                raise self.origin.refused(exc) from None
            self._places = places
        return self._places

    def __len__(self) -> int:
        return self._keys.count

    def __iter__(self) -> Iterator[Any]:
        return iter(self._index())

    def __contains__(self, key: object) -> bool:
        return materialize(key) in self._index()

    def __getitem__(self, key: Any) -> T:
        place = self._index()[materialize(key)]
        try:
            return item_at(self._values, place)
        except UNREADABLE as exc:
            raise self.origin.refused(exc) from None

    def items(self) -> ItemsView[Any, T]:
        return _Items(self)

    def values(self) -> ValuesView[T]:
        return _Values(self)

    def in_turn(self) -> Iterator[tuple[Any, T]]:
        """Keys and values; what overlaps is refused."""
        index = self._index()
        try:
            yield from zip(index, array_items(self._values), strict=True)
        except UNREADABLE as exc:
            raise self.origin.refused(exc) from None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, dict | RowMap):
            return NotImplemented
        return dict(self.in_turn()) == dict(cast("Mapping[Any, Any]", other).items())

    def __getattr__(self, name: str) -> NoReturn:
        raise absent(name, "dict", _DICT_METHODS)

    __setitem__ = refusing("set item", "dict")
    __delitem__ = refusing("delete item", "dict")
    __or__ = __ror__ = __ior__ = refusing("merge", "dict")

    def _plain(self, making: Making) -> Any:
        return plain_map(self._keys, self._values, making)

    def _region(self) -> tuple[bytes, int]:
        return self._values.buffer, self._values.stop - self._keys.start

    def slot(self, key: Any) -> tuple[ArrayCell, int]:
        """The array that a value is in, and its place there."""
        return self._values, self._index()[materialize(key)]


class _Items(ItemsView[Any, Any]):
    _mapping: RowMap[Any]

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self._mapping.in_turn()


class _Values(ValuesView[Any]):
    _mapping: RowMap[Any]

    def __iter__(self) -> Iterator[Any]:
        for _, value in self._mapping.in_turn():
            yield value


# Sets


class RowSet(set[T]):
    """A set in a row: whole, since its elements are found by their hashes, but another one at each reading, so that to change it would change nothing."""

    __slots__ = ()

    def copy(self) -> set[T]:
        return set(self)

    def __aster_materialize__(self, _making: Making | None = None) -> set[T]:
        return set(self)

    def __repr__(self) -> str:
        return repr(set(self))

    def __reduce_ex__(self, _protocol: object) -> Any:
        return copied, (set(self),)

    __ior__ = __iand__ = __isub__ = __ixor__ = refusing("update", "set")


def _refuse_method(name: str) -> property:
    def refuse(_self: object) -> NoReturn:
        raise AttributeError(unchangeable(name, "set"))

    return property(refuse)


for _name in _SET_METHODS:
    setattr(RowSet, _name, _refuse_method(_name))


def plain_map(keys: ArrayCell, values: ArrayCell, making: Making) -> dict[Any, Any]:
    """The dict of a map that was found in a buffer."""
    read = list(hashable(keys, making, check_dict))
    plain = dict(zip(read, array_items(values, making), strict=True))
    _refuse_duplicates(read, plain)
    return plain


def hashable(array: ArrayCell, making: Making, check: Callable[[Sequence[int]], None]) -> Iterable[Any]:
    """The elements of an array that a set or dict is to be made of, unless their hashes make that slow. ``check``: of very many hashes."""
    if array.count <= FEW:
        return _tallied(array_items(array, making))
    items = list(array_items(array, making))
    try:
        check_keys(items, check)
    except ValueError as exc:
        raise Mismatch(ValueError, f"cannot be accepted: {exc}") from exc
    return _tallied(iter(items))


def _tallied(items: Iterator[T]) -> Iterator[T]:
    tally = HashTally()
    for place, item in enumerate(items):
        if type(item) not in _FEW_ALIKE:
            try:
                tally.add(item, hash(item))
            except ValueError as exc:
                raise Mismatch(ValueError, f"has at place {place} what cannot be accepted: {exc}") from exc
        yield item


def _refuse_duplicates(keys: Sequence[Any], made: Mapping[Any, Any]) -> None:
    if len(made) < len(keys):
        raise Mismatch(ValueError, "has two keys that are equal")
