"""Fory's maps and sets, with an eye on keys that a peer has chosen to make them slow.

Small ones are read by Fory itself. Of a large one the keys are gathered first, in parts that are small enough, and put together once their hashes were looked
at; whatever types the peer says that they have.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

import pyfory  # pyright: ignore[reportMissingTypeStubs]  # it has none
from pyfory import serializer as fory_serializer  # pyright: ignore[reportMissingTypeStubs]  # it has none

from aster.codec.hashes import FEW, check_dict, check_keys, check_set
from aster.codec.serializers import WrappingSerializer, is_ours

__all__ = ["MapSerializer", "SetSerializer"]

_fory: Any = pyfory
_fory_serializers: Any = fory_serializer
_make_map_serializer: Any = _fory.MapSerializer
_make_set_serializer: Any = _fory.SetSerializer

_OWNER_BYTES, _ENTRY_BYTES = 64, 16
"""What a map counts as in the memory of a message: about what it is to Fory."""

# The bits of a chunk's header, which says of what types its keys are; those of its values are the next three.
_IS_TRACKED, _IS_NULL, _IS_DECLARED = 0b1, 0b10, 0b100
_BITS = 3
_IS_VALUE = -1
"""The flag ahead of a value whose references are tracked: no reference comes, but the value."""


def _is_small(context: Any) -> bool:
    """Whether the map or set that comes next has few entries; it stays where it is, to be read."""
    buffer = context.buffer
    if buffer.size() <= FEW:  # of which entries that differ take a byte each
        return True
    start = buffer.get_reader_index()
    count = buffer.read_var_uint32()
    buffer.set_reader_index(start)
    return count <= FEW


class SetSerializer(WrappingSerializer):
    def __init__(self, resolver: Any, *args: Any) -> None:
        super().__init__(_make_set_serializer(resolver, set, *args), set)
        self._list = _fory.ListSerializer(resolver, list, *args)  # whose payload looks the same

    def read(self, context: Any) -> set[Any]:
        if _is_small(context):
            return self._inner.read(context)
        items = self._list.read(context)
        check_keys(items, check_set)
        return set(items)


class MapSerializer(WrappingSerializer):
    def __init__(self, resolver: Any, key: Any = None, value: Any = None, *tracked: Any) -> None:
        super().__init__(_make_map_serializer(resolver, dict, key, value, *tracked), dict)
        self._resolver = resolver
        self._key = key
        self._value = value

    def read(self, context: Any) -> dict[Any, Any]:
        if _is_small(context):
            return self._inner.read(context)
        count = context.read_var_uint32()
        context.reserve_graph_memory(_OWNER_BYTES + count * _ENTRY_BYTES)
        context.increase_depth()
        # As Fory does: entries that take no bytes are counted, and whoever claims more than the others is refused at once.
        context.check_readable_bytes(max(0, count - context.remaining_unbacked_container_items))
        chunks: list[dict[Any, Any]] = []
        while count > 0:
            start = context.get_reader_index()
            read, chunk = self._chunk(context, count)
            context.reserve_unbacked_container_items(max(0, read - (context.get_reader_index() - start)))
            chunks.append(chunk)
            count -= read
        context.decrease_depth()
        check_keys(chain.from_iterable(chunks), check_dict)
        return dict(chain.from_iterable(chunk.items() for chunk in chunks))  # which grows as the check supposes

    def _chunk(self, context: Any, left: int) -> tuple[int, dict[Any, Any]]:
        """How many entries came, and these: 255 at the most."""
        of_keys = context.read_uint8()
        of_values = of_keys >> _BITS
        if (of_keys | of_values) & _IS_NULL:
            return 1, {_single(context, self._key, of_keys): _single(context, self._value, of_values)}
        count = context.read_uint8()
        if not 0 < count <= left:
            raise ValueError(f"a chunk of a map has {count} entries, and {left} are left")
        key, value = self._serializer(context, self._key, of_keys), self._serializer(context, self._value, of_values)
        read_key, read_value = _reader(context, key, of_keys), _reader(context, value, of_values)
        return count, {read_key(): read_value() for _ in range(count)}

    def _serializer(self, context: Any, declared: Any, header: int) -> Any:
        """What reads the keys or the values of a chunk."""
        return _present(declared) if header & _IS_DECLARED else self._resolver.read_type_info(context).serializer


def _present(declared: Any) -> Any:
    if declared is None:
        raise ValueError("a map has a declared type that nobody declared")
    return declared


def _single(context: Any, declared: Any, header: int) -> Any:
    """The key or value of an entry one of whose parts is null."""
    if header & _IS_NULL:
        return None
    return _reader(context, _present(declared), header)() if header & _IS_DECLARED else context.read_ref()


def _reader(context: Any, serializer: Any, header: int) -> Callable[[], Any]:
    """What reads one key or value after the other."""
    if header & _IS_TRACKED:
        return lambda: _behind_flag(context, serializer)
    if type(serializer) is _fory_serializers.StringSerializer:
        return context.read_string
    return partial(context.read_non_ref, serializer)


def _behind_flag(context: Any, serializer: Any) -> Any:
    if context.read_int8() < _IS_VALUE:
        raise ValueError("a reference to a key or value, and none is tracked here")
    return serializer.read(context)


def _set_serializer(resolver: Any, type_: type, *args: Any) -> Any:
    return SetSerializer(resolver, *args) if is_ours(resolver) else _make_set_serializer(resolver, type_, *args)


def _map_serializer(resolver: Any, type_: type, *args: Any) -> Any:
    return MapSerializer(resolver, *args) if is_ours(resolver) else _make_map_serializer(resolver, type_, *args)


# Fory looks these names up as it does that of tuples' serializer; see there.
_fory_serializers.SetSerializer = _set_serializer
_fory_serializers.MapSerializer = _map_serializer
