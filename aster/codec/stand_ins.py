"""Subclasses of the user's dataclasses that stand in for them, without any of the user's code running when they are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["stand_in"]


def stand_in(cls: type, namespace: Mapping[str, Any]) -> type[Any]:
    """A subclass of a class under its name, with what ``namespace`` holds. Neither a metaclass nor ``__init_subclass__`` of the user's runs."""
    # A metaclass such as ABCMeta keeps what it knows of the user's class in an attribute, which the stand-in inherits, and would mix up the two.
    checks = {"__instancecheck__": type.__instancecheck__, "__subclasscheck__": type.__subclasscheck__}
    kind = type("_StandInType", (type(cls),), {"mro": _mro_of_stand_in, **checks})
    named = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, **namespace}
    return type.__new__(kind, cls.__name__, (cls,), named)


class _NoHook:
    """Ends the search for ``__init_subclass__`` before the user's, which would register the stand-in as one of the user's classes."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        return None


def _mro_of_stand_in(cls: type) -> list[type]:
    """With ``_NoHook`` looked at first, without its being a base: a second base can make the instances' layout another one, and their class final."""
    own, *others = type.mro(cls)
    return [own, _NoHook, *others]
