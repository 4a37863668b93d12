"""What is fuzzed: a layer behind one signature, with what it may answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.fuzz.mutation import mutated

__all__ = ["Run", "Target", "corpus_of", "input_of"]

Run = Callable[[bytes], str]
"""Feeds one input; a word for what came of it. Whatever it raises is a finding."""

_CORPUS = Path(__file__).parent / "corpus"


@dataclass(frozen=True)
class Target:
    """A layer to be fuzzed.

    Attributes:
        name: what it is called.
        layer: what it is called in the table of results.
        corpus: the folder of its corpus.
        make: draws one input that is grammatical, or nearly so.
        open: makes a fresh world for inputs, which checks what is left of it when it is closed.
        outcomes: the words that may come out; another one is a finding, and so is one that a long run never reaches.
        share: its part of the inputs of a run over all targets.
        cost: milliseconds that an input takes, about; only to put what takes long first.
        batch: how many inputs one world is for: they meet what those before them have left. Whoever wants to see one of them again must repeat the batch.
        untouched: eighths of the inputs that go as they were drawn; the others are mutated, most of them near their beginnings.
        notes: what else is to be told of a run, by the process in which it was.
    """

    name: str
    layer: str
    corpus: str
    make: Callable[[random.Random], bytes]
    open: Callable[[], AbstractContextManager[Run]]
    outcomes: frozenset[str]
    share: int
    cost: float
    batch: int = 1 << 30
    untouched: int = 2
    notes: Callable[[], str] = str


@cache
def corpus_of(folder: str) -> Sequence[bytes]:
    """The inputs that are kept in a folder, in the order of their names."""
    return [path.read_bytes() for path in sorted((_CORPUS / folder).glob("*.bin"))]


def input_of(target: Target, seed: int, index: int) -> bytes:
    """The input of that number: first the corpus as it is, then what is drawn. The same for the same seed, number and corpus."""
    corpus = corpus_of(target.corpus)
    if index < len(corpus):
        return corpus[index]
    chance = random.Random(f"{target.name}/{seed}/{index}")
    kind = chance.randrange(8)
    data = chance.choice(corpus) if kind == 0 and corpus else target.make(chance)
    return data if 1 <= kind <= target.untouched else mutated(data, corpus, chance)
