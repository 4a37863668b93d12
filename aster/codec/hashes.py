"""What keeps a peer from choosing values whose hashes make a set or dict quadratically slow."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from itertools import compress

__all__ = ["COMPARISONS", "FEW", "MAX_COLLISIONS", "SALTED", "HashTally", "check_dict", "check_keys", "check_set", "grown_set"]

MAX_COLLISIONS = 32
"""Different values of one message that may share a hash with one other. Points of small ints share it four at a time, since hash(-1) == hash(-2). Without a
bound 123 KB took 12 s."""

COMPARISONS = 6
"""With how many others that have its hash a value may be compared before that counts. Each value of the message makes good for one that counts, and so do the
4,096 that are free. Values may be large: of dataclasses that were nested 49 deep, 470 KB in groups of 32 took 9 s, of which 0.5 s are left. Of points of three
small ints there are eight with one hash, and of answers from -2 to 2 to five questions, each given often, up to 32, but most have few."""

_FREE_COMPARISONS = 4_096

FEW = 8_192
"""Keys that cannot make a dict very slow: at the worst each is compared with most of the others, which for so many took 33 ms (measured)."""

SALTED = frozenset({str, bytes})
"""Types whose hashes no peer can choose: Python salts them."""

_DICT_STEPS = 128
"""Steps beyond the first that a key may take on average on its way into a dict, those of its growth included. Random keys take less than two. The worst of
honest ones that were found, multiples of three times 2**43, take 107, and the others less than 70. To go a step takes some 60 to 100 ns here, which bounds
what the look itself may cost."""

_SET_STEPS = 36
"""The same for a set and a copy of it, in jumps over ten places: multiples of 2**48 take 29, and a jump takes some 300 ns here."""

_ATTACK = "which only an attack explains"
_FLOOD = f"the hashes of so many keys lead to the same places, {_ATTACK}"

_FIRST_DICT = 16_384
"""Places of the smallest dict that has room for more than ``FEW`` keys."""

_SALT = secrets.randbits(60) | 1
"""A factor that no peer knows. CPython's hash of an int is its remainder by a prime, so that of a product with it says nothing of the other factor's."""

_WORD = 2**64 - 1
_RUN = 10
"""Places that a set looks at one behind the other before it jumps."""


class HashTally:
    """Counts the values of one message that differ and have one hash, which honest data hardly does and which makes a set or dict quadratically slow.

    It counts what is hashed or may be, not what is declared: the type of an element is the peer's to choose, and known only once the hash is taken.
    """

    __slots__ = ("_left", "_same", "first")

    def __init__(self) -> None:
        self.first: dict[int, object] = {}
        self._same: dict[int, list[object]] = {}
        self._left = _FREE_COMPARISONS

    def add(self, value: object, hashed: int) -> None:
        """Count a value.

        Raises:
            ValueError: too many others have its hash.
        """
        hashed *= _SALT  # else this dict too could be made slow
        self._left += 1
        first = self.first.setdefault(hashed, value)
        if first is value or first == value:
            return
        same = self._same.setdefault(hashed, [])
        try:
            place = same.index(value)
        except ValueError:
            place = len(same)
            same.append(value)
            if place == MAX_COLLISIONS:
                raise ValueError(f"more than {MAX_COLLISIONS} different values have the same hash, {_ATTACK}") from None
        self._left -= max(0, place + 1 - COMPARISONS)
        if self._left < 0:
            raise ValueError(f"so many different values share their hashes with others, {_ATTACK}")

    def clear(self) -> None:
        self.first.clear()
        self._same.clear()
        self._left = _FREE_COMPARISONS


def check_keys(keys: Iterable[object], check: Callable[[Sequence[int]], None]) -> None:
    """Have the hashes of those keys looked at that a peer can choose, if they are very many. ``check``: ``check_dict`` or ``check_set``."""
    hashes = [hash(key) for key in keys if type(key) not in SALTED]
    if len(hashes) > FEW:
        check(hashes)


def check_dict(hashes: Sequence[int]) -> None:
    """Go the way on which CPython looks for the place of each key in a dict, for keys whose hashes differ and yet follow one another.

    Each key takes a place of its own, also one that has the hash of another: if they were equal, they would not have been sent.

    Raises:
        ValueError: a dict of these keys would be slow.
    """
    left, size = _steps_for(hashes, _DICT_STEPS), _FIRST_DICT
    while len(hashes) > (capacity := 2 * size // 3):
        left = _fill_dict(size, hashes[:capacity], left)
        size *= 2
    _fill_dict(size, hashes, left)


def check_set(hashes: Sequence[int]) -> None:
    """The same for a set, and for a copy of it, whose table may be of another size."""
    size, held, left = grown_set(hashes, _steps_for(hashes, _SET_STEPS))
    if (copied := 1 << (2 * len(hashes)).bit_length()) != size:
        _fill_set(copied, held, left)


def grown_set(hashes: Sequence[int], left: int) -> tuple[int, list[int], int]:
    """The places of a set's table once keys of these hashes came in one by one, the hashes in the order of their places, and what is left of the steps."""
    size, held = 8, list[int]()
    while len(hashes) >= (capacity := (3 * (size - 1) + 4) // 5):
        held, left = _fill_set(size, [*held, *hashes[len(held) : capacity]], left)
        size = 1 << (capacity * (2 if capacity > 50_000 else 4)).bit_length()
    held, left = _fill_set(size, [*held, *hashes[len(held) :]], left)
    return size, held, left


def _steps_for(hashes: Sequence[int], each: int) -> int:
    """How many steps these keys may take, if no hash is that of too many of them."""
    ordered = sorted(hashes)
    if any(map(int.__eq__, ordered, ordered[MAX_COLLISIONS + 1 :])):
        raise ValueError(f"more than {MAX_COLLISIONS} others of so many keys have the hash of one, {_ATTACK}")
    return each * len(hashes)


# The loops below run for each key of what is large, so that they are written to be fast.


def _fill_dict(size: int, hashes: Sequence[int], left: int) -> int:
    """Take the places of a table of this size, as ``Objects/dictobject.c`` does; ``left``: the steps that are still allowed, and are given back."""
    taken, mask = bytearray(size), size - 1
    for hashed in hashes:
        place = hashed & mask
        if taken[place]:
            perturb = hashed & _WORD
            while taken[place]:
                perturb >>= 5
                place = (5 * place + perturb + 1) & mask
                left -= 1
            if left < 0:
                raise ValueError(_FLOOD)
        taken[place] = 1
    return left


def _fill_set(size: int, hashes: Sequence[int], left: int) -> tuple[list[int], int]:
    """The same as ``Objects/setobject.c`` does it, which looks at some places in a row before it jumps. The hashes come back in the order of their places: in
    which a larger table is filled from this one."""
    taken, mask = bytearray(size), size - 1
    held = [0] * size
    last_run = mask - _RUN + 1
    for hashed in hashes:
        place = hashed & mask
        if taken[place]:
            perturb = hashed & _WORD
            while (free := taken.find(0, place, place + (_RUN if place <= last_run else 1))) < 0:
                perturb >>= 5
                place = (5 * place + 1 + perturb) & mask
                left -= 1
            if left < 0:
                raise ValueError(_FLOOD)
            place = free
        taken[place] = 1
        held[place] = hashed
    return [*compress(held, taken)], left
