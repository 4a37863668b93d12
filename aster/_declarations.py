"""From an annotated class to its ``ServiceInfo``, and from a ``ServiceInfo`` back to the handlers of an instance."""

from __future__ import annotations

import functools
import inspect
import warnings
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakSet

from aster._methods import Handler
from aster._options import MethodOptions, check_name
from aster._signatures import DECORATOR_OF, check_close_hook, check_override, check_peer, is_type, message_types, readable
from aster.codec import auto_tag, wire_tag, wire_types
from aster.codec.tags import full_name, registered_names, suggested_tag
from aster.errors import AutoTagWarning
from aster.types import CapabilityRequirement, MethodInfo, SerializationMode, ServiceInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import FrameType

    from aster._options import ServiceOptions

__all__ = ["check_implementation", "check_methods", "class_of", "declare", "handler_of", "service_info", "unbound_handler"]

_ATTRIBUTE = "__aster_service__"
_warned: WeakSet[type] = WeakSet()
"""The classes that an AutoTagWarning has named: one warning a class is enough, however many services it is in."""


def service_info(service: object) -> ServiceInfo:
    """What ``@service`` read from a class; given as the class, a subclass, an instance or a ``functools.partial`` of it.

    Raises:
        TypeError: it is not a service, or an annotation refers to a name that still does not exist.
    """
    return _declaration_of(service).info


def handler_of(instance: object, method: str) -> Callable[..., Any]:
    """The function that serves a method, bound to ``instance``: exactly what its author wrote, overrides of subclasses included.

    Raises:
        AttributeError: there is no such method.
    """
    return unbound_handler(instance, method).__get__(instance, type(instance))


def unbound_handler(service: object, method: str) -> Any:
    """The function that serves a method, as it stands in the class of what is given: for an instance that is made later.

    Raises:
        AttributeError: there is no such method.
    """
    attribute, _ = _find(class_of(service), method)
    return attribute.function if isinstance(attribute, Handler) else attribute


def check_implementation(implementation: object) -> None:
    """Check that what a server was given can serve its service: an instance, or for ``scoped="stream"`` the class or a ``functools.partial`` of it.

    Raises:
        TypeError: it is not a service, is given in the wrong form, or an override does not match what the service declares.
    """
    declaration = _declaration_of(implementation)
    cls = class_of(implementation)
    info = declaration.info
    _check_form(implementation, cls, info)
    for name, method in info.methods.items():
        _check_method(cls, method, declaration.handlers[name])
    check_methods(cls)


@functools.lru_cache(maxsize=256)
def check_methods(cls: type) -> None:
    """Check that a service that is to be served or called has methods, and that its class has no others; one that is still to be written may stand without.

    It is asked for each session that a client opens, and looks at all that a class has, which takes a fifth of a millisecond.

    Raises:
        TypeError: it has none; or a class that inherits from the service's has one more, which only a service of its own could have.
    """
    info = service_info(cls)
    undeclared = next((name for name in _handlers_of(cls) if name not in info.methods), None)
    if undeclared is not None:
        raise TypeError(f"{readable(cls)}.{undeclared} is not a method of the service {info.name!r}, which the class inherits: decorate it with @service")
    if not info.methods:
        raise TypeError(f"{readable(cls)} has no methods: decorate at least one with {', '.join(DECORATOR_OF.values())}")


class _UnknownName(TypeError):
    """An annotation refers to a name that does not exist: yet, while its module is still being read; else it is a mistake."""


class _Declaration:
    """One decorated class: what was declared, and the ``ServiceInfo`` made of it.

    A forward reference to a name further down the module cannot be resolved while the class is decorated; then, and only then, the ``ServiceInfo`` is made at
    its first use.
    """

    def __init__(self, cls: type, options: ServiceOptions, frame: FrameType) -> None:
        self._cls = cls
        self._where = readable(cls)
        self._options = options
        self.requires = options.requires or _inherited_requirement(cls)
        # Those of the bases further out: what they keep out or note is not lost because a subclass adds its own.
        self.interceptors = tuple(dict.fromkeys((*_inherited_interceptors(cls), *options.interceptors)))
        self.errors = tuple(dict.fromkeys((*options.errors, *_inherited_errors(cls))))
        self._site = frame.f_code.co_filename, frame.f_lineno, frame.f_globals
        self.handlers = _handlers_of(cls)
        self._check_class()
        self._frame: FrameType | None = frame
        self._info: ServiceInfo | None = None
        try:
            self._resolve()
        except _UnknownName:
            return

    @property
    def info(self) -> ServiceInfo:
        """The service's description.

        Raises:
            TypeError: an annotation refers to a name that still does not exist.
        """
        try:
            return self._info or self._resolve()
        except _UnknownName as exc:
            raise TypeError(str(exc)) from exc.__cause__

    def _resolve(self) -> ServiceInfo:
        methods: dict[str, MethodInfo] = {}
        unknown: _UnknownName | None = None
        for name, handler in self.handlers.items():
            try:
                method = self._method(name, handler)
                self._message_classes(method)
            except _UnknownName as exc:
                # What else is wrong is not to wait until the name exists.
                unknown = unknown or exc
                continue
            _check_method(self._cls, method, handler)
            methods[name] = method
        try:
            wire_tags = self._wire_tags(methods)
        except _UnknownName as exc:
            unknown, wire_tags = unknown or exc, {}
        if unknown is not None:
            raise unknown
        options = self._options
        self._info = ServiceInfo(
            name=options.name,
            version=options.version,
            modes=options.modes,
            scoped=options.scoped,
            interceptors=self.interceptors,
            max_concurrent_streams=options.max_concurrent_streams,
            requires=self.requires,
            methods=MappingProxyType(methods),
            wire_tags=MappingProxyType(wire_tags),
            errors=self.errors,
        )
        self._frame = None  # It keeps the locals of a whole function alive.
        return self._info

    def _check_class(self) -> None:
        if _ATTRIBUTE in vars(self._cls):
            raise TypeError(f"{self._where} is decorated with @service twice: keep one; for another name or version decorate a subclass")
        for name in self.handlers:
            check_name(name, f"{self._where}.{name}", "rename the method")
        if self._options.scoped == "stream":
            check_close_hook(self._cls, self._where)
            # An abstract class is an interface: whoever implements it says how it is made.
            if not inspect.isabstract(self._cls):
                check_peer(self._cls, self._where)
        elif hasattr(self._cls, "on_session_close"):
            raise TypeError(
                f"{self._where} has on_session_close, but is shared by all callers and has no sessions: write @service(scoped='stream'), or rename it"
            )

    def _method(self, name: str, handler: Handler[Any]) -> MethodInfo:
        options, where = handler.options, f"{self._where}.{name}"
        try:
            request, response = message_types(handler.function, handler.pattern, where, self._namespace(name))
        except NameError as exc:
            mend = "define or import it where the class is, and not under 'if TYPE_CHECKING'"
            raise _UnknownName(f"{where}: an annotation names {exc.name!r}, which does not exist: {mend}") from exc
        return MethodInfo(
            name=name,
            pattern=handler.pattern,
            request_type=request,
            response_type=response,
            timeout=options.timeout,
            idempotent=options.idempotent,
            modes=self._options.modes if options.serialization is None else (options.serialization,),
            requires=options.requires or _overridden_requirement(self._cls, name),
        )

    def _namespace(self, name: str) -> dict[str, Any]:
        """What the annotations of a method may refer to besides the globals of its module: the function around the class, the types in its body, the class.

        The types alone, since a method named ``list`` is not what ``list[Item]`` means.
        """
        body = next(vars(cls) for cls in self._cls.__mro__ if vars(cls).get(name) is self.handlers[name])
        return {**self._around(), **{key: value for key, value in body.items() if is_type(value)}, self._cls.__name__: self._cls}

    def _around(self) -> dict[str, Any]:
        """The names of the function around the class, if it is in one."""
        frame = self._frame
        return {} if frame is None or frame.f_locals is frame.f_globals else frame.f_locals

    def _wire_tags(self, methods: Mapping[str, MethodInfo]) -> dict[type, str]:
        tags: dict[type, str] = {}
        for method in methods.values():
            for cls in self._message_classes(method):
                tags[cls] = wire_tag(cls) or self._derived_tag(cls, method.modes)
        modes = [mode for method in methods.values() for mode in method.modes] or self._options.modes
        for cls in self._classes_in(self.errors, f"{self._where}: errors", self._around()):
            tags[cls] = wire_tag(cls) or self._derived_tag(cls, modes)
        try:
            registered_names(tags)
        except ValueError as exc:
            raise ValueError(f"{self._where}: {exc}") from exc.__cause__
        return tags

    def _message_classes(self, method: MethodInfo) -> tuple[type, ...]:
        return self._classes_in((method.request_type, method.response_type), f"{self._where}.{method.name}", self._namespace(method.name))

    def _classes_in(self, roots: Iterable[type], where: str, namespace: Mapping[str, Any]) -> tuple[type, ...]:
        try:
            return wire_types(roots, localns=namespace)
        except TypeError as exc:
            kind = _UnknownName if isinstance(exc.__cause__, NameError) else TypeError
            raise kind(f"{where}: {exc}") from exc.__cause__
        except RecursionError as exc:
            raise TypeError(f"{where}: the type of a field contains itself without end; make a dataclass of it, which may") from exc

    def _derived_tag(self, cls: type, modes: Iterable[SerializationMode]) -> str:
        tag = auto_tag(cls)
        if set(modes) != {SerializationMode.NATIVE} and cls not in _warned:
            file, line, module = self._site
            decorated = "above the class" if Enum in cls.__mro__ else "above its @dataclass"
            warnings.warn_explicit(
                f"{full_name(cls)} has no wire type: its tag {tag!r} is derived, and breaks when the class is renamed or moved; "
                f'write @wire_type("{suggested_tag(cls)}") {decorated}',
                AutoTagWarning,
                file,
                line,
                module=str(module.get("__name__", "<unknown>")),
                registry=module.setdefault("__warningregistry__", {}),
            )
            _warned.add(cls)
        return tag


def declare(cls: type, options: ServiceOptions, frame: FrameType) -> None:
    """Make ``cls`` a service. ``frame`` is where its decorator stands: names are looked up and warnings shown there.

    Raises:
        TypeError, ValueError: the class cannot be one.
    """
    setattr(cls, _ATTRIBUTE, _Declaration(cls, options, frame))


def class_of(service: object) -> type:
    """The class of what is given as a service: as itself, as an instance, or as a ``functools.partial`` of it."""
    if isinstance(service, functools.partial):
        return class_of(cast("functools.partial[object]", service).func)
    return service if isinstance(service, type) else type(service)


def _declaration_of(service: object) -> _Declaration:
    cls = class_of(service)
    declaration = getattr(cls, _ATTRIBUTE, None)
    if not isinstance(declaration, _Declaration):
        raise TypeError(f"{readable(cls)} is not a service: decorate it, or a class that it inherits from, with @service")
    return declaration


def _find(cls: type, name: str) -> tuple[Any, type]:
    """An attribute as it stands in the class, without binding it, and the class that it stands in."""
    for owner in cls.__mro__:
        if name in vars(owner):
            return vars(owner)[name], owner
    raise AttributeError(f"{readable(cls)} has no method {name!r}")


def _inherited_requirement(cls: type) -> CapabilityRequirement | None:
    """What the nearest service among the bases asks: a subclass may ask something else, but never nothing for want of saying so."""
    declarations = (vars(base).get(_ATTRIBUTE) for base in cls.__mro__)
    return next((declaration.requires for declaration in declarations if isinstance(declaration, _Declaration) and declaration.requires), None)


def _inherited_interceptors(cls: type) -> tuple[type, ...]:
    """Those of the nearest service among the bases, which has those of its own bases."""
    declarations = (vars(base).get(_ATTRIBUTE) for base in cls.__mro__)
    return next((declaration.interceptors for declaration in declarations if isinstance(declaration, _Declaration)), ())


def _inherited_errors(cls: type) -> Iterator[type]:
    """What the services among the bases declare for the details of their errors: their handlers are inherited with it."""
    for base in cls.__mro__:
        declaration = vars(base).get(_ATTRIBUTE)
        if isinstance(declaration, _Declaration):
            yield from declaration.errors


def _overridden_requirement(cls: type, name: str) -> CapabilityRequirement | None:
    """The same for a method that was decorated again."""
    attributes = (vars(base).get(name) for base in cls.__mro__)
    handlers = (cast("Handler[Any]", attribute) for attribute in attributes if isinstance(attribute, Handler))
    return next((handler.options.requires for handler in handlers if handler.options.requires), None)


def _handlers_of(cls: type) -> dict[str, Handler[Any]]:
    """The decorated methods of a class and its bases, in the order of their definition."""
    handlers: dict[str, Handler[Any]] = {}
    for owner in reversed(cls.__mro__):
        for name, attribute in vars(owner).items():
            if isinstance(attribute, Handler):
                handlers[name] = cast("Handler[Any]", attribute)
            elif isinstance(_wrapped(attribute), Handler):
                raise TypeError(
                    f"{readable(owner)}.{name} hides a decorated method inside another decorator: put the decorator of Aster on top, on a plain method"
                )
    return handlers


def _wrapped(attribute: object) -> object:
    if isinstance(attribute, (staticmethod, classmethod)):
        return cast("staticmethod[..., object]", attribute).__func__
    if isinstance(attribute, property):
        return attribute.fget
    if isinstance(attribute, (functools.cached_property, functools.partialmethod)):
        return cast("functools.cached_property[object]", attribute).func
    return inspect.getattr_static(attribute, "__wrapped__", None)


def _check_form(implementation: object, cls: type, info: ServiceInfo) -> None:
    name = readable(cls)
    by_class = isinstance(implementation, (type, functools.partial))
    if info.scoped == "shared":
        if by_class:
            raise TypeError(f"{name} is shared by all callers, so an instance of it is served: write {name}(...) instead of the class {name}")
        return
    if not by_class:
        raise TypeError(f"{name} is scoped='stream', one instance a session: serve the class itself, or a functools.partial of it, rather than an instance")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cast("frozenset[str]", vars(cls)["__abstractmethods__"])))
        raise TypeError(f"{name} is abstract, it does not implement {missing}: serve a subclass that does")
    check_peer(cls, name)
    check_close_hook(cls, name)
    try:
        inspect.signature(cast("Callable[..., object]", implementation)).bind(peer="")
    except TypeError as exc:
        raise TypeError(f"{name} is made with its peer alone, but that does not suffice: {exc}; give the rest with functools.partial({name}, ...)") from exc


def _check_method(cls: type, method: MethodInfo, declared: Handler[Any]) -> None:
    """Check that what a class has under a method's name serves the method as it was declared."""
    attribute, owner = _find(cls, method.name)
    if attribute is declared:
        return
    where, base = f"{readable(owner)}.{method.name}", readable(declared.function)
    function = attribute
    if isinstance(attribute, Handler):
        override = cast("Handler[Any]", attribute)
        if override.pattern is not method.pattern:
            raise TypeError(
                f"{where} is decorated with {DECORATOR_OF[override.pattern]}, but {base}, which it overrides, with {DECORATOR_OF[method.pattern]}: use the same"
            )
        if override.options not in (MethodOptions(), declared.options):
            mend = f"leave them out, or decorate {readable(owner)} with @service"
            raise TypeError(f"{where} has options, but those of {base}, which it overrides, are the ones that count: {mend}")
        function = override.function
    check_override(function, method.pattern, (method.request_type, method.response_type), where, base)
