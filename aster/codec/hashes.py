"""What keeps a peer from choosing values whose hashes make a set or dict quadratically slow."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

__all__ = ["FEW", "MAX_COLLISIONS", "SALTED", "HashTally", "check_dict", "check_keys", "check_set"]

MAX_COLLISIONS = 32
"""Different values of one message that may share a hash with one other. Points of small ints share it four at a time, since hash(-1) == hash(-2). The
worst message of these that is accepted, 2 MB with 108,000 dataclasses of three ints in groups of 27, takes 1.4 s; without a bound 123 KB took 12 s."""

FEW = 8_192
"""Keys that cannot make a dict very slow: at the worst each is compared with most of the others, which for so many took 33 ms (measured)."""

SALTED = frozenset({str, bytes})
"""Types whose hashes no peer can choose: Python salts them."""

_STEPS = 12
"""Steps beyond the first that a key may take on average, for each bit of their number beyond ten: 48 of ten thousand keys, 96 of two hundred thousand. Random
keys take less than one. The worst of honest ones that were found, multiples of powers of two from 2**24 to 2**48, take 30 and 68."""

_ATTACK = "which only an attack explains"

_SALT = secrets.randbits(60) | 1
"""A factor that no peer knows. CPython's hash of an int is its remainder by a prime, so that of a product with it says nothing of the other factor's."""

_WORD = 2**64 - 1
_RUN = 10
"""Places that a set looks at one behind the other before it jumps."""


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
        hashed *= _SALT  # else this dict too could be made slow
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


def check_keys(keys: Iterable[object], check: Callable[[Sequence[int]], None]) -> None:
    """Have the hashes of those keys looked at that a peer can choose, if they are very many. ``check``: ``check_dict`` or ``check_set``."""
    hashes = [hash(key) for key in keys if type(key) not in SALTED]
    if len(hashes) > FEW:
        check(hashes)


def check_dict(hashes: Sequence[int]) -> None:
    """Go the way on which CPython looks for the place of each key in a dict, for keys whose hashes differ and yet follow one another.

    Raises:
        ValueError: a dict of these keys would be slow.
    """
    _check(_DictSteps(), hashes)


def check_set(hashes: Sequence[int]) -> None:
    """The same for a set."""
    _check(_SetSteps(), hashes)


def _check(steps: _Steps, hashes: Sequence[int]) -> None:
    ordered = sorted(hashes)
    if any(map(int.__eq__, ordered, ordered[MAX_COLLISIONS + 1 :])):
        raise ValueError(f"more than {MAX_COLLISIONS} others of so many keys have the hash of one, {_ATTACK}")
    for hashed in hashes:
        steps.add(hashed)


class _Steps(ABC):
    """A table of places that grows as CPython's do, and how many were looked at in vain.

    Each key takes a place of its own, also one that has the hash of another: if they were equal, they would not have been sent.
    """

    def __init__(self) -> None:
        self._hashes: list[int] = []
        self._taken = bytearray(8)
        self._steps = 0

    def add(self, hashed: int) -> None:
        """A key of this hash comes in."""
        self._hashes.append(hashed)
        used = len(self._hashes)
        counted = max(used, FEW)
        most = _STEPS * (counted.bit_length() - 10) * counted
        self._put(hashed, most)
        if (size := self._size(used, len(self._taken))) != len(self._taken):
            self._taken = bytearray(size)
            for earlier in self._hashes:
                self._put(earlier, most)

    def _put(self, hashed: int, most: int) -> None:
        self._take(self._taken, hashed)
        if self._steps > most:
            raise ValueError(f"the hashes of so many keys lead to the same places, {_ATTACK}")

    @abstractmethod
    def _size(self, used: int, size: int) -> int:
        """How large a table of this size is once so many of its places are used."""

    @abstractmethod
    def _take(self, taken: bytearray, hashed: int) -> None:
        """Find a place for a hash, and count the steps on the way."""


class _DictSteps(_Steps):
    """See ``Objects/dictobject.c``."""

    def _size(self, used: int, size: int) -> int:
        return 1 << (3 * used - 1).bit_length() if used == 2 * size // 3 else size

    def _take(self, taken: bytearray, hashed: int) -> None:
        mask = len(taken) - 1
        place = hashed & mask
        if taken[place]:
            perturb, steps = hashed & _WORD, 0
            while taken[place]:
                perturb >>= 5
                place = (5 * place + perturb + 1) & mask
                steps += 1
            self._steps += steps
        taken[place] = 1


class _SetSteps(_Steps):
    """See ``Objects/setobject.c``."""

    def _size(self, used: int, size: int) -> int:
        return 1 << (used * (2 if used > 50_000 else 4)).bit_length() if 5 * used >= 3 * (size - 1) else size

    def _take(self, taken: bytearray, hashed: int) -> None:
        mask = len(taken) - 1
        place, perturb = hashed & mask, hashed & _WORD
        while (free := taken.find(0, place, place + (_RUN if place + _RUN - 1 <= mask else 1))) < 0:
            self._steps += 1
            perturb >>= 5
            place = (5 * place + 1 + perturb) & mask
        taken[free] = 1
