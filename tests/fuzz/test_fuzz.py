"""A little of the fuzzer at each run of the tests: the corpus, and the first inputs of one seed. ``python -m tests.fuzz`` feeds 1.3 million."""

from __future__ import annotations

import gc
import logging
import random
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from tests.fuzz import apart
from tests.fuzz.__main__ import main
from tests.fuzz.calls import CALLS
from tests.fuzz.frames import FRAMES
from tests.fuzz.measure import MOST_BLOCKS, MOST_GROWTH, Figures, Finding, measure
from tests.fuzz.mutation import mutated
from tests.fuzz.report import faults, table
from tests.fuzz.target import Run, Target, corpus_of, input_of
from tests.fuzz.targets import TARGETS

_SEED = 1

# So that all take about as long; what a target costs is in the output of `python -m tests.fuzz`.
_INPUTS = {
    "frames": 5_000,
    "hello": 4_000,
    "calls": 4_000,
    "sessions": 6_000,
    "contracts": 2_000,
    "xlang": 4_000,
    "native": 4_000,
    "row": 1_500,
    "datagrams": 384,
    "connection": 700,
    "connection on trio": 500,
    "live rows": 800,
    "live rows on trio": 500,
}


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


@pytest.mark.parametrize("name", ["frames", "calls", "sessions", "xlang", "native"])
def test_what_an_input_took_is_given_back_at_once_and_not_by_the_garbage_collector(name: str) -> None:
    target = TARGETS[name]
    with target.open() as run:
        _feed(run, target, 100)  # and with it what is made once
        gc.collect()
        gc.disable()
        try:
            _feed(run, target, 100)
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


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"growth": MOST_GROWTH + 1}, "memory grew"),
        ({"blocks": MOST_BLOCKS + 1}, "blocks of memory were kept"),
        ({"outcomes": Counter(others=10_000)}, "never came out, so that the inputs prove nothing about it: fine"),
    ],
    ids=["memory", "blocks", "an outcome that is not reached"],
)
def test_a_run_over_many_inputs_is_judged_as_a_whole(changes: dict[str, Any], fault: str) -> None:
    target, good = _made_up(_raises), Figures("made up", inputs=10_000, outcomes=Counter(fine=10_000))
    assert faults(target, good) == []
    assert [fault in found for found in faults(target, replace(good, **changes))] == [True]


def test_the_table_of_a_run_has_a_row_for_each_layer_and_one_for_all() -> None:
    names = ["xlang", "native"]
    figures = [
        Figures(name, inputs=1_500, growth=5_000_000 * number, outcomes=Counter(value=1_500), notes="fast" * number) for number, name in enumerate(names)
    ]
    rows = table([TARGETS[name] for name in names], figures).splitlines()
    assert rows[2:5] == [
        "| payloads, XLANG | 1,500 | +0.0 MB | +0 | 0 ms | value 1,500 |",
        "| payloads, NATIVE | 1,500 | +5.0 MB | +0 | 0 ms | value 1,500 |",
        "| all | 3,000 | +5.0 MB | +0 | 0 ms | nothing else |",
    ]
    assert rows[-1] == "payloads, NATIVE: fast."


@pytest.mark.parametrize(("found", "code"), [("it went wrong", 1), ("", 0)], ids=["something", "nothing"])
def test_a_run_ends_with_1_when_something_was_found(found: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def measured(name: str, seed: int, inputs: range) -> Figures | str:
        return found or Figures(name, inputs=len(inputs))

    monkeypatch.setattr(apart, "measure_apart", measured)
    with pytest.raises(SystemExit) as ended:
        main(["--target", "frames", "--inputs", "10"])
    assert ended.value.code == code
    assert f"frames: {found or 'nothing'}\n" in capsys.readouterr().err
