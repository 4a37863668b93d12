"""A little of the fuzzer at each run of the tests: the corpus, and the first inputs of one seed. ``python -m tests.fuzz`` feeds a million."""

from __future__ import annotations

import gc
import logging
import random
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tests.fuzz.calls import CALLS
from tests.fuzz.frames import FRAMES
from tests.fuzz.measure import Finding, measure
from tests.fuzz.mutation import mutated
from tests.fuzz.target import Run, Target, corpus_of, input_of
from tests.fuzz.targets import TARGETS

_SEED = 1

# So that all take about as long; what a target costs is in the output of `python -m tests.fuzz`.
_INPUTS = {"frames": 5_000, "hello": 4_000, "calls": 4_000, "xlang": 4_000, "native": 4_000, "datagrams": 384, "connection": 700, "connection on trio": 500}


@pytest.mark.timeout(120)  # a handshake, or a call through a whole server, for hundreds of inputs
@pytest.mark.parametrize("name", TARGETS)
def test_hostile_input_has_no_other_outcome_than_those_that_are_allowed(name: str) -> None:
    figures = measure(TARGETS[name], _SEED, range(_INPUTS[name]))
    assert figures.level <= logging.INFO
    unreached = TARGETS[name].outcomes - set(figures.outcomes)
    assert not unreached, f"{unreached} never came out: the inputs prove nothing about it"


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_has_a_corpus(name: str) -> None:
    assert corpus_of(TARGETS[name].corpus)


@pytest.mark.parametrize("name", ["frames", "calls", "xlang", "native"])
def test_what_an_input_took_is_given_back_at_once_and_not_by_the_garbage_collector(name: str) -> None:
    target = TARGETS[name]
    with target.open() as run:
        _feed(run, target, 300)  # and with it what is made once
        gc.collect()
        gc.disable()
        try:
            _feed(run, target, 300)
            assert gc.collect() == 0
        finally:
            gc.enable()


def _feed(run: Run, target: Target, count: int) -> None:
    for index in range(count):
        run(input_of(target, _SEED, index))


def test_an_input_is_what_its_seed_and_number_say() -> None:
    inputs = [input_of(CALLS, _SEED, index) for index in range(200)]
    assert inputs == [input_of(CALLS, _SEED, index) for index in range(200)]
    assert len(set(inputs)) > 190
    assert inputs != [input_of(CALLS, 2, index) for index in range(200)]


def _three_bytes(chance: random.Random) -> bytes:
    return chance.randbytes(3)


def _made_up(run: Run, batch: int = 1 << 30) -> Target:
    @contextmanager
    def world() -> Generator[Run]:
        yield run

    return replace(FRAMES, name="made up", corpus="none", open=world, make=_three_bytes, outcomes=frozenset({"fine"}), batch=batch)


def _raises(data: bytes) -> str:
    raise KeyError(data)


def _logs(data: bytes) -> str:
    logging.getLogger("aster.quic").warning("a peer did %r", data)
    return "fine"


def _answers(data: bytes) -> str:
    return "another"


def _logs_badly(data: bytes) -> str:
    logging.getLogger("aster").info("%d of %d", 1)  # noqa: PLE1206  # what is under test
    return "fine"


@pytest.mark.parametrize("run", [_raises, _logs, _logs_badly, _answers], ids=["raises", "logs", "logs badly", "another outcome"])
def test_what_is_not_allowed_is_a_finding_that_says_how_to_see_it_again(run: Run) -> None:
    with pytest.raises(Finding, match=r"python -m tests\.fuzz --target 'made up' --seed 5 --index 3\n"):
        measure(_made_up(run), 5, range(3, 9))


def test_a_world_is_left_after_each_batch_and_its_own_check_counts() -> None:
    left = Counter[str]()

    @contextmanager
    def world() -> Generator[Run]:
        left["opened"] += 1
        yield lambda data: "fine"
        assert left["opened"] < 3, "the third world is not clean"

    target = replace(_made_up(lambda data: "fine", batch=4), open=world)
    with pytest.raises(Finding, match=r"the third world is not clean[\s\S]*--index 11\n"):
        measure(target, 1, range(100))


def test_a_mutation_changes_something_nearly_always() -> None:
    data, chance = bytes(range(100)), random.Random(1)
    changed = sum(mutated(data, [b"other"], chance) != data for _ in range(1_000))
    assert changed > 900
