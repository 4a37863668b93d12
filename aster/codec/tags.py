"""Wire tags: the names by which types are known to peers."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import is_dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any, TypeVar

__all__ = [
    "MAX_PART",
    "auto_tag",
    "check_known",
    "described",
    "full_name",
    "is_wire_class",
    "registered_names",
    "short_name",
    "suggested_tag",
    "wire_tag",
    "wire_type",
]

T = TypeVar("T")

MAX_PART = 80
"""Characters that a tag may have before its '/', and as many after it: Fory cannot read what takes up more than 62 bytes, at six bits a character."""

_ATTRIBUTE = "__aster_wire_type__"
_RESERVED_NAMESPACE = "_aster"
_FORM = (
    "'namespace/TypeName', as in 'myapp/TaskRequest': exactly one '/', before it ASCII identifiers joined by '.', after it one, "
    f"and {MAX_PART} characters at most on each side"
)


def wire_type(tag: str) -> Callable[[type[T]], type[T]]:
    """Give a dataclass or an ``Enum`` its name on the wire; stands above ``@dataclass``.

    The tag belongs to the decorated class alone: a subclass needs one of its own.

    Args:
        tag: ``"namespace/TypeName"``. Keep it across releases: it, not the Python name, is what peers know.

    Raises:
        TypeError: the tag is not a ``str``, or the class is neither a dataclass nor an ``Enum`` (yet).
        ValueError: the tag is malformed, or its namespace is reserved.
    """
    if isinstance(tag, type):
        raise TypeError(f"@wire_type needs a tag: write @wire_type('namespace/{tag.__name__}') above {short_name(tag)}")
    if not isinstance(tag, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
        raise TypeError(f"a wire tag must be a str of the form {_FORM}, not {type(tag).__name__}")

    def apply(cls: type[T]) -> type[T]:
        if not isinstance(cls, type):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
            raise TypeError(f"@wire_type({tag!r}) is for dataclasses and Enum classes, not for {cls!r}")
        if not is_wire_class(cls):
            raise TypeError(
                f"{short_name(cls)} is neither a dataclass nor an Enum: put @wire_type({tag!r}) above @dataclass, which must decorate the class itself"
            )
        _check_form(tag, cls)
        setattr(cls, _ATTRIBUTE, tag)
        return cls

    return apply


def wire_tag(cls: type) -> str | None:
    """The tag that ``@wire_type`` gave to exactly this class, or ``None``."""
    return cls.__dict__.get(_ATTRIBUTE)


def auto_tag(cls: type) -> str:
    """The tag of a class that has no explicit one: ``module.Class``.

    A class of the ``__main__`` module is named after the module's spec (``python -m pkg.app``: ``pkg.app``), else after the file's stem, so that a client
    that imports the same file agrees. Without either, as in an interactive session, the module is ``__main__``. What is not ASCII is written as its number,
    since Fory's names have no place for it.
    """
    module = cls.__module__
    # In a process that multiprocessing has spawned, the main module is imported under the other name.
    tag = f"{_main_module_name() if module in ('__main__', '__mp_main__') else module}.{cls.__name__}"
    return "".join(character if character.isascii() else f"_u{ord(character):x}_" for character in tag)


def suggested_tag(cls: type) -> str:
    """A tag that ``wire_type`` accepts for a class, much like the automatic one."""
    namespace, _, name = auto_tag(cls).rpartition(".")
    parts = [_identifier(part) for part in namespace.split(".")]
    if parts[0] in ("_", _RESERVED_NAMESPACE):
        parts[0] = "myapp"
    while len(parts) > 1 and len(".".join(parts)) > MAX_PART:
        parts.pop()
    return f"{'.'.join(parts)[:MAX_PART]}/{_identifier(name)[:MAX_PART]}"


def _identifier(text: str) -> str:
    return re.sub(r"\W|^(?=\d)|^$", "_", text)


def registered_names(tags: Mapping[type, str]) -> dict[type, str]:
    """The names that Fory knows classes by: namespace and type of the tag joined by a dot, which is how its other implementations write it.

    Raises:
        ValueError: two classes share a name, or Fory cannot write one; names the classes.
    """
    names: dict[type, str] = {}
    owners: dict[str, type] = {}
    for cls, tag in tags.items():
        name = tag.replace("/", ".")
        owner = owners.setdefault(name, cls)
        if owner is not cls:
            raise ValueError(f"{full_name(owner)} and {full_name(cls)} have one tag, {tag!r}: give each its own with @wire_type")
        if not name.isascii():
            raise ValueError(f"the wire tag {tag!r} of {full_name(cls)} is not ASCII, which Fory's names must be: give it one with @wire_type")
        if max(map(len, name.rpartition("."))) > MAX_PART:
            limit = f"is too long: {MAX_PART} characters may stand before its last dot and as many after it"
            raise ValueError(f'the wire tag {tag!r} of {full_name(cls)} {limit}; give it one such as @wire_type("{suggested_tag(cls)}")')
        names[cls] = name
    return names


def is_wire_class(cls: type[Any]) -> bool:
    """Whether instances of exactly this class can be messages or parts of them: it is an ``Enum``, or was itself decorated with ``@dataclass``."""
    return issubclass(cls, Enum) or (is_dataclass(cls) and "__dataclass_fields__" in cls.__dict__)


def full_name(cls: type) -> str:
    """A class's name for messages about where it is defined."""
    return f"{cls.__module__}.{cls.__qualname__}"


def short_name(cls: type) -> str:
    """A class's name for messages: the qualified one, without the functions around it."""
    return cls.__qualname__.rpartition("<locals>.")[2]


def check_known(cls: type, known: Collection[type]) -> None:
    """Refuse what is not among the dataclasses of a codec."""
    if cls not in known:
        names = ", ".join(sorted(map(short_name, known)))
        raise TypeError(f"{cls!r} is not a dataclass of this codec, which knows {names}; give make_codec its tag")


def described(value: object, expected: type) -> str:
    """A value that is no instance of a class, for messages; a namesake of that class is told apart."""
    cls = type(value)
    if short_name(cls) == short_name(expected):
        return f"an instance of another class of that name ({full_name(cls)}): was it defined twice?"
    return "None" if value is None else f"a {short_name(cls)}"


def _main_module_name() -> str:
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return spec.name
    file = getattr(main, "__file__", None)
    return PurePath(file).stem if file else "__main__"


def _check_form(tag: str, cls: type) -> None:
    namespace, slash, name = tag.partition("/")
    parts = namespace.split(".")
    identifiers = name.isidentifier() and all(part.isidentifier() for part in parts)
    if not slash or not tag.isascii() or not identifiers or len(namespace) > MAX_PART or len(name) > MAX_PART:
        raise ValueError(f"the wire tag {tag!r} of {short_name(cls)} is malformed: it must be of the form {_FORM}")
    if parts[0] == _RESERVED_NAMESPACE:
        raise ValueError(
            f"the wire tag {tag!r} of {short_name(cls)} is reserved: namespaces that begin with {_RESERVED_NAMESPACE!r} belong to Aster; "
            "choose one of your own, such as your package's name"
        )
