"""Keys that a peer has chosen so that a set or dict of them would be slow: found out by their hashes, and honest keys never are."""

from __future__ import annotations

import datetime
import itertools
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster.codec import hashes
from aster.codec.hashes import MAX_COLLISIONS, HashTally, check_dict, check_set, grown_set

CHECKS = [check_dict, check_set]
_MANY = 22_000


@cache
def flood(bits: int) -> Sequence[int]:
    """Ints whose hashes differ and whose ways through a dict of ``2**bits`` places lead along one chain of taken ones.

    The first half takes the places of the chain, which is what follows from a place when nothing is left of the hash; the others are looked for: all places
    on their own way to the chain are taken, and they come in at its beginning.
    """
    mask = (1 << bits) - 1
    chain: dict[int, int] = {}
    place = 1
    for number in range(int(0.47 * (mask + 1))):
        chain[place] = number
        place = (5 * place + 1) & mask
    random_ = random.Random(1)
    others = dict[int, None]()
    while len(others) < 0.17 * (mask + 1):
        hashed = random_.randrange(mask + 1, 1 << (bits + 12))
        if _joins(hashed, mask, chain):
            others[hashed] = None
    return [*chain, *others]


def _joins(hashed: int, mask: int, chain: dict[int, int]) -> bool:
    place, perturb = hashed & mask, hashed
    while perturb:
        if place not in chain:
            return False
        perturb >>= 5
        place = (5 * place + perturb + 1) & mask
    return chain.get(place, mask) < len(chain) // 3


def test_a_flood_is_found_out() -> None:
    with pytest.raises(ValueError, match="the hashes of so many keys lead to the same places, which only an attack explains"):
        check_dict(flood(14))


def test_keys_that_share_a_hash_take_a_place_each() -> None:
    """Ints of one hash, four of each: the table that they need is four times as large as that of their hashes."""
    few = flood(14)
    with pytest.raises(ValueError, match="the hashes of so many keys lead to the same places"):
        check_dict([hashed for hashed in few for _ in range(4)])


def test_many_in_groups_of_one_hash_are_too_many() -> None:
    """Points of small ints share a hash four at a time, and are none of these; groups of sixteen are, once there are some thousands."""

    def tallied(groups: int, size: int) -> None:
        tally = HashTally()
        for number in range(groups * size):
            tally.add(f"{number}", number % groups)

    tallied(10_000, 6)
    tallied(5, 33)
    with pytest.raises(ValueError, match="so many different values share their hashes with others, which only an attack explains"):
        tallied(1_000, 16)


def test_honest_values_that_come_again_and_again_are_not_too_many() -> None:
    offsets = list(itertools.product((-1, -2), repeat=3))
    tally = HashTally()
    for _ in range(2_000):  # the same eight points, in as many sets
        for offset in offsets:
            tally.add(tuple(offset), hash(offset))
    tally.clear()
    answers = random.Random(1)
    for _ in range(50_000):
        row = tuple(answers.randrange(-2, 3) for _ in range(5))
        tally.add(row, hash(row))


def test_large_values_cannot_be_paid_for_with_small_ones() -> None:
    tally = HashTally()
    for number in range(10_000):
        tally.add(number, 2**40 + number)

    def add_large() -> None:
        for number in range(100 * 32):
            tally.add(f"{number}", number % 100)

    with pytest.raises(ValueError, match="so many different values share their hashes"):
        add_large()


@given(seed=st.integers(), bits=st.integers(3, 60), count=st.integers(0, 3_000))
def test_a_set_is_gone_through_as_it_grows(seed: int, bits: int, count: int) -> None:
    """CPython gives the elements in the order of their places, which tells where it has put them."""
    random_ = random.Random(seed)
    numbers = list(dict.fromkeys(random_.getrandbits(bits) << random_.choice((0, 0, 60 - bits)) for _ in range(count)))
    _, held, left = grown_set(numbers, 10**9)
    assert held == [*set(numbers)]
    assert left <= 10**9


def test_a_large_set_too() -> None:
    random_ = random.Random(1)
    numbers = [random_.getrandbits(50) for _ in range(100_000)]
    size, held, _ = grown_set(numbers, 10**9)
    assert held == [*set(numbers)]
    assert size == 262_144


@pytest.mark.parametrize("check", CHECKS, ids=["dict", "set"])
def test_very_many_of_one_hash_are_refused_at_once(check: Callable[[Sequence[int]], None]) -> None:
    numbers = [*range(10_000)]
    check([*numbers, *[7] * MAX_COLLISIONS])
    with pytest.raises(ValueError, match=f"more than {MAX_COLLISIONS} others of so many keys have the hash of one"):
        check([*numbers, *[7] * (MAX_COLLISIONS + 1)])


def test_a_tally_is_not_slow_itself() -> None:
    tally = HashTally()
    numbers = flood(14)
    for number in numbers:
        tally.add(f"{number}", number)
    assert next(iter(tally.first)) != numbers[0]


def _spread() -> Iterator[tuple[str, Callable[[int], object]]]:
    yield "numbers in turn", lambda number: number
    yield "below zero", lambda number: -number
    for bits in (8, 10, 16, 20, 32, 40, 48):
        yield f"multiples of 2**{bits}", lambda number, bits=bits: number << bits
    yield "multiples of three times 2**43", lambda number: 3 * number << 43
    yield "parts of 2**17", lambda number: number / 2**17
    yield "multiples of a thousand", lambda number: 1_000 * number
    yield "powers of ten apart", lambda number: 10 ** (number % 15) + number
    yield "microseconds", lambda number: 1_700_000_000_000_000 + 1_000_000 * number
    yield "floats", lambda number: number / 7
    yield "halves", lambda number: number / 2
    yield "dates", lambda number: datetime.date.fromordinal(700_000 + number)
    yield "seconds", lambda number: datetime.timedelta(seconds=number)
    yield "UUIDs in turn", lambda number: uuid.UUID(int=(7 << 100) + number)
    yield "points", lambda number: (number % 100, number // 100)


_SPREAD = dict(_spread())


@pytest.mark.parametrize("check", CHECKS, ids=["dict", "set"])
@pytest.mark.parametrize("spread", _SPREAD)
def test_honest_keys_are_no_flood(spread: str, check: Callable[[Sequence[int]], None]) -> None:
    for count in (_MANY, 10_925):  # the second right after a dict has grown
        keys = [_SPREAD[spread](number) for number in range(count)]
        for order in (keys, keys[::-1], list(set(keys)), random.Random(1).sample(keys, count)):
            check(list(map(hash, order)))


@given(seed=st.integers(), bits=st.integers(20, 61))
def test_nor_are_random_ones(seed: int, bits: int) -> None:
    random_ = random.Random(seed)
    keys = [random_.getrandbits(bits) for _ in range(3_000)]
    for check in CHECKS:
        check(keys)


@pytest.mark.parametrize("check", CHECKS, ids=["dict", "set"])
def test_the_steps_of_keys_that_begin_at_one_place_are_counted(check: Callable[[Sequence[int]], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiples of 2**40 go two steps together before they part; numbers in turn take none."""
    for steps in ("_DICT_STEPS", "_SET_STEPS"):
        monkeypatch.setattr(hashes, steps, 1)
    check(range(10_000))
    with pytest.raises(ValueError, match="lead to the same places"):
        check([number << 40 for number in range(10_000)])
