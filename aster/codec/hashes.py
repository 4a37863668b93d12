"""What keeps a peer from choosing values whose hashes make a set or dict quadratically slow."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["FEW", "MAX_COLLISIONS", "HashTally", "check_dict", "check_set"]

MAX_COLLISIONS = 32
"""Different values of one message that may share a hash with one other. Points of small ints share it four at a time, since hash(-1) == hash(-2). The
worst message of these that is accepted, 2 MB with 108,000 dataclasses of three ints in groups of 27, takes 1.4 s; without a bound 123 KB took 12 s."""

FEW = 2_048
"""Keys that cannot make a dict slow: at the worst each is compared with all the others, two million steps of some 5 ns."""

_FREE_STEPS = 100_000
_STEPS = 48
"""Steps beyond the first that a key may take on average. Random keys take less than one, and the worst of honest ones, multiples of 2**32, some thirty."""

_ATTACK = "which only an attack explains"


class HashTally:
    """Counts the values of one message that differ and have one hash, which honest data hardly does and which makes a set or dict quadratically slow.

    It counts what is hashed or may be, not what is declared: the type of an element is the peer's to choose, and known only once the hash is taken.
    """

    __slots__ = ("_same", "first")

    def __init__(self) -> None:
        self.first: dict[int, object] = {}
        self._same: dict[int, list[object]] = {}

    def add(self, value: object, hashed: int) -> None:
        """Count a value.

        Raises:
            ValueError: too many others have its hash.
        """
        first = self.first.setdefault(hashed, value)
        if first is value or first == value:
            return
        same = self._same.setdefault(hashed, [])
        if value not in same:
            same.append(value)
            if len(same) > MAX_COLLISIONS:
                raise ValueError(f"more than {MAX_COLLISIONS} different values have the same hash, {_ATTACK}")

    def clear(self) -> None:
        self.first.clear()
        self._same.clear()


def check_dict(hashes: Sequence[int]) -> None:
    """Go the way on which CPython looks for the place of each key (``Objects/dictobject.c``), for keys whose hashes differ and yet follow one another.

    Raises:
        ValueError: a dict of these keys would be slow.
    """
    table, mask = bytearray(8), 7
    steps = 0
    for count, hashed in enumerate(hashes):
        if count == 2 * len(table) // 3:
            size = 1 << (3 * count - 1).bit_length()
            table, mask = bytearray(size), size - 1
            for earlier in hashes[:count]:
                steps += _take_place(table, mask, earlier)
        steps += _take_place(table, mask, hashed)
        _refuse_many(steps, count)


def _take_place(table: bytearray, mask: int, hashed: int) -> int:
    """How many places were taken before the free one that a key takes."""
    place = hashed & mask
    if not table[place]:
        table[place] = 1
        return 0
    perturb, steps = hashed & 0xFFFF_FFFF_FFFF_FFFF, 0
    while table[place]:
        perturb >>= 5
        place = (5 * place + perturb + 1) & mask
        steps += 1
    table[place] = 1
    return steps


_RUN = 10
"""Places that a set looks at one behind the other before it jumps."""


def check_set(hashes: Sequence[int]) -> None:
    """The same for a set (``Objects/setobject.c``)."""
    table, mask = bytearray(8), 7
    steps = 0
    for count, hashed in enumerate(hashes):
        steps += _take_place_in_run(table, mask, hashed)
        _refuse_many(steps, count)
        if 5 * (count + 1) >= 3 * mask:
            size = 1 << ((count + 1) * (2 if count + 1 > 50_000 else 4)).bit_length()
            table, mask = bytearray(size), size - 1
            for earlier in hashes[: count + 1]:
                steps += _take_place_in_run(table, mask, earlier)


def _take_place_in_run(table: bytearray, mask: int, hashed: int) -> int:
    """How many runs were taken before the one in which there was a free place."""
    place, perturb, steps = hashed & mask, hashed & 0xFFFF_FFFF_FFFF_FFFF, 0
    while True:
        run = _RUN if place + _RUN - 1 <= mask else 1
        free = table.find(0, place, place + run)
        if free >= 0:
            table[free] = 1
            return steps
        steps += 1
        perturb >>= 5
        place = (5 * place + 1 + perturb) & mask


def _refuse_many(steps: int, keys: int) -> None:
    if steps > _FREE_STEPS + _STEPS * keys:
        raise ValueError(f"the hashes of so many keys lead to the same places, {_ATTACK}")
