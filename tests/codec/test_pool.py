"""The Fory instances of a codec: never shared, never entered twice, and none keeps what a large or hostile message left in it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import pytest

from aster.codec import make_codec
from aster.codec.fory import MAX_FAILURES
from aster.errors import DecodeError
from aster.types import SerializationMode
from tests.codec.helpers import at_once
from tests.codec.models import FORY_MODES, TaskRequest, tags_of
from tests.codec.test_round_trip import round_trip

modes = pytest.mark.parametrize("mode", FORY_MODES, ids=lambda mode: mode.name)


@modes
def test_ten_megabytes_leave_no_large_buffer_behind(mode: SerializationMode) -> None:
    codec: Any = make_codec(mode, tags_of(TaskRequest))
    assert round_trip(codec, TaskRequest("x" * 10_000_000)).task_id[-1] == "x"
    (engine,) = codec._pool.idle
    assert engine.serialize.__self__.buffer.size() < 100_000


@modes
def test_an_instance_is_replaced_after_many_failures(mode: SerializationMode) -> None:
    codec: Any = make_codec(mode, tags_of(TaskRequest))
    (first,) = codec._pool.idle
    for number in range(MAX_FAILURES):
        assert codec._pool.idle == [first], number
        with pytest.raises(DecodeError):
            codec.decoder(TaskRequest)(struct.pack("<I", number))
    assert codec._pool.idle == []
    assert round_trip(codec, TaskRequest("a")) == TaskRequest("a")


@dataclass(frozen=True)
class Nosy:
    """Decodes something else, by the same codec, while it is itself hashed and after it was made."""

    name: str

    def __hash__(self) -> int:
        return hash(_echoed(self.name))

    def __post_init__(self) -> None:
        assert _echoed(self.name) == self.name


@dataclass
class Nosies:
    keys: set[Nosy]
    items: list[Nosy]


_codecs = {mode: make_codec(mode, tags_of(Nosies, TaskRequest)) for mode in FORY_MODES}


def _echoed(name: str) -> str:
    return "".join(round_trip(codec, TaskRequest(name)).task_id for codec in _codecs.values())[: len(name)]


@modes
def test_threads_and_reentrant_values_never_meet_in_one_instance(mode: SerializationMode) -> None:
    codec = _codecs[mode]
    arrived: list[bool] = []

    def work(number: int) -> None:
        value = Nosies({Nosy(f"{number}"), Nosy(f"{number}b")}, [Nosy("x" * number)])
        arrived.extend(round_trip(codec, value) == value for _ in range(50))

    at_once(work, 4)
    assert arrived == [True] * 200
