"""``admit=`` and ``authorize=`` as they are given: what they mean, and what is refused before anybody connects."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import aster
from aster._policy import Policy
from aster.trust import Identity
from aster.types import Peer
from tests.rpc.echo import Echo

_ID, _OTHER = (Identity.generate().endpoint_id for _ in range(2))
_PEER, _STRANGER = Peer(_ID, "192.0.2.1:1"), Peer(_OTHER)

_roles = st.text(min_size=1, max_size=5)


def _sync(answer: object) -> Callable[[Peer], Any]:
    return lambda peer: answer


def _async(answer: object) -> Callable[[Peer], Any]:
    async def give(peer: Peer) -> object:
        return answer

    return give


_FUNCTIONS = {"sync": _sync, "async": _async}
_BY = pytest.mark.parametrize("by", _FUNCTIONS.values(), ids=_FUNCTIONS)

pytestmark = pytest.mark.anyio


# Admission


async def test_everyone_is_admitted_and_holds_nothing_by_default() -> None:
    policy = Policy(None, None)
    assert await policy.admits(_PEER)
    assert await policy.capabilities_of(_PEER) == frozenset()


@pytest.mark.parametrize("admit", [[_ID], (_ID,), {_ID}, frozenset([_ID]), {_ID: 1}.keys()], ids=["list", "tuple", "set", "frozenset", "keys"])
async def test_a_list_admits_those_on_it(admit: Collection[str]) -> None:
    policy = Policy(admit, None)
    assert await policy.admits(_PEER)
    assert not await policy.admits(_STRANGER)


async def test_an_empty_list_admits_nobody() -> None:
    assert not await Policy([], None).admits(_PEER)


async def test_a_list_is_looked_at_each_time() -> None:
    admitted = {_ID}
    policy = Policy(admitted, None)
    assert await policy.admits(_PEER)
    admitted.remove(_ID)
    assert not await policy.admits(_PEER)


@_BY
@pytest.mark.parametrize("answer", [True, False])
async def test_a_function_decides(by: Any, answer: bool) -> None:
    assert await Policy(by(answer), None).admits(_PEER) is answer


async def test_a_function_is_given_the_peer_and_may_look_at_all_of_it() -> None:
    seen = list[Peer]()

    async def admit(peer: Peer) -> bool:
        seen.append(peer)
        return True

    await Policy(admit, None).admits(_PEER)
    assert seen == [_PEER]


@_BY
@pytest.mark.parametrize("answer", [None, 1, 0, "yes", "", [_ID], object()])
async def test_what_is_neither_true_nor_false_admits_nobody(by: Any, answer: object) -> None:
    with pytest.raises(TypeError, match="the function given as admit must return True or False, not"):
        await Policy(by(answer), None).admits(_PEER)


# What is granted


@given(roles=st.lists(_roles), more=st.lists(_roles))
async def test_a_mapping_grants_what_it_says_now(roles: list[str], more: list[str]) -> None:
    granted: dict[str, list[str]] = {_ID: roles}
    policy = Policy(None, granted)
    assert await policy.capabilities_of(_PEER) == frozenset(roles)
    assert await policy.capabilities_of(_STRANGER) == frozenset()
    granted[_ID] = more
    granted[_OTHER] = roles
    assert await policy.capabilities_of(_PEER) == frozenset(more)
    assert await policy.capabilities_of(_STRANGER) == frozenset(roles)


@_BY
@pytest.mark.parametrize(
    ("answer", "held"),
    [
        (None, set[str]()),
        ((), set[str]()),
        ("admin", {"admin"}),
        (["admin"], {"admin"}),
        ({"reader", "writer"}, {"reader", "writer"}),
        (["reader", "reader"], {"reader"}),
    ],
)
async def test_a_function_grants_what_it_returns_and_a_str_is_one_role(by: Any, answer: object, held: set[str]) -> None:
    assert await Policy(None, by(answer)).capabilities_of(_PEER) == held


async def test_a_function_may_return_an_iterator() -> None:
    assert await Policy(None, lambda peer: iter(["reader", "writer"])).capabilities_of(_PEER) == {"reader", "writer"}


@_BY
@pytest.mark.parametrize("answer", [1, True, b"admin", ["admin", 1], [None], [""], "", [["admin"]], {"admin": False}, {}, object()])
async def test_what_is_no_role_is_granted_to_nobody(by: Any, answer: object) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"authorize for {_ID} "):
        await Policy(None, by(answer)).capabilities_of(_PEER)


async def test_what_was_put_into_a_mapping_later_is_checked_too() -> None:
    granted: dict[str, Any] = {}
    policy = Policy(None, granted)
    granted[_ID] = 3
    with pytest.raises(TypeError, match="must give a role or a list of roles, not 3"):
        await policy.capabilities_of(_PEER)


@pytest.mark.parametrize("kind", ["admit", "authorize"])
async def test_what_a_function_raises_comes_out(kind: str) -> None:
    def fail(peer: Peer) -> Any:
        raise LookupError("no database")

    policy = Policy(**{"admit": None, "authorize": None, kind: fail})
    with pytest.raises(LookupError, match="no database"):
        await (policy.admits(_PEER) if kind == "admit" else policy.capabilities_of(_PEER))


# What is refused at once


@pytest.mark.parametrize(
    ("admit", "error", "says"),
    [
        (_ID, TypeError, r"a function of a Peer: write \[\.\.\.\] around a single id"),
        (_ID.encode(), TypeError, "around a single id"),
        ({_ID: "admin"}, TypeError, "not a mapping: roles go into authorize="),
        (True, TypeError, "admit takes a collection of endpoint ids, .*, not True"),
        (iter([_ID]), TypeError, "admit takes a collection of endpoint ids"),
        ([3], TypeError, "admit: an endpoint id must be a str, as client.endpoint_id is, not 3"),
        ([Identity.generate()], TypeError, r"admit: .* not Identity\("),
        ([_ID, "ab"], ValueError, "admit: the endpoint id 'ab' has 2 characters instead of 64 hex digits"),
        ([f"aster://{_ID}@localhost:1"], ValueError, "has 84 characters instead of 64 hex digits"),
        (["x" * 64], ValueError, "contains 'x', which is no hex digit"),
        ([_ID.upper()], ValueError, "has digits in upper case; write it in lower case"),
        (["02" + "00" * 31], ValueError, "it is not a point of the curve"),
    ],
)
def test_an_admission_that_could_admit_nobody_is_refused(admit: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        aster.serve([Echo()], admit=admit)


@pytest.mark.parametrize(
    ("authorize", "error", "says"),
    [
        ("admin", TypeError, "authorize takes a mapping of endpoint ids to roles, or a function of a Peer, not 'admin'"),
        ([_ID], TypeError, "authorize takes a mapping"),
        ({"ab": "admin"}, ValueError, "authorize: the endpoint id 'ab' has 2 characters"),
        ({_ID.upper(): "admin"}, ValueError, "authorize: .* upper case"),
        ({3: "admin"}, TypeError, "authorize: an endpoint id must be a str"),
        ({_ID: 3}, TypeError, f"authorize for {_ID} must give a role or a list of roles, not 3"),
        ({_ID: None}, TypeError, "not None"),
        ({_ID: {"admin": False}}, TypeError, "must give a role or a list of roles, not a mapping, all of whose keys would be granted: {'admin': False}"),
        ({_ID: iter(["admin"])}, TypeError, "must give a role or a list of roles"),
        ({_ID: ["admin", 3]}, TypeError, "must give roles as str, not 3"),
        ({_ID: [""]}, ValueError, "gives an empty role"),
        ({_ID: ""}, ValueError, "gives an empty role"),
    ],
)
def test_a_grant_that_makes_no_sense_is_refused(authorize: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        aster.serve([Echo()], authorize=authorize)
