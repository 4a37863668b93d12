"""What a requirement asks, and when it is met."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import aster
import aster.types
from aster.types import CapabilityRequirement, all_of, any_of, role

_names = st.text(min_size=1, max_size=8)
_lists = st.lists(_names, min_size=1, max_size=4)


class Role(StrEnum):
    ADMIN = "admin"


def test_the_three_kinds_are_made_by_name() -> None:
    assert role("admin") == CapabilityRequirement("role", ("admin",))
    assert any_of("admin", "auditor") == CapabilityRequirement("any_of", ("admin", "auditor"))
    assert all_of("reader", "writer") == CapabilityRequirement("all_of", ("reader", "writer"))
    assert (aster.role, aster.any_of, aster.all_of) == (aster.types.role, aster.types.any_of, aster.types.all_of)


@given(name=_names, held=st.frozensets(_names))
def test_a_role_is_met_by_who_holds_it(name: str, held: frozenset[str]) -> None:
    assert role(name).is_met_by(held) == ({name} <= held)
    assert role(name).is_met_by(held | {name})


@given(names=_lists, held=st.frozensets(_names), some=st.sets(st.integers(0, 3)))
def test_any_of_several_is_met_by_who_holds_one_and_all_of_them_by_who_holds_each(names: list[str], held: frozenset[str], some: set[int]) -> None:
    held |= {names[index] for index in some if index < len(names)}
    assert any_of(*names).is_met_by(held) == bool(set(names) & held)
    assert all_of(*names).is_met_by(held) == (set(names) <= held)


@given(names=_lists)
def test_who_holds_nothing_meets_no_requirement(names: list[str]) -> None:
    assert not any(requirement.is_met_by(()) for requirement in (role(names[0]), any_of(*names), all_of(*names)))


def test_upper_and_lower_case_differ() -> None:
    assert not role("admin").is_met_by({"Admin"})


def test_a_requirement_reads_well_in_a_message() -> None:
    assert str(role("admin")) == "the role 'admin'"
    assert str(any_of("admin", "auditor")) == "one of the roles 'admin', 'auditor'"
    assert str(all_of("reader", "writer")) == "all of the roles 'reader', 'writer'"


def test_a_member_of_an_enum_of_strings_is_the_role_of_its_value() -> None:
    assert role(Role.ADMIN).is_met_by({"admin"})
    assert role("admin").is_met_by({Role.ADMIN})
    assert str(role(Role.ADMIN)) == "the role 'admin'"


@pytest.mark.parametrize("make", [role, any_of, all_of])
@pytest.mark.parametrize(("name", "error"), [("", ValueError), (3, TypeError), (["admin"], TypeError), (role("admin"), TypeError), (None, TypeError)])
def test_a_role_without_a_name_is_refused(make: Any, name: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="role"):
        make(name)


@pytest.mark.parametrize("make", [any_of, all_of])
def test_several_roles_are_one_at_the_least(make: Any) -> None:
    with pytest.raises(ValueError, match="needs at least one role"):
        make()
