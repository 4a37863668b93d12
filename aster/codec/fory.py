"""The codec of XLANG and NATIVE: generated checks around pooled Fory instances."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from typing import TypeVar

from aster.codec.checks import Check, generate_checks
from aster.codec.contract import Codec
from aster.codec.engine import MAX_GRAPH_BYTES, Engine, build_engine, plan_engine, reader_classes, wrap
from aster.codec.fields import field_shapes, wire_types
from aster.codec.filling import PER_BYTE, TooMuchFilled, allowance, filling
from aster.codec.lazy import plain
from aster.codec.post_init import PostInit, post_inits, run_post_init
from aster.codec.row import RowCodec
from aster.codec.tags import auto_tag, check_known, registered_names, short_name, wire_tag
from aster.codec.walk import Direction, Mismatch, Walk
from aster.errors import DecodeError
from aster.types import SerializationMode

__all__ = ["LARGE_MESSAGE", "MAX_FAILURES", "MAX_FOREIGN_DEFINITIONS", "make_codec"]

T = TypeVar("T")

LARGE_MESSAGE = 64 * 1024
"""Encoding a message above this many bytes frees the instance's buffer afterwards: Fory keeps twice the largest message for ever."""

MAX_FOREIGN_DEFINITIONS = 64
"""Type definitions learnt from peers before an instance is replaced: each can hold 330 KB, and peers can make up any number."""


def make_codec(mode: SerializationMode, tags: Mapping[type, str]) -> Codec:
    """The codec of one service in one mode. Takes milliseconds; make it once.

    Args:
        mode: the serialization mode.
        tags: the types of the service, each with its wire tag. Types that they reach and that are not named
            have the tag of their own, or the automatic one.

    Raises:
        TypeError: a field's type cannot be sent; names class and field. Or the mode is no SerializationMode, such as its number.
        ValueError: two types share a tag, or a tag is too long or not ASCII.
    """
    if not isinstance(mode, SerializationMode):  # pyright: ignore[reportUnnecessaryIsInstance] (callers without a type checker)
        raise TypeError(f"mode must be a SerializationMode such as SerializationMode.XLANG, not {mode!r}")
    types = wire_types(tags)
    names = registered_names({cls: tags.get(cls) or wire_tag(cls) or auto_tag(cls) for cls in types})
    return RowCodec(types, names) if mode is SerializationMode.ROW else _ForyCodec(mode, types, names)


MAX_FAILURES = 1000
"""Failed decodes before an instance is replaced, in case an error leaves something behind in it. Not after each one: an instance takes milliseconds to
make, which a peer could have us spend for a few bytes of rubbish; spread over so many it is ten microseconds for each."""


class _Pool:
    """Engines at rest.

    ``idle.pop`` and ``idle.append`` are atomic, so that two threads never hold the same engine, and neither does a call made inside a call (by a value's
    ``__hash__``, say).
    """

    def __init__(self, build: Callable[[], Engine]) -> None:
        first = build()
        self.build = build
        self.idle = [first]
        self.most_definitions = len(first.definitions) + MAX_FOREIGN_DEFINITIONS

    def give_back_failed(self, engine: Engine) -> None:
        """Take an engine back after a decode that failed, unless it is worn out."""
        engine.failures += 1
        if engine.failures < MAX_FAILURES and len(engine.definitions) <= self.most_definitions:
            self.idle.append(engine)


class _ForyCodec:
    def __init__(self, mode: SerializationMode, types: tuple[type, ...], names: Mapping[type, str]) -> None:
        self.mode = mode
        fields = {cls: field_shapes(cls) for cls in types if is_dataclass(cls)}
        readers = reader_classes(fields)
        plan = plan_engine(mode is SerializationMode.XLANG, names, fields, readers)
        self._pool = _Pool(lambda: build_engine(plan))
        self._encode_checks = generate_checks(Direction.ENCODE, fields, readers)
        self._decode_checks = generate_checks(Direction.DECODE, fields, readers)
        self._encode_walk = Walk(Direction.ENCODE, fields, {})
        self._decode_walk = Walk(Direction.DECODE, fields, readers)
        self._post_inits = post_inits(fields)

    def encoder(self, cls: type[T]) -> Callable[[T], bytes]:
        check_known(cls, self._encode_checks)
        return _encoder(cls, self._pool, self._encode_checks[cls], self._encode_walk)

    def decoder(self, cls: type[T], *, is_request: bool = False) -> Callable[[bytes], T]:
        del is_request  # nothing here is read later
        check_known(cls, self._encode_checks)
        return _decoder(cls, self._pool, self._decode_checks[cls], self._decode_walk, self._post_inits.get(cls))


# The two functions below run for every message. They are closures, and spell out the pool's pop and append, because attribute look-ups and calls cost
# as much here as Fory itself.


def _encoder(cls: type[T], pool: _Pool, check: Check, walk: Walk) -> Callable[[T], bytes]:
    idle, build = pool.idle, pool.build

    def encode(value: T) -> bytes:
        if type(value) is not cls:
            value = plain(value)
        try:
            exact = check(value, 0)
        except Exception:  # an attribute that is missing or misbehaves, which the walk then reports
            exact = False
        sent = value if exact else walk.to_send(cls, value)
        try:
            engine = idle.pop()
        except IndexError:
            engine = build()
        try:
            data = engine.serialize(sent)
        except Exception as exc:
            idle.append(engine)
            whole = walk.to_send(cls, value)  # finds what the check leaves to Fory, such as the range of an int, and names the field
            if exact and whole is not value:  # it had attributes that are its class's, which Fory does not look for
                return _encoder(cls, pool, check, walk)(whole)  # not itself: a closure that knows itself waits for the garbage collector
            raise ValueError(f"Fory cannot encode this {short_name(cls)}: {exc}") from exc
        if len(data) > LARGE_MESSAGE:
            engine.release_buffer()
        idle.append(engine)
        return data

    return encode


def _decoder(cls: type[T], pool: _Pool, check: Check, walk: Walk, post_init: PostInit | None) -> Callable[[bytes], T]:
    idle, build, most_definitions = pool.idle, pool.build, pool.most_definitions

    def decode(data: bytes) -> T:
        buffer = wrap(data)
        try:
            engine = idle.pop()
        except IndexError:
            engine = build()
        outer, filling.left = filling.left, allowance(len(data), MAX_GRAPH_BYTES)
        try:
            value = engine.deserialize(buffer)
        except Exception as exc:  # Fory raises whatever it likes, Exception itself included
            engine.tally.clear()
            pool.give_back_failed(engine)
            raise DecodeError(_undecodable(cls, data, exc)) from exc
        finally:
            filling.left = outer
        if engine.tally.first:
            engine.tally.clear()
        if len(engine.definitions) <= most_definitions:
            idle.append(engine)
        if buffer.get_reader_index() != len(data):
            raise DecodeError(f"a {short_name(cls)} ends after {buffer.get_reader_index()} of {len(data)} bytes; the rest belongs to nothing")
        try:
            exact = check(value, 0)
        except Exception:  # a field that is missing, which the walk then reports
            exact = False
        if not exact:
            value = _restored(cls, value, walk)
        if post_init is not None:
            run_post_init(value, post_init)
        return value

    return decode


def _undecodable(cls: type, data: bytes, exc: Exception) -> str:
    limit = ""
    if isinstance(exc, TooMuchFilled):
        limit = f"it lacks too many fields, whose defaults may be {MAX_GRAPH_BYTES // 2**20} MiB of objects, and about {PER_BYTE} for each byte of the message"
    elif "graph memory budget" in str(exc):  # Fory's own words, which tell to raise a limit that is not the reader's to raise
        limit = f"a message may decode to {MAX_GRAPH_BYTES // 2**20} MiB of objects, counted at about the size of its containers and dataclasses"
    if limit:
        return f"these {len(data)} bytes of a {short_name(cls)} decode to more than is accepted: {limit}; send less at a time, as a stream of smaller messages"
    return f"these {len(data)} bytes are not a {short_name(cls)}: {exc}"


def _restored(cls: type[T], value: object, walk: Walk) -> T:
    """The decoded value with the types that Fory lost restored; raises DecodeError, naming the field."""
    try:
        return walk.message(cls, value)
    except Mismatch as exc:
        raise DecodeError(f"the peer sent something that is not a {short_name(cls)}: {exc.describe(short_name(cls))}") from exc
