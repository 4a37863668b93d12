"""Wire tags: the names by which types are known to peers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import is_dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any, TypeVar

__all__ = ["auto_tag", "is_wire_class", "registered_name", "short_name", "wire_tag", "wire_type"]

T = TypeVar("T")

_ATTRIBUTE = "__aster_wire_type__"
_RESERVED_NAMESPACE = "_aster"
_FORM = "'namespace/TypeName', as in 'myapp/TaskRequest': exactly one '/', before it ASCII identifiers joined by '.', after it one"


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
    that imports the same file agrees. Without either, as in an interactive session, the module is ``__main__``.
    """
    module = cls.__module__
    return f"{_main_module_name() if module == '__main__' else module}.{cls.__name__}"


def is_wire_class(cls: type[Any]) -> bool:
    """Whether instances of exactly this class can be messages or parts of them: it is an ``Enum``, or was itself decorated with ``@dataclass``."""
    return issubclass(cls, Enum) or (is_dataclass(cls) and "__dataclass_fields__" in cls.__dict__)


def registered_name(tag: str) -> str:
    """The name that Fory knows a tag by: namespace and type joined by a dot, which is how its other implementations write it."""
    return tag.replace("/", ".")


def short_name(cls: type) -> str:
    """A class's name for messages: the qualified one, without the functions around it."""
    return cls.__qualname__.rpartition("<locals>.")[2]


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
    if not slash or not tag.isascii() or not name.isidentifier() or not all(part.isidentifier() for part in parts):
        raise ValueError(f"the wire tag {tag!r} of {short_name(cls)} is malformed: it must be of the form {_FORM}")
    if parts[0] == _RESERVED_NAMESPACE:
        raise ValueError(
            f"the wire tag {tag!r} of {short_name(cls)} is reserved: namespaces that begin with {_RESERVED_NAMESPACE!r} belong to Aster; "
            "choose one of your own, such as your package's name"
        )
