"""How annotations are resolved, and what is said about types without tags."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from aster.codec import wire_type
from aster.decorators import bidi_stream, check_implementation, rpc, server_stream, service, service_info
from aster.errors import AutoTagWarning
from aster.types import SerializationMode
from tests.decorators.messages import Answer, Ask


@service
class Early:
    """Decorated before its messages exist."""

    @rpc
    async def find(self, ask: Late) -> Later: ...


@wire_type("tests.decorators/Late")
@dataclass
class Late:
    later: list[Later]


@wire_type("tests.decorators/Later")
@dataclass
class Later:
    text: str = ""


def test_names_defined_further_down_the_module_are_found_at_the_first_use() -> None:
    info = service_info(Early)
    assert (info.methods["find"].request_type, info.methods["find"].response_type) == (Late, Later)
    assert info is service_info(Early)
    check_implementation(Early())


def test_classes_of_a_function_are_found() -> None:
    @wire_type("tests.decorators/Local")
    @dataclass
    class Local:
        text: str = ""

    @wire_type("tests.decorators/Outer")
    @dataclass
    class Outer:
        inner: list[Local]

    @service
    class Shop:
        @bidi_stream
        async def copy(self, items: AsyncIterator[Outer]) -> AsyncIterator[Local]:
            yield Local()

    info = service_info(Shop)
    assert (info.methods["copy"].request_type, info.methods["copy"].response_type) == (Outer, Local)
    assert set(info.wire_tags) == {Outer, Local}


def _late_locals() -> tuple[type, weakref.ref[Any]]:
    class Witness:
        pass

    witness = Witness()

    @service("Shop")
    class Shop:
        @rpc
        async def find(self, ask: LocalLater) -> Answer: ...

    @wire_type("tests.decorators/LocalLater")
    @dataclass
    class LocalLater:
        text: str = ""

    return Shop, weakref.ref(witness)


def test_classes_defined_further_down_a_function_are_found_after_it_has_returned() -> None:
    cls, witness = _late_locals()
    assert service_info(cls).methods["find"].request_type.__name__ == "LocalLater"
    gc.collect()  # a frame and its locals are a cycle; that they are let go after the first use is the subject
    assert witness() is None


def test_a_message_may_stand_in_the_body_of_its_service() -> None:
    @service
    class Shop:
        @wire_type("tests.decorators/ShopAsk")
        @dataclass
        class Ask:
            text: str = ""

        @rpc
        async def find(self, ask: Ask) -> Shop.Ask: ...

    assert service_info(Shop).methods["find"].request_type is service_info(Shop).methods["find"].response_type is Shop.Ask


def test_a_method_may_have_the_name_of_a_builtin_that_messages_are_annotated_with() -> None:
    @wire_type("tests.decorators/Leaf")
    @dataclass
    class Leaf:
        text: str = ""

    @wire_type("tests.decorators/Page")
    @dataclass
    class Page:
        leaves: list[Leaf]
        names: dict[str, int]

    @service
    class Book:
        dict = 3

        @rpc
        async def list(self, ask: Ask) -> Page: ...

    assert service_info(Book).methods["list"].response_type is Page
    assert set(service_info(Book).wire_tags) == {Ask, Page, Leaf}


def test_annotations_may_use_an_alias_in_the_body_of_the_service() -> None:
    @service
    class Shop:
        Asks = AsyncIterator[Ask]

        @bidi_stream
        async def copy(self, items: Asks) -> AsyncIterator[Answer]:
            yield Answer()

    assert service_info(Shop).methods["copy"].request_type is Ask


def test_annotations_that_are_no_messages_may_name_what_does_not_exist() -> None:
    async def find(self: Any, ask: Ask, *, deep: Any = None) -> Answer: ...

    find.__annotations__["deep"] = find.__annotations__["self"] = "Only Type Checkers"
    assert service_info(service(type("Shop", (), {"find": rpc(find)}))).methods["find"].request_type is Ask


def test_a_service_may_be_made_without_future_annotations() -> None:
    names: dict[str, Any] = {"__name__": __name__, "service": service, "rpc": rpc, "Ask": Ask, "Answer": Answer}
    source = "@service\nclass Shop:\n    @rpc\n    async def find(self, ask: Ask) -> 'Answer': ..."
    exec(compile(source, "shop.py", "exec", dont_inherit=True), names)
    assert service_info(names["Shop"]).methods["find"].response_type is Answer


def _untagged() -> type:
    @dataclass
    class Untagged:
        text: str = ""

    return Untagged


def _serve(cls: Any, **options: Any) -> Any:
    async def find(self: object, ask: Any) -> Any: ...

    find.__annotations__.update({"ask": cls, "return": Answer})
    return service("Shop", **options)(type("Shop", (), {"find": rpc(find)}))


def test_a_type_without_a_tag_is_warned_of_at_the_line_of_the_service() -> None:
    @dataclass
    class Plain:
        text: str = ""

    with pytest.warns(AutoTagWarning) as caught:

        @service
        class Shop:
            @rpc
            async def find(self, ask: Plain) -> Answer: ...

    (warning,) = caught
    line = Path(__file__).read_text(encoding="utf-8").splitlines()[warning.lineno - 1]
    assert (warning.filename, line) == (__file__, "        @service")
    assert warning.lineno == Shop.find.function.__code__.co_firstlineno - 2
    assert service_info(Shop).wire_tags[Plain] == f"{__name__}.Plain"
    message = str(warning.message)
    assert [part for part in [f"{Plain.__module__}.{Plain.__qualname__} ", f'@wire_type("{__name__}/Plain")', "@dataclass"] if part not in message] == [], (
        message
    )


def test_the_warning_suggests_a_tag_that_is_accepted_and_where_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mood(Enum):
        GOOD = 1

    plain = _untagged()
    plain.__annotations__["text"] = Mood
    for cls in (plain, Mood):
        monkeypatch.setattr(cls, "__module__", "my-app")
    with pytest.warns(AutoTagWarning) as caught:
        _serve(plain)
    assert [str(warning.message).partition("; ")[2] for warning in caught] == [
        'write @wire_type("my_app/Untagged") above its @dataclass',
        'write @wire_type("my_app/Mood") above the class',
    ]


def test_a_derived_tag_that_no_receiver_could_read_is_refused_at_the_decorator() -> None:
    plain = _untagged()
    plain.__module__ = "package." * 10 + "module"
    with pytest.raises(ValueError, match=r"Shop: the wire tag 'package\..* is too long: .*; give it one such as @wire_type"):
        _serve(plain, serialization=SerializationMode.NATIVE)


def test_a_type_is_warned_of_once_however_many_services_it_is_in() -> None:
    plain = _untagged()
    with pytest.warns(AutoTagWarning) as caught:
        _serve(plain)
    assert len(caught) == 1
    _serve(plain, version=2)  # would raise, since warnings are errors
    with pytest.warns(AutoTagWarning):
        _serve(_untagged())


def test_a_warning_that_is_an_error_is_raised_again_until_it_is_mended() -> None:
    plain = _untagged()
    for _ in range(2):
        with pytest.raises(AutoTagWarning):
            _serve(plain)


def test_a_type_inside_a_message_is_warned_of_too() -> None:
    @dataclass
    class Inner:
        text: str = ""

    @wire_type("tests.decorators/Around")
    @dataclass
    class Around:
        inner: Inner | None = None

    with pytest.warns(AutoTagWarning, match="Inner") as caught:

        @service
        class Shop:
            @server_stream
            async def find(self, ask: Around) -> AsyncIterator[Around]:
                yield Around()

    assert len(caught) == 1
    assert service_info(Shop).wire_tags[Inner] == f"{__name__}.Inner"


def test_a_service_that_speaks_native_alone_needs_no_tags() -> None:
    plain = _untagged()
    assert service_info(_serve(plain, serialization=SerializationMode.NATIVE)).wire_tags[plain] == f"{__name__}.Untagged"


@pytest.mark.parametrize("modes", [[SerializationMode.NATIVE, SerializationMode.XLANG], SerializationMode.ROW])
def test_a_service_that_speaks_native_among_others_needs_tags(modes: Any) -> None:
    with pytest.warns(AutoTagWarning):
        _serve(_untagged(), serialization=modes)


def test_a_method_that_speaks_native_alone_needs_no_tags_in_any_service() -> None:
    plain = _untagged()

    async def find(self: object, ask: Any) -> Any: ...

    find.__annotations__.update({"ask": plain, "return": plain})
    cls = service(type("Shop", (), {"find": rpc(serialization=SerializationMode.NATIVE)(find)}))
    assert set(service_info(cls).wire_tags) == {plain}


def test_two_untagged_types_of_one_name_are_told_apart_by_tags_only() -> None:
    first, second = _untagged(), _untagged()

    async def find(self: object, ask: Any) -> Any: ...

    find.__annotations__.update({"ask": first, "return": second})
    with pytest.raises(ValueError, match=r"have one tag.*@wire_type"):
        service(serialization=SerializationMode.NATIVE)(type("Shop", (), {"find": rpc(find)}))


def test_a_warning_about_a_late_type_points_to_the_service_all_the_same() -> None:
    names: dict[str, Any] = {"__name__": __name__, "service": service, "rpc": rpc, "Answer": Answer}
    source = "\n\n@service\nclass Shop:\n    @rpc\n    async def find(self, ask: 'Coming') -> Answer: ..."
    exec(compile(source, "late_shop.py", "exec", dont_inherit=True), names)
    names["Coming"] = _untagged()
    with pytest.warns(AutoTagWarning) as caught:
        service_info(names["Shop"])
    assert [(warning.filename, warning.lineno) for warning in caught] == [("late_shop.py", 3)]
