"""The page of the guide's promises names a test for each, which is there, or says that it is open."""

from __future__ import annotations

import re
from pathlib import Path

from aster.types import SerializationMode

_TESTS = Path(__file__).parent
_PAGE = _TESTS.parent / "docs" / "reference" / "guide-coverage.md"

_ROW = re.compile(r"^\| (?!Promise )([^-].*?) \| (.*) \|$", re.MULTILINE)
_NAMED = re.compile(r"\[`(test_\w+)`\]\(([^)]+)\)")
_TEST = r"^(?:async )?def (test_\w+)\("
_OPEN = "open: "

_OPTIONS = ("name", "version", "serialization", "scoped", "interceptors", "max_concurrent_streams", "requires", "timeout", "idempotent")
"""Those of the guide's two tables."""


def _promises() -> list[tuple[str, str]]:
    return _ROW.findall(_PAGE.read_text("utf-8"))


def test_each_promise_names_a_test_or_is_open() -> None:
    promises = _promises()
    assert len(promises) > 60
    assert [promise for promise, proof in promises if not (proof.startswith(_OPEN) or _NAMED.match(proof))] == []


def test_the_tests_that_the_page_names_are_there() -> None:
    named = _NAMED.findall(_PAGE.read_text("utf-8"))
    assert [name for name, target in named if not re.search(rf"^(async )?def {name}\(", (_PAGE.parent / target).read_text("utf-8"), re.MULTILINE)] == []


def test_no_promise_is_there_twice_under_one_heading() -> None:
    for section in re.split(r"^(?=## )", _PAGE.read_text("utf-8"), flags=re.MULTILINE):
        promises = [promise for promise, _ in _ROW.findall(section)]
        assert sorted({promise for promise in promises if promises.count(promise) > 1}) == []


def test_every_option_and_mode_of_the_guide_is_on_the_page() -> None:
    text = "\n".join(promise for promise, _ in _promises())
    assert [option for option in _OPTIONS if f"`{option}`" not in text] == []
    assert [mode for mode in SerializationMode.__members__ if mode not in text] == []


def test_what_is_open_says_why() -> None:
    assert [promise for promise, proof in _promises() if proof.startswith(_OPEN) and len(proof) < len(_OPEN) + 8] == []


def test_every_test_that_was_written_for_a_promise_is_named() -> None:
    written = re.findall(_TEST, "".join(path.read_text("utf-8") for path in _TESTS.rglob("test_guide_promises.py")), re.MULTILINE)
    assert len(written) > 20
    assert sorted(set(written) - {name for name, _ in _NAMED.findall(_PAGE.read_text("utf-8"))}) == []
