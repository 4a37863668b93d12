"""What keeps a peer from choosing values whose hashes make a set or dict quadratically slow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

__all__ = ["FEW", "MAX_COLLISIONS", "SALTED", "HashTally", "check_dict", "check_set"]

MAX_COLLISIONS = 32
"""Different values of one message that may share a hash with one other. Points of small ints share it four at a time, since hash(-1) == hash(-2). The
worst message of these that is accepted, 2 MB with 108,000 dataclasses of three ints in groups of 27, takes 1.4 s; without a bound 123 KB took 12 s."""

FEW = 2_048
"""Keys that cannot make a dict slow: at the worst each is compared with all the others, two million steps of some 5 ns."""

SALTED = frozenset({str, bytes})
"""Types whose hashes no peer can choose: Python salts them."""

_FREE_STEPS = 100_000
_STEPS = 48
"""Steps beyond the first that a key may take on average. Random keys take less than one, and the worst of honest ones, multiples of 2**32, some thirty."""

_ATTACK = "which only an attack explains"

_WORD = 2**64 - 1
_RUN = 10
"""Places that a set looks at one behind the other before it jumps."""


class HashTally:
    """Counts the values of one message that differ and have one hash, which honest data hardly does and which makes a set or dict quadratically slow.

    It counts what is hashed or may be, not what is declared: the type of an element is the peer's to choose, and known only once the hash is taken.
    """

    __slots__ = ("_same", "_steps", "first")

    def __init__(self) -> None:
        self.first: dict[int, object] = {}
        self._same: dict[int, list[object]] = {}
        self._steps: _Steps | None = None

    def add(self, value: object, hashed: int) -> None:
        """Count a value.

        Raises:
            ValueError: too many others have its hash, or one that a dict would look for at the same places.
        """
        if len(self.first) >= FEW:
            self._step(hashed)
        first = self.first.setdefault(hashed, value)
        if first is value or first == value:
            return
        same = self._same.setdefault(hashed, [])
        if value not in same:
            same.append(value)
            if len(same) > MAX_COLLISIONS:
                raise ValueError(f"more than {MAX_COLLISIONS} different values have the same hash, {_ATTACK}")

    def _step(self, hashed: int) -> None:
        if self._steps is None:
            self._steps = _DictSteps()
            for each in self.first:
                self._steps.add(each)
        self._steps.add(hashed)

    def clear(self) -> None:
        self.first.clear()
        self._same.clear()
        self._steps = None


def check_dict(hashes: Iterable[int]) -> None:
    """Go the way on which CPython looks for the place of each key in a dict, for keys whose hashes differ and yet follow one another.

    Raises:
        ValueError: a dict of these keys would be slow.
    """
    _check(_DictSteps(), hashes)


def check_set(hashes: Iterable[int]) -> None:
    """The same for a set."""
    _check(_SetSteps(), hashes)


def _check(steps: _Steps, hashes: Iterable[int]) -> None:
    for hashed in hashes:
        steps.add(hashed)


class _Steps(ABC):
    """A table of hashes that grows as CPython's do, and how many places were looked at in vain."""

    def __init__(self) -> None:
        self._hashes: list[int] = []
        self._table: list[int | None] = [None] * 8
        self._steps = 0

    def add(self, hashed: int) -> None:
        """A key of this hash comes in. One that has the hash of another counts as equal to it: how many are not is for a tally to count."""
        if self._place(self._table, hashed):
            self._hashes.append(hashed)
            self._refuse_many()
            if (size := self._size(len(self._hashes), len(self._table))) != len(self._table):
                self._table = [None] * size
                for earlier in self._hashes:
                    self._place(self._table, earlier)
                self._refuse_many()

    def _refuse_many(self) -> None:
        if self._steps > _FREE_STEPS + _STEPS * len(self._hashes):
            raise ValueError(f"the hashes of so many keys lead to the same places, {_ATTACK}")

    @abstractmethod
    def _size(self, used: int, size: int) -> int:
        """How large a table of this size is once so many of its places are used."""

    @abstractmethod
    def _place(self, table: list[int | None], hashed: int) -> bool:
        """Find the place of a hash, and count the steps on the way. Whether it is a new one."""


class _DictSteps(_Steps):
    """See ``Objects/dictobject.c``."""

    def _size(self, used: int, size: int) -> int:
        return 1 << (3 * used - 1).bit_length() if used == 2 * size // 3 else size

    def _place(self, table: list[int | None], hashed: int) -> bool:
        mask = len(table) - 1
        place = hashed & mask
        if table[place] is not None:
            perturb = hashed & _WORD
            while (taken := table[place]) is not None:
                if taken == hashed:
                    return False
                perturb >>= 5
                place = (5 * place + perturb + 1) & mask
                self._steps += 1
        table[place] = hashed
        return True


class _SetSteps(_Steps):
    """See ``Objects/setobject.c``."""

    def _size(self, used: int, size: int) -> int:
        return 1 << (used * (2 if used > 50_000 else 4)).bit_length() if 5 * used >= 3 * (size - 1) else size

    def _place(self, table: list[int | None], hashed: int) -> bool:
        mask = len(table) - 1
        place, perturb = hashed & mask, hashed & _WORD
        while True:
            run = table[place : place + _RUN] if place + _RUN - 1 <= mask else [table[place]]
            if hashed in run:
                return False
            if None in run:
                table[place + run.index(None)] = hashed
                return True
            self._steps += 1
            perturb >>= 5
            place = (5 * place + 1 + perturb) & mask
