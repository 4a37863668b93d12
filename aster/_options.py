"""The options of the decorators, and what is wrong with them.

A wrong type is a ``TypeError``, a wrong value a ``ValueError``. ``where`` names the culprit as its author knows it, ``TaskService.get_task``, and begins every
message.
"""

from __future__ import annotations

import math
import re
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import Literal, TypeAlias

from aster.interceptors import Interceptor, check_intercepts
from aster.types import CapabilityRequirement, SerializationMode

__all__ = ["MethodOptions", "Modes", "ServiceOptions", "check_known", "check_name", "check_seconds"]

Modes: TypeAlias = "SerializationMode | Sequence[SerializationMode]"

_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
_MAX_VERSION = 2**31 - 1
"""The largest version: a signed 32-bit integer is what every language can hold."""


@dataclass(frozen=True, slots=True)
class MethodOptions:
    """The keyword options of a method decorator."""

    timeout: float | None = None
    idempotent: bool = False
    serialization: SerializationMode | None = None
    requires: CapabilityRequirement | None = None

    def check(self, where: str) -> None:
        """Raise ``TypeError`` or ``ValueError`` for the first option that is wrong."""
        check_seconds(self.timeout, f"{where}: timeout", none=True)
        _check_instance(self.idempotent, bool, "idempotent", "True or False", where)
        if self.serialization is not None:
            _check_instance(self.serialization, SerializationMode, "serialization", "one SerializationMode, such as SerializationMode.NATIVE", where)
        if self.requires is not None:
            _check_requirement(self.requires, where)


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """The options of ``@service``."""

    name: str
    version: int = 1
    serialization: Modes = (SerializationMode.XLANG,)
    scoped: Literal["shared", "stream"] = "shared"
    interceptors: Sequence[type] = ()
    max_concurrent_streams: int | None = None
    requires: CapabilityRequirement | None = None
    errors: Sequence[type] = ()

    @property
    def modes(self) -> tuple[SerializationMode, ...]:
        """``serialization`` as a tuple."""
        return (self.serialization,) if isinstance(self.serialization, SerializationMode) else tuple(self.serialization)

    def check(self, where: str) -> None:
        """Raise ``TypeError`` or ``ValueError`` for the first option that is wrong."""
        check_name(self.name, where, "pass another one: @service(name=...)")
        _check_count(self.version, "version", where)
        if self.version > _MAX_VERSION:
            raise ValueError(f"{where}: version {self.version} is above {_MAX_VERSION}, the largest that every language can hold; use small numbers: 1, 2, 3")
        _check_modes(self.serialization, where)
        if self.scoped not in ("shared", "stream"):
            raise ValueError(f"{where}: scoped={self.scoped!r} is unknown; use 'shared' for one instance a server or 'stream' for one a session")
        _check_interceptors(self.interceptors, where)
        if self.max_concurrent_streams is not None:
            _check_count(self.max_concurrent_streams, "max_concurrent_streams", where)
        if self.requires is not None:
            _check_requirement(self.requires, where)
        _check_errors(self.errors, where)


def check_known(options: Iterable[str], kind: type[MethodOptions | ServiceOptions], decorator: str, where: str) -> None:
    """Refuse an option that a decorator does not have."""
    known = [field.name for field in fields(kind)]
    unknown = next((option for option in options if option not in known), None)
    if unknown is not None:
        raise TypeError(f"{where}: {decorator} has no option {unknown!r}; it takes {', '.join(known)}")


def check_name(name: object, where: str, mend: str) -> None:
    """Names of services and methods are kept to what every language, log and command line takes as they are."""
    if not isinstance(name, str):
        raise TypeError(f"{where}: name must be a str, not {type(name).__name__}; {mend}")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{where}: the name {name!r} is malformed: use 1 to 128 characters of A-Z, a-z, 0-9, '.', '_' and '-'; {mend}")


def _check_instance(value: object, expected: type, option: str, wanted: str, where: str) -> None:
    if not isinstance(value, expected):
        raise TypeError(f"{where}: {option} must be {wanted}, not {value!r}")


def check_seconds(value: object, option: str, *, zero: bool = False, none: bool = False) -> None:
    """Refuse what is no span of time that can be waited for.

    Args:
        value: what was given.
        option: its name, and where it was given if that is not plain.
        zero: whether zero is one.
        none: whether ``None`` is one, for no limit.

    Raises:
        TypeError: it is not a number.
        ValueError: it is negative, zero, infinite or not a number.
    """
    if value is None and none:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{option} must be a number of seconds{' or None' if none else ''}, not {value!r}")
    try:
        seconds = float(value)
    except OverflowError:  # an int that no clock can count to
        seconds = math.inf
    if not math.isfinite(seconds) or seconds < 0 or (seconds == 0 and not zero):
        mend = "; for no limit use None" if none else ""
        raise ValueError(f"{option} must be {'zero or more' if zero else 'positive'} and finite, not {seconds!r}{mend}")


def _check_count(value: object, option: str, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{where}: {option} must be an int of 1 or more, not {value!r}")
    if value < 1:
        raise ValueError(f"{where}: {option} must be 1 or more, not {value}")


def _check_requirement(requires: object, where: str) -> None:
    wanted = "a CapabilityRequirement, such as aster.role('admin')"
    _check_instance(requires, CapabilityRequirement, "requires", wanted, where)


def _check_modes(serialization: object, where: str) -> None:
    if isinstance(serialization, SerializationMode):
        return
    if not isinstance(serialization, (list, tuple)):
        raise TypeError(f"{where}: serialization must be a SerializationMode or a list of them, not {serialization!r}")
    modes = typing.cast("Sequence[object]", serialization)
    if not modes:
        raise ValueError(f"{where}: serialization is empty, so that nothing could be sent; leave it out for [SerializationMode.XLANG]")
    for mode in modes:
        _check_instance(mode, SerializationMode, "each item of serialization", "a SerializationMode", where)
    if len(set(modes)) < len(modes):
        raise ValueError(f"{where}: serialization lists a mode twice; list each once, the preferred one first")


def _check_classes(value: object, option: str, wanted: str, where: str) -> None:
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{where}: {option} must be a list of classes, not {value!r}")
    for item in typing.cast("Sequence[object]", value):
        _check_instance(item, type, f"each item of {option}", wanted, where)


def _check_interceptors(interceptors: Sequence[type], where: str) -> None:
    _check_classes(interceptors, "interceptors", "a class; it is the class that is passed, Aster makes the instances", where)
    for cls in interceptors:
        if not issubclass(cls, Interceptor):
            raise TypeError(f"{where}: {cls.__name__} in interceptors is no aster.Interceptor: subclass that, and write its intercept()")
        check_intercepts(cls)


def _check_errors(errors: Sequence[type], where: str) -> None:
    _check_classes(errors, "errors", "a dataclass, whose instances are given as details of an RpcError", where)
    for cls in errors:
        name = cls.__name__
        if issubclass(cls, BaseException):
            mend = "declare a dataclass instead, and raise RpcError(..., details=[...]) with an instance of it"
            raise TypeError(f"{where}: {name} in errors is an exception, and handlers raise RpcError alone; {mend}")
        if issubclass(cls, Enum):
            raise TypeError(f"{where}: {name} in errors is an Enum, and details are dataclasses; make it a field of one")
