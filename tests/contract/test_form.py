"""The canonical form: the same for equal contracts however they were written, another for others, and nothing else is taken for one."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, make_dataclass, replace
from typing import Annotated, Any, Final, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aster
from aster import MethodInfo, RpcPattern, ServiceInfo, rpc, server_stream, service, wire_type
from aster._contract import CONTRACT_LIMIT, Contract, MalformedContractError, contract_differences, contract_of, decode_form, encode_form, id_of, summary
from aster._contract.form import MAX_FORM_DEPTH, Struct
from aster.codec import auto_tag, wire_types
from aster.decorators import service_info
from tests.codec.schemas import Schema, schemas
from tests.contract.golden import FOLDER, as_recorded
from tests.contract.services import GOLDEN, Shapes
from tests.contract.worlds import World, edits, worlds
from tests.protocol.vectors import CONTRACT


@pytest.mark.parametrize("name", GOLDEN)
def test_a_contract_is_the_one_on_record(name: str) -> None:
    """When this is meant to change: ``python -m tests.contract``. A change of what stays the same breaks the ids of all services there are."""
    assert (FOLDER / f"{name}.json").read_text(encoding="utf-8") == as_recorded(GOLDEN[name])


def test_the_id_on_the_page_is_that_of_its_vector() -> None:
    page = (FOLDER.parents[2] / "docs" / "wire.md").read_text(encoding="utf-8")
    assert f"has the id `{id_of(CONTRACT).hex()}`" in page
    assert encode_form(decode_form(CONTRACT)) == CONTRACT


def test_a_contract_id_is_64_hex_digits_of_the_class_or_an_instance() -> None:
    assert aster.contract_id(Shapes) == aster.contract_id(Shapes()) == json.loads(as_recorded(Shapes))["id"]
    with pytest.raises(TypeError, match="is not a service"):
        aster.contract_id(int)


# The same, and not the same


def _shuffled(world: World) -> World:
    def reverse(mapping: Any) -> Any:
        return dict(reversed(mapping.items()))

    structs = reverse({name: reverse(fields) for name, fields in world.structs.items()})
    return replace(world, enums=reverse(world.enums), structs=structs, methods=reverse(world.methods))


@settings(max_examples=30)
@given(data=st.data())
def test_no_order_of_definition_matters_but_that_of_an_enums_members(data: st.DataObject) -> None:
    world = data.draw(worlds())
    assert encode_form(world.contract) == encode_form(_shuffled(world).contract)
    assert decode_form(encode_form(world.contract)) == world.contract


@settings(max_examples=30)
@given(data=st.data())
def test_two_versions_have_one_form_only_if_their_contracts_are_equal(data: st.DataObject) -> None:
    one = data.draw(worlds())
    other = data.draw(edits(one))
    assert (encode_form(one.contract) == encode_form(other.contract)) is (one.contract == other.contract)


class One:
    @wire_type("form/Question")
    @dataclass
    class Question:
        """What is asked."""

        number: int = 1

    @wire_type("form/Answer")
    @dataclass
    class Answer:
        text: str | None
        by: Annotated[frozenset[int], "who"] = frozenset()

    @service("Form", version=2)
    class Service:
        """The service."""

        @rpc(timeout=1.0, requires=aster.CapabilityRequirement("role", ("reader",)))
        async def ask(self, req: One.Question) -> One.Answer:
            return One.Answer("")

        @server_stream
        async def watch(self, req: One.Question) -> AsyncIterator[One.Answer]:
            yield One.Answer("")


class Two:
    @wire_type("form/Answer")
    @dataclass(frozen=True)
    class Reply:
        by: set[int]
        text: Optional[str] = "none"  # noqa: UP045  # the old spelling

    @wire_type("form/Question")
    @dataclass(slots=True)
    class Ask:
        number: Final[int] = 2

    @service(name="Form", version=2)
    class Renamed:
        @server_stream(timeout=3.0)
        async def watch(self, req: Two.Ask) -> AsyncIterator[Two.Reply]:
            yield Two.Reply(set())

        @rpc(idempotent=True)
        async def ask(self, req: Two.Ask) -> Two.Reply:
            return Two.Reply(set())


def test_names_of_classes_timeouts_requirements_docstrings_and_values_of_defaults_do_not_matter() -> None:
    one, two = contract_of(service_info(One.Service)), contract_of(service_info(Two.Renamed))
    assert one != two  # since one of the answers has no default for ``by``
    assert contract_differences(one, one) == contract_differences(two, one) == []
    types = dict(two.types)
    answer = types["form.Answer"]
    assert isinstance(answer, Struct)
    types["form.Answer"] = replace(answer, fields={**answer.fields, "by": replace(answer.fields["by"], default=True)})
    assert encode_form(one) == encode_form(replace(two, types=types))


@settings(max_examples=20)
@given(schema=schemas())
def test_a_form_of_any_types_is_read_again(schema: Schema) -> None:
    contract = _contract_of(schema.root, {cls: f"random/{name}" for name, cls in schema.classes.items()})
    assert decode_form(encode_form(contract)) == contract


def _contract_of(cls: type[Any], tags: Mapping[type, str]) -> Contract:
    """That of a service with one method, which sends and answers instances of a class."""
    named = {each: tags.get(each) or auto_tag(each) for each in wire_types(tags)}
    return contract_of(ServiceInfo("Large", methods={"ask": MethodInfo("ask", RpcPattern.UNARY, cls, cls)}, wire_tags=named))


# What is no canonical form


_GOOD: dict[str, Any] = json.loads(CONTRACT)


def _form(**changes: Any) -> bytes:
    return json.dumps(_GOOD | changes, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def _with_type(form: Any) -> bytes:
    return _form(types=[*_GOOD["types"][:1], {"fields": [{"default": False, "name": "id", "type": form}], "name": "demo.Task"}])


def _nested(depth: int) -> Any:
    form: Any = "int"
    for _ in range(depth - 1):
        form = ["list", form]
    return form


@pytest.mark.parametrize(
    "form",
    [
        b"",
        b"\xff",
        b"[" * 100_000,
        b'{"aster":' + b"9" * 10_000 + b"}",
        b"[]",
        CONTRACT + b" ",
        CONTRACT.replace(b'"scope":"shared"', b'"scope": "shared"'),
        CONTRACT.replace(b'"version":1', b'"version":1.0'),
        CONTRACT.replace(b'"version":1', b'"version":1,"version":1'),
        CONTRACT.replace(b"LOW", b"\\ud800"),
        CONTRACT.replace(b"LOW", b"\\u0041"),
        _form(aster=2),
        _form(scope="session"),
        _form(version=-1),
        _form(version=True),
        _form(version=2**53),
        _form(more=1),
        _form(methods={}),
        _form(methods=[*_GOOD["methods"], *_GOOD["methods"]]),
        _form(methods=[_GOOD["methods"][0] | {"pattern": "MANY"}]),
        _form(methods=[_GOOD["methods"][0] | {"modes": ["ARROW"]}]),
        _form(methods=[_GOOD["methods"][0] | {"request": "demo.Missing"}]),
        _form(methods=[_GOOD["methods"][0] | {"request": "demo.Level"}]),
        _form(types=list(reversed(_GOOD["types"]))),
        _form(types=[{"name": "demo.Task"}]),
        _form(types=[{"name": "demo.Task", "members": [["A"]]}]),
        _form(types=[{"name": "demo.Task", "fields": [{"default": 1, "name": "id", "type": "int"}]}]),
        *map(
            _with_type,
            [
                "complex",
                3,
                [],
                ["list"],
                ["list", "int", "int"],
                ["dict", "int"],
                ["type", 3],
                ["type", "demo.Missing"],
                ["union", "int"],
                ["union", "str", "int"],
                ["union", "int", "int"],
                ["union", "int", ["optional", "str"]],
                ["union", "int", ["union", "bool", "str"]],
                ["optional", ["optional", "int"]],
                ["literal", "int", "2", "1"],
                ["literal", "int", "1", "1"],
                ["literal", "int"],
                ["literal", "float", "1"],
                ["literal", "int", 1],
                ["literal", "bool", "true"],
                ["literal", ["list", "int"], "1"],
                _nested(MAX_FORM_DEPTH + 1),
            ],
        ),
    ],
)
def test_what_is_no_canonical_form_is_refused(form: bytes) -> None:
    with pytest.raises(MalformedContractError):
        decode_form(form)


def test_a_form_at_the_bounds_is_read_and_one_above_is_refused() -> None:
    assert decode_form(_with_type(_nested(MAX_FORM_DEPTH)))
    room = CONTRACT_LIMIT - len(_with_type(["literal", "str", ""]))
    assert decode_form(_with_type(["literal", "str", "s" * room]))
    with pytest.raises(MalformedContractError, match="above the limit"):
        decode_form(_with_type(["literal", "str", "s" * (room + 1)]))
    assert decode_form(_form(service="s" * 1024))
    with pytest.raises(MalformedContractError, match="a text of at most 1024 characters"):
        decode_form(_form(service="s" * 1025))


def test_a_peers_words_in_differences_are_cut_and_made_printable() -> None:
    assert summary(["a\nb\x1b[0m\u202ec\N{SNOWMAN}", "x" * 10_000]) == "\n- a\\nb\\x1b[0m\\u202ec\N{SNOWMAN}\n- " + "x" * 500 + "..."


def test_mutated_forms_are_contracts_or_refused() -> None:
    outcomes = {True: 0, False: 0}
    chance = random.Random(1)
    for _ in range(3000):
        form = bytearray(CONTRACT)
        for _ in range(chance.randint(1, 3)):
            place = chance.randrange(len(form))
            form[place : place + chance.randint(0, 2)] = bytes(chance.choices(b'[]{},:"0aeT', k=chance.randint(0, 2)))
        try:
            contract = decode_form(bytes(form))
        except MalformedContractError:
            outcomes[False] += 1
        else:
            assert encode_form(contract) == form
            outcomes[True] += 1
    assert all(outcomes.values()), outcomes


def test_a_contract_that_is_too_large_or_too_deep_is_refused_by_the_services_name() -> None:
    deep: Any = int
    for _ in range(MAX_FORM_DEPTH):
        deep = list[deep]
    nested: type[Any] = make_dataclass("Deep", [("rows", deep)])
    with pytest.raises(ValueError, match=r"the contract of service 'Large' has a field with 33 types inside each other; the limit is 32: make dataclasses"):
        encode_form(_contract_of(nested, {nested: "form/Deep"}))
    base = make_dataclass("Base", [(f"field_{'x' * 80}_{place}", int) for place in range(100)])
    parts: list[type[Any]] = [make_dataclass(f"Part{place}", [("own", int)], bases=(base,)) for place in range(25)]
    wide: type[Any] = make_dataclass("Wide", [(part.__name__, part) for part in parts])
    with pytest.raises(ValueError, match=r"the contract of service 'Large' takes \d+ bytes; the limit is 262144 bytes: make several of it"):
        encode_form(_contract_of(wide, {cls: f"form/{cls.__name__}" for cls in (wide, *parts)}))
