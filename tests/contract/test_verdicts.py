"""The verdict on two versions of a service is what a real encode and decode between them shows, for random services and random edits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aster._contract import contract_differences, contract_of
from aster._contract.form import Contract
from aster.codec import Codec, auto_tag, wire_types
from aster.errors import DecodeError
from aster.types import MethodInfo, RpcPattern, SerializationMode, ServiceInfo
from tests.codec.helpers import decoded
from tests.codec.schemas import Schema, relatives, schemas, values_in
from tests.contract.changes import CHANGES, changes
from tests.contract.samples import same, samples
from tests.contract.worlds import FieldPlan, MethodPlan, World, edits, worlds

# A Fory is made in full for each side and mode, which takes milliseconds.
FEWER = settings(max_examples=max(50, settings().max_examples // 2))
pytestmark = pytest.mark.timeout(max(60, settings().max_examples))


def _arrives(value: Any, writer: Codec, reader: Codec, cls: type[Any]) -> bool:
    """Whether a value is read, and as what it was. (Another instant's zone and the sign of a zero Decimal are lost between equal versions, too.)"""
    sent = cast("type[Any]", type(value))
    data = writer.encoder(sent)(value)
    try:
        read = decoded(reader, cls, data)
    except DecodeError:
        return False
    return same(decoded(writer, sent, data), read)


def _directions(client: World, server: World) -> Iterator[tuple[str, str, bool]]:
    """Each method and direction that both have, and whether all samples arrive in all modes that both have."""
    for name, method in client.info.methods.items():
        other = server.info.methods.get(name)
        if other is None or other.pattern is not method.pattern:
            continue
        for direction, (writer, sent), (reader, read) in (
            ("request", (client, method.request_type), (server, other.request_type)),
            ("response", (server, other.response_type), (client, method.response_type)),
        ):
            modes = set(method.modes) & set(other.modes)
            arrive = all(_arrives(value, writer.codec(mode), reader.codec(mode), read) for mode in modes for value in samples(writer.hints, sent))
            yield name, direction, arrive


def _named(differences: list[str]) -> tuple[set[str], set[tuple[str, str]]]:
    """The methods that differ as such, and those whose messages do, with the direction."""
    whole, messages = set[str](), set[tuple[str, str]]()
    for difference in differences:
        found = re.match(r"([a-z, ]+) \((request|response)\): ", difference)
        if found:
            messages |= {(name, found[2]) for name in found[1].split(", ")}
        else:
            whole.add(difference.partition(":")[0])
    return whole, messages


def _check_methods(client: World, server: World, whole: set[str], counted: Counter[str]) -> None:
    for name, method in client.info.methods.items():
        other = server.info.methods.get(name)
        fits = other is not None and other.pattern is method.pattern and bool(set(method.modes) & set(other.modes))
        assert (name not in whole) is fits
        counted["method" if fits else "other method"] += 1


def _check_messages(client: World, server: World, messages: set[tuple[str, str]], counted: Counter[str]) -> None:
    for name, direction, arrive in _directions(client, server):
        if (name, direction) not in messages:
            assert arrive, (name, direction, client, server)
            counted["compatible"] += 1
        else:
            counted["unconfirmed" if arrive else "confirmed"] += 1


_versions = worlds().flatmap(lambda old: st.tuples(st.just(old), edits(old)))
"""A service, and its next version."""


def _small(b: str, **methods: MethodPlan) -> World:
    return World({}, {"Root": {"a": FieldPlan("int")}, "Item": {"b": FieldPlan(b)}}, {"asks": MethodPlan(), **methods})


def test_the_verdict_on_two_versions_is_what_their_codecs_do() -> None:
    counted = Counter[str]()

    @FEWER
    @given(versions=_versions)
    @example(versions=(_small("int", gives=MethodPlan(response="Item")), _small("str", gives=MethodPlan(response="Item"))))
    @example(versions=(_small("int"), _small("int", gives=MethodPlan())))
    def check(versions: tuple[World, World]) -> None:
        old, new = versions
        assert contract_differences(old.contract, old.contract) == []
        for client, server in ((old, new), (new, old)):
            differences = contract_differences(client.contract, server.contract)
            whole, messages = _named(differences)
            _check_methods(client, server, whole, counted)
            _check_messages(client, server, messages, counted)

    check()
    # For which there are the examples: what else is drawn is left to chance.
    assert min(counted[each] for each in ("method", "other method", "compatible", "confirmed")), counted
    # Some verdicts are stricter than the codec: an Enum's tag, say, does not travel where the Enum is declared.
    assert counted["unconfirmed"] * 4 < counted["confirmed"], counted


@pytest.mark.parametrize("kind", CHANGES)
def test_the_verdict_on_one_change_is_what_its_codecs_do(kind: str) -> None:
    counted = Counter[str]()

    @settings(max_examples=max(30, settings().max_examples * (4 if kind == "type" else 1) // 2))
    @given(versions=changes(kind))
    def check(versions: tuple[World, World]) -> None:
        for client, server in (versions, reversed(versions)):
            _, messages = _named(contract_differences(client.contract, server.contract))
            _check_messages(client, server, messages, counted)

    check()
    # To have a default or none is never a difference, since it is sent all the same.
    assert bool(counted["confirmed"]) is (kind != "default"), counted
    assert counted["compatible"], counted
    assert counted["unconfirmed"] * 4 <= counted["confirmed"], counted


_MODES = st.sampled_from(
    [
        (SerializationMode.XLANG,),
        (SerializationMode.NATIVE,),
        (SerializationMode.XLANG, SerializationMode.NATIVE),
        (SerializationMode.NATIVE, SerializationMode.XLANG),
        (SerializationMode.ROW,),
        (SerializationMode.ROW, SerializationMode.XLANG),
    ]
)
_METHODS = st.builds(MethodPlan, st.sampled_from(RpcPattern), _MODES)


def test_the_verdict_on_a_method_says_what_is_missing_or_different_about_it() -> None:
    counted = Counter[str]()

    @given(mine=_METHODS, others=st.none() | _METHODS)
    @example(mine=MethodPlan(), others=None)
    @example(mine=MethodPlan(), others=MethodPlan(RpcPattern.BIDI_STREAM))
    @example(mine=MethodPlan(modes=(SerializationMode.XLANG,)), others=MethodPlan(modes=(SerializationMode.NATIVE,)))
    @example(mine=MethodPlan(), others=MethodPlan())
    def check(mine: MethodPlan, others: MethodPlan | None) -> None:
        def of(plan: MethodPlan | None) -> Contract:
            methods = {"stays": MethodPlan()} | ({} if plan is None else {"edited": plan})
            return World({}, {"Root": {"a": FieldPlan("int")}}, methods).contract

        if others is None:
            expected, kind = ["edited: the server has no such method"], "missing"
        elif mine.pattern is not others.pattern:
            expected, kind = [f"edited: it is {mine.pattern.name} at the client and {others.pattern.name} at the server"], "pattern"
        elif not set(mine.modes) & set(others.modes):
            theirs, ours = (" and ".join(mode.name for mode in SerializationMode if mode in plan.modes) for plan in (mine, others))
            expected, kind = [f"edited: the client has the modes {theirs}, and the server {ours}; give them one in common by serialization="], "modes"
        else:
            expected, kind = [], "fits"
        assert contract_differences(of(mine), of(others)) == expected
        counted[kind] += 1

    check()
    assert min(counted[kind] for kind in ("missing", "pattern", "modes", "fits")), counted


def _contract(schema: Schema, mode: SerializationMode) -> Contract:
    tags = {cls: f"random/{name}" for name, cls in schema.classes.items()}
    named = {cls: tags.get(cls) or auto_tag(cls) for cls in wire_types(tags)}
    return contract_of(ServiceInfo("Service", methods={"ask": MethodInfo("ask", RpcPattern.UNARY, schema.root, schema.root, modes=(mode,))}, wire_tags=named))


@pytest.mark.parametrize("mode", SerializationMode, ids=lambda mode: mode.name)
def test_what_is_compatible_arrives_whatever_types_are_drawn(mode: SerializationMode) -> None:
    """The codec's own schemas: fewer kinds of edits, and more kinds of types, such as keys that are dataclasses."""
    counted = Counter[str]()

    @FEWER
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        one = data.draw(schemas())
        other = data.draw(relatives(one))
        for writer, reader in ((one, other), (other, one)):
            differences = contract_differences(_contract(writer, mode), _contract(reader, mode))
            compatible = not any("(request)" in difference for difference in differences)
            codecs = writer.codec(mode), reader.codec(mode)
            arrive = all(_arrives(value, *codecs, reader.root) for value in data.draw(st.lists(values_in(writer), min_size=1, max_size=4)))
            assert arrive or not compatible
            counted["compatible" if compatible else "unconfirmed" if arrive else "confirmed"] += 1

    check()
    assert counted["compatible"], counted
    assert counted["unconfirmed"] * 4 < counted["confirmed"], counted
