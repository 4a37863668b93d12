"""Fory's maps and sets of very many keys: as Fory has them, unless the keys were chosen to make them slow."""

from __future__ import annotations

import importlib
import itertools
import uuid
from dataclasses import dataclass, field
from typing import Any

import pytest

from aster.codec import hashes, make_codec, materialize
from aster.codec.hashes import FEW
from aster.errors import DecodeError
from aster.types import SerializationMode
from tests.codec.models import Label, Point, tags_of
from tests.codec.test_hashes import flood

MODES = [SerializationMode.XLANG, SerializationMode.NATIVE]


@dataclass
class Large:
    by_number: dict[int, bool] = field(default_factory=dict[int, bool])
    by_name: dict[str, int] = field(default_factory=dict[str, int])
    by_point: dict[Point, Label] = field(default_factory=dict[Point, Label])
    sparse: dict[int | None, str | None] = field(default_factory=dict[int | None, str | None])
    mixed: dict[int | str, list[int] | float] = field(default_factory=dict[int | str, list[int] | float])
    ids: set[uuid.UUID] = field(default_factory=set[uuid.UUID])
    numbers: set[int] = field(default_factory=set[int])
    names: frozenset[str] = frozenset()


def _large(count: int) -> Large:
    numbers = range(count)
    return Large(
        {number: number % 2 == 0 for number in numbers},
        {f"name {number}": number for number in numbers},
        {Point(number, -number): Label(f"{number}") for number in numbers},
        {None if number == 7 else number: None if number % 3 else f"{number}" for number in numbers},
        {number if number % 2 else f"{number}": [number] if number % 5 else number / 2 for number in numbers},
        {uuid.UUID(int=number << 70) for number in numbers},
        set(numbers),
        frozenset(map(str, numbers)),
    )


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("count", [0, 1, FEW, FEW + 1])
def test_large_maps_and_sets_arrive_as_they_were_sent(count: int, mode: SerializationMode) -> None:
    codec = make_codec(mode, tags_of(Large))
    value = _large(count)
    found = codec.decoder(Large)(codec.encoder(Large)(value))
    assert found == value
    assert list(found.by_number) == list(value.by_number)
    assert {type(key) for key in found.mixed} == {type(key) for key in value.mixed}


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_a_flood_is_a_decode_error(mode: SerializationMode, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = make_codec(mode, tags_of(Large))
    encode, decode = codec.encoder(Large), codec.decoder(Large)
    with pytest.raises(DecodeError, match="the hashes of so many keys lead to the same places"):
        decode(encode(Large(dict.fromkeys(flood(14), True))))
    many = [number << 40 for number in range(FEW + 1)]  # which begin at one place
    messages = [
        encode(value)
        for value in (
            Large(by_number=dict.fromkeys(many, True)),
            Large(mixed=dict.fromkeys(many, 1.0)),
            Large(by_point={Point(number, 0): Label("") for number in many}),
            Large(numbers=set(many)),
            Large(ids={uuid.UUID(int=number << 20) for number in many}),
        )
    ]
    salted = encode(Large(by_name={f"{number}": number for number in range(FEW + 9)}, names=frozenset(f"{number}" for number in range(FEW + 9))))
    for steps in ("_DICT_STEPS", "_SET_STEPS"):
        monkeypatch.setattr(hashes, steps, -1)
    for message in messages:
        with pytest.raises(DecodeError, match="the hashes of so many keys lead to the same places"):
            decode(message)
    assert len(decode(salted).by_name) == FEW + 9


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_a_large_map_or_set_that_is_cut_is_a_decode_error(mode: SerializationMode) -> None:
    codec = make_codec(mode, tags_of(Large))
    numbers = range(FEW + 9)
    for value in (Large(by_number=dict.fromkeys(numbers, True)), Large(by_name={f"{number}": 1 for number in numbers}), Large(numbers=set(numbers))):
        message = codec.encoder(Large)(value)
        for end in range(0, len(message), 997):
            with pytest.raises(DecodeError):
                codec.decoder(Large)(message[:end])


def test_a_fory_that_is_not_ours_has_its_own_serializers() -> None:
    fory: Any = importlib.import_module("pyfory").Fory(xlang=True)
    table = {number: number for number in range(3 * FEW)}
    assert fory.deserialize(fory.serialize(table)) == table
    assert type(fory.type_resolver.get_type_info(dict).serializer).__module__.startswith("pyfory")


@dataclass(frozen=True)
class Node:
    a: int
    b: int
    inner: Node | None = None


@dataclass
class Nodes:
    keys: dict[Node, bool]


@dataclass(frozen=True)
class OwnHash:
    """Hashes its points as a set, whatever their order, as one does."""

    points: tuple[Point, ...]

    def __hash__(self) -> int:
        return hash(frozenset(self.points))


@dataclass
class OwnHashes:
    keys: dict[OwnHash, bool]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_a_hash_of_ones_own_that_makes_a_set_is_no_way_around(mode: SerializationMode) -> None:
    codec = make_codec(mode, tags_of(OwnHashes))
    honest = OwnHashes({OwnHash(tuple(Point(number, number) for number in range(100))): True})
    assert codec.decoder(OwnHashes)(codec.encoder(OwnHashes)(honest)) == honest
    prime = 2**61 - 1  # the hash of an int is its remainder by this
    zeros = [number * prime for number in range(-3, 4)]
    same = tuple(Point(x, y) for x in zeros for y in zeros)
    assert len(set(map(hash, same))) == 1
    message = codec.encoder(OwnHashes)(OwnHashes({OwnHash(same): True}))
    with pytest.raises(DecodeError, match="more than 32 different values have the same hash"):
        codec.decoder(OwnHashes)(message)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_keys_in_which_others_are_nested_are_counted_once_each(mode: SerializationMode) -> None:
    """In groups of 32 with one hash, since -1 and -2 have one, they are refused; and what is not is honest, however deep."""

    def node(number: int, last: tuple[int, ...]) -> Node:
        made = None
        for level in range(45):
            made = Node(0 if level else number, last[level] if level < 5 else 0, made)
        assert made is not None
        return made

    codec = make_codec(mode, tags_of(Nodes))
    honest = Nodes({node(number, (7,) * 5): True for number in range(300)})
    assert materialize(codec.decoder(Nodes)(codec.encoder(Nodes)(honest))) == honest
    crafted = Nodes({node(number, last): True for number in range(20) for last in itertools.product((-1, -2), repeat=5)})
    with pytest.raises(DecodeError, match="so many different values share their hashes with others"):
        materialize(codec.decoder(Nodes)(codec.encoder(Nodes)(crafted)))
