"""What a service declares for the details of its errors: ``errors=``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from aster.codec import wire_type
from aster.decorators import check_implementation, rpc, service, service_info
from aster.errors import AutoTagWarning
from aster.types import SerializationMode
from tests.decorators.messages import Answer, Ask, Basket, Item


@wire_type("tests.decorators/Quota")
@dataclass
class Quota:
    limit: int = 0


@service(errors=[Quota])
class Early:
    """Decorated before a type in what it declares exists, and before one of its messages does."""

    @rpc
    async def find(self, ask: Late) -> Answer: ...


@wire_type("tests.decorators/Ahead")
@dataclass
class Ahead:
    coming: Coming | None = None


@service(errors=[Ahead])
class EarlyErrors:
    @rpc
    async def find(self, ask: Ask) -> Answer: ...


@wire_type("tests.decorators/Coming")
@dataclass
class Coming:
    text: str = ""


@wire_type("tests.decorators/LateAsk")
@dataclass
class Late:
    text: str = ""


def _shop(**options: Any) -> type:
    @service("Shop", **options)
    class Shop:
        @rpc
        async def find(self, ask: Ask) -> Answer: ...

    return Shop


def test_a_service_declares_no_errors_unless_it_says_so() -> None:
    assert service_info(_shop()).errors == ()


def test_declared_errors_are_described_and_all_that_they_reach_has_its_tag() -> None:
    info = service_info(_shop(errors=[Quota, Basket]))
    assert info.errors == (Quota, Basket)
    assert info.wire_tags == {cls: f"tests.decorators/{cls.__name__}" for cls in (Ask, Answer, Quota, Basket, Item)}


def test_a_message_may_be_declared_as_an_error_as_well() -> None:
    info = service_info(_shop(errors=(Answer, Quota, Answer)))
    assert info.errors == (Answer, Quota)
    assert set(info.wire_tags) == {Ask, Answer, Quota}


def test_the_errors_of_the_services_that_a_service_inherits_from_come_with_their_handlers() -> None:
    base: Any = _shop(errors=[Quota])

    @service("Shop", version=2, errors=[Basket])
    class Second(base): ...

    @service("Shop", version=3, errors=[Quota, Item])
    class Third(Second): ...

    assert service_info(Second).errors == (Basket, Quota)
    assert service_info(Third).errors == (Quota, Item, Basket)


@pytest.mark.parametrize(("cls", "types"), [(Early, {Late, Answer, Quota}), (EarlyErrors, {Ask, Answer, Ahead, Coming})])
def test_types_that_come_further_down_the_module_are_found_at_the_first_use(cls: type, types: set[type]) -> None:
    check_implementation(cls())
    assert set(service_info(cls).wire_tags) == types


def test_a_declared_error_may_use_the_classes_of_its_function() -> None:
    @wire_type("tests.decorators/LocalPart")
    @dataclass
    class Part:
        text: str = ""

    @wire_type("tests.decorators/LocalWhole")
    @dataclass
    class Whole:
        parts: list[Part]

    @service(errors=[Whole])
    class Local:
        @rpc
        async def find(self, ask: Ask) -> Answer: ...

    assert set(service_info(Local).wire_tags) == {Ask, Answer, Whole, Part}


def _untagged() -> type[Any]:
    @dataclass
    class Plain:
        text: str = ""

    return Plain


@pytest.mark.parametrize("modes", [SerializationMode.XLANG, [SerializationMode.NATIVE, SerializationMode.XLANG]])
def test_a_declared_error_without_a_tag_is_warned_of_as_a_message_is(modes: Any) -> None:
    plain = _untagged()
    with pytest.warns(AutoTagWarning, match="Plain") as caught:
        cls = _shop(errors=[plain], serialization=modes)
    assert len(caught) == 1
    assert service_info(cls).wire_tags[plain] == f"{__name__}.Plain"


def test_a_service_that_speaks_native_alone_needs_no_tags_for_its_errors() -> None:
    plain = _untagged()
    assert service_info(_shop(errors=[plain], serialization=SerializationMode.NATIVE)).wire_tags[plain] == f"{__name__}.Plain"


def test_a_declared_error_whose_tag_a_message_has_is_refused() -> None:
    @wire_type("tests.decorators/Ask")
    @dataclass
    class Other:
        text: str = ""

    with pytest.raises(ValueError, match=r"Shop: .*Ask and .*Other have one tag, 'tests.decorators/Ask'"):
        _shop(errors=[Other])
