"""The page of the laws has each of them, and leads to its test."""

from __future__ import annotations

import re
from pathlib import Path

_ROOT = Path(__file__).parent.parent
_PAGE = _ROOT / "docs" / "topics" / "laws.md"
_LAWS = _ROOT / "tests" / "laws"

_HEADING = re.compile(r"^## (\d+)\. ", re.MULTILINE)
_PROOF = re.compile(r"^Proved by \[(test_law_(\d\d)_\w+\.py)\]\((\S+)\)\.$", re.MULTILINE)
_NAMED = re.compile(r"\[`(test_\w+)`\]\(([^)]+)\)")


def _page() -> str:
    return _PAGE.read_text("utf-8")


def test_the_page_links_the_test_of_every_law_and_every_link_leads_to_one() -> None:
    linked = {name: (_PAGE.parent / target).resolve() for name, _, target in _PROOF.findall(_page())}
    assert linked == {path.name: path for path in _LAWS.glob("test_law_*.py")}


def test_each_law_names_its_own_test() -> None:
    for section in re.split(r"^(?=## )", _page(), flags=re.MULTILINE):
        if heading := _HEADING.match(section):
            number = int(heading[1])
            assert [int(proof) for _, proof, _ in _PROOF.findall(section)] == [number]


def test_the_laws_are_numbered_without_a_gap() -> None:
    numbers = [int(number) for number in _HEADING.findall(_page())]
    assert numbers == list(range(1, len(numbers) + 1))


def test_the_tests_that_the_page_names_are_there() -> None:
    for name, target in _NAMED.findall(_page()):
        assert re.search(rf"^(async )?def {name}\(", (_PAGE.parent / target).read_text("utf-8"), re.MULTILINE), name
