"""Wire tags: their form, their owners, and the automatic ones."""

from __future__ import annotations

import enum
import keyword
import sys
from dataclasses import dataclass, make_dataclass
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aster.codec import auto_tag, make_codec, tags, wire_tag, wire_type
from aster.types import SerializationMode
from tests.codec.models import MODES, TaskRequest


@dataclass
class Plain:
    pass


class Mood(enum.Enum):
    GOOD = 1


_identifiers = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)


@given(namespace=st.lists(_identifiers, min_size=1, max_size=4).map(".".join), name=_identifiers)
def test_a_well_formed_tag_is_kept(namespace: str, name: str) -> None:
    @dataclass
    class Fresh:
        pass

    if namespace.split(".")[0] == "_aster":
        return
    assert wire_type(f"{namespace}/{name}")(Fresh) is Fresh
    assert wire_tag(Fresh) == f"{namespace}/{name}"


@pytest.mark.parametrize("tag", ["", "/", "Task", "myapp/", "/Task", "a/b/c", "a/b.c", "a..b/c", ".a/b", "my-app/Task", "my app/Task", "é/Task", "1a/b", "a/1"])
def test_a_malformed_tag_is_refused_with_the_form(tag: str) -> None:
    with pytest.raises(ValueError, match="of Plain is malformed: it must be of the form 'namespace/TypeName'") as caught:
        wire_type(tag)(Plain)
    assert repr(tag) in str(caught.value)


@pytest.mark.parametrize("tag", ["n" * 81 + "/Task", "myapp/" + "T" * 81])
def test_a_tag_too_long_for_every_receiver_is_refused_with_the_form(tag: str) -> None:
    with pytest.raises(ValueError, match=r"of Plain is malformed: .* 80 characters at most on each side"):
        wire_type(tag)(Plain)
    with pytest.raises(ValueError, match=r"of tests\.codec\.test_tags\.Plain is too long: .*; give it one such as .*tests\.codec\.test_tags/Plain"):
        make_codec(SerializationMode.NATIVE, {Plain: tag})


_awkward_names = st.sampled_from(["A", "Id", "Name", "Url_1", "URL", "N" * 80, "n" * 80, "N" + "n" * 79, "_1" * 40, "Nn" * 40, "Nnnnnnn" * 11])


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@settings(max_examples=60)
@given(
    namespace=_awkward_names | st.lists(_identifiers, min_size=1, max_size=3).map(".".join),
    name=_awkward_names | _identifiers,
    field=_awkward_names | _identifiers.filter(lambda field: not keyword.iskeyword(field)),
)
def test_every_tag_and_field_name_that_is_accepted_travels(mode: SerializationMode, namespace: str, name: str, field: str) -> None:
    cls = make_dataclass("Fresh", [(field, str)])
    codec = make_codec(mode, {cls: f"{namespace}/{name}"})
    assert codec.decoder(cls)(codec.encoder(cls)(cls("a"))) == cls("a")


def test_what_fory_cannot_read_again_is_refused_when_the_codec_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tags, "MAX_PART", 1000)
    with pytest.raises(TypeError, match=r"Fory cannot send Plain \(.*\): Invalid TypeDef metadata size"):
        make_codec(SerializationMode.XLANG, {Plain: "n" * 200 + "/Plain"})


@pytest.mark.parametrize("tag", ["_aster/Task", "_aster.inner/Task"])
def test_asters_own_namespace_is_reserved(tag: str) -> None:
    with pytest.raises(ValueError, match="of Plain is reserved"):
        wire_type(tag)(Plain)


@pytest.mark.parametrize("tag", [None, 5, b"a/B"])
def test_a_tag_that_is_no_string_is_refused(tag: Any) -> None:
    with pytest.raises(TypeError, match="a wire tag must be a str"):
        wire_type(tag)


def test_the_decorator_without_a_tag_says_how_to_write_it() -> None:
    with pytest.raises(TypeError, match=r"write @wire_type\('namespace/Plain'\) above Plain"):
        wire_type(cast(Any, Plain))


def test_the_decorator_below_dataclass_says_to_put_it_above() -> None:
    class Undecorated:
        pass

    @dataclass
    class Parent:
        pass

    class Child(Parent):
        pass

    for cls in (Undecorated, Child):
        with pytest.raises(TypeError, match=r"put @wire_type\('myapp/Task'\) above @dataclass"):
            wire_type("myapp/Task")(cls)
    with pytest.raises(TypeError, match="is for dataclasses and Enum classes"):
        wire_type("myapp/Task")(cast(Any, print))


def test_a_tag_is_not_inherited() -> None:
    @dataclass
    class Child(TaskRequest):
        pass

    assert wire_tag(TaskRequest) == "tests.codec/TaskRequest"
    assert wire_tag(Child) is None


def test_an_enum_takes_a_tag() -> None:
    assert wire_tag(wire_type("tests/Mood")(Mood)) == "tests/Mood"


def test_an_automatic_tag_is_module_and_class() -> None:
    assert auto_tag(TaskRequest) == "tests.codec.models.TaskRequest"


def test_an_automatic_tag_is_ascii_and_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Plain, "__module__", "módulo")
    assert auto_tag(Plain) == "m_uf3_dulo.Plain"
    codec = make_codec(SerializationMode.NATIVE, {Plain: auto_tag(Plain)})
    assert codec.decoder(Plain)(codec.encoder(Plain)(Plain())) == Plain()


@pytest.mark.parametrize("module", ["shop", "my-app", "my app.1st", "módulo", "", "_aster.inner", "m" * 100, ".".join(["pkg"] * 30), "a..b"])
@pytest.mark.parametrize("name", ["Plain", "Größe", "1st", "P" * 100])
def test_the_tag_that_is_suggested_is_accepted(module: str, name: str) -> None:
    fresh: type = make_dataclass("Fresh", [])
    fresh.__module__, fresh.__name__ = module, name
    assert wire_type(tags.suggested_tag(fresh))(fresh) is fresh


@pytest.mark.parametrize("main_module", ["__main__", "__mp_main__"])  # the second is its name in a process that multiprocessing has spawned
@pytest.mark.parametrize(
    ("spec", "file", "module"),
    [
        (SimpleNamespace(name="shop.server"), "/srv/shop/server.py", "shop.server"),
        (None, "/srv/shop/server.py", "server"),
        (None, None, "__main__"),
    ],
)
def test_an_automatic_tag_in_the_main_module_is_the_one_that_importers_see(
    monkeypatch: pytest.MonkeyPatch, main_module: str, spec: SimpleNamespace | None, file: str | None, module: str
) -> None:
    main = ModuleType("__main__")
    vars(main).update(__spec__=spec, __file__=file)
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(Plain, "__module__", main_module)
    assert auto_tag(Plain) == f"{module}.Plain"


def test_two_types_with_one_tag_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"tests\.codec\.test_tags\.Plain and tests\.codec\.models\.TaskRequest have one tag, 'a/B'"):
        make_codec(SerializationMode.XLANG, {Plain: "a/B", TaskRequest: "a/B"})


def test_tags_that_fory_would_write_alike_are_refused_too() -> None:
    with pytest.raises(ValueError, match="have one tag"):
        make_codec(SerializationMode.NATIVE, {Plain: "a/B", TaskRequest: "a.B"})


def test_a_tag_that_is_not_ascii_is_refused() -> None:
    with pytest.raises(ValueError, match="is not ASCII"):
        make_codec(SerializationMode.XLANG, {Plain: "módulo.Plain"})


@pytest.mark.parametrize("mode", [1, 2, "XLANG", None])
def test_a_mode_that_is_only_its_number_or_its_name_is_refused(mode: Any) -> None:
    with pytest.raises(TypeError, match=r"mode must be a SerializationMode such as SerializationMode\.XLANG, not"):
        make_codec(mode, {Plain: "a/B"})


def test_a_message_names_its_type_by_namespace_and_name() -> None:
    codec = make_codec(SerializationMode.XLANG, {TaskRequest: "myapp/TaskRequest"})
    same = make_codec(SerializationMode.XLANG, {TaskRequest: "myapp.TaskRequest"})
    other = make_codec(SerializationMode.XLANG, {TaskRequest: "yourapp/TaskRequest"})
    data = codec.encoder(TaskRequest)(TaskRequest("1"))
    assert same.encoder(TaskRequest)(TaskRequest("1")) == data
    assert other.encoder(TaskRequest)(TaskRequest("1")) != data
