"""Every mistake that can be seen in a class is refused where it is decorated, with a message that names the culprit and the mend.

The mistakes are source text: most of them are mistakes to a type checker too.
"""

from __future__ import annotations

import abc
import dataclasses
import enum
import functools
import math
import sys
import typing
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest

import aster.decorators
from aster.codec import wire_type
from aster.types import CapabilityRequirement, SerializationMode
from tests.decorators import messages

_NAMES: dict[str, Any] = {
    **{name: getattr(aster.decorators, name) for name in ("service", "rpc", "server_stream", "client_stream", "bidi_stream", "service_info")},
    **{name: getattr(messages, name) for name in ("Ask", "Answer", "Item")},
    **{name: getattr(typing, name) for name in ("Any", "AsyncIterator", "Iterator", "Optional", "NamedTuple", "TypedDict", "Generic", "TypeVar")},
    "CapabilityRequirement": CapabilityRequirement,
    "SerializationMode": SerializationMode,
    "abc": abc,
    "dataclass": dataclasses.dataclass,
    "enum": enum,
    "functools": functools,
    "typing": typing,
    "math": math,
    "wire_type": wire_type,
}


def _run(source: str) -> ModuleType:
    """Run ``source`` as the module ``shop``."""
    module = ModuleType("shop")
    vars(module).update(_NAMES)
    with patch.dict(sys.modules, {"shop": module}):
        exec(compile(source, "shop.py", "exec", dont_inherit=True), vars(module))
    return module


def _service(*method: str, decorator: str = "@service", before: str = "") -> str:
    return "\n".join([before, decorator, "class Shop:", *(f"    {line}" for line in method)])


def _rpc(signature: str = "(self, ask: Ask) -> Answer", *, decorator: str = "@rpc", **kwargs: str) -> str:
    return _service(decorator, f"async def find{signature}: ...", **kwargs)


def _request(message: str) -> str:
    return _rpc(f"(self, ask: {message}) -> Answer")


def _result(message: str) -> str:
    return _rpc(f"(self, ask: Ask) -> {message}")


def _option(option: str) -> str:
    return _rpc(decorator=f"@rpc({option})")


def _class_option(option: str) -> str:
    return _rpc().replace("@service", f"@service({option})")


_KINDS = {
    "a unary handler is a plain function": (_service("@rpc", "def find(self, ask: Ask) -> Answer: ..."), ["Shop.find", "async def"]),
    "a client-streaming handler is a plain function": (
        _service("@client_stream", "def find(self, asks: AsyncIterator[Ask]) -> Answer: ..."),
        ["Shop.find", "async def"],
    ),
    "a server-streaming handler is a plain function": (
        _service("@server_stream", "def find(self, ask: Ask) -> AsyncIterator[Answer]: ..."),
        ["Shop.find", "async generator", "async def", "yield"],
    ),
    "a server-streaming handler is a plain generator": (
        _service("@server_stream", "def find(self, ask: Ask) -> Iterator[Answer]:", "    yield Answer()"),
        ["Shop.find", "async generator", "async def"],
    ),
    "a server-streaming handler never yields": (_rpc("(self, ask: Ask) -> AsyncIterator[Answer]", decorator="@server_stream"), ["Shop.find", "yield", "@rpc"]),
    "a bidirectional handler never yields": (
        _rpc("(self, asks: AsyncIterator[Ask]) -> AsyncIterator[Answer]", decorator="@bidi_stream"),
        ["Shop.find", "yield", "@client_stream"],
    ),
    "a unary handler yields": (
        _service("@rpc", "async def find(self, ask: Ask) -> AsyncIterator[Answer]:", "    yield Answer()"),
        ["Shop.find", "async generator", "@rpc", "return it", "@server_stream"],
    ),
    "a client-streaming handler yields": (
        _service("@client_stream", "async def find(self, asks: AsyncIterator[Ask]) -> AsyncIterator[Answer]:", "    yield Answer()"),
        ["Shop.find", "async generator", "@client_stream", "@bidi_stream"],
    ),
    "an abstract streaming handler is a coroutine": (
        _service("@server_stream", "@abc.abstractmethod", "async def find(self, ask: Ask) -> AsyncIterator[Answer]: ..."),
        ["Shop.find", "abstract", "'def'"],
    ),
    "a static method": (_service("@rpc", "@staticmethod", "async def find(ask: Ask) -> Answer: ..."), ["Shop.find", "staticmethod", "self"]),
    "a class method": (_service("@rpc", "@classmethod", "async def find(cls, ask: Ask) -> Answer: ..."), ["Shop.find", "classmethod", "self"]),
    "a static method around a handler": (_service("@staticmethod", "@rpc", "async def find(self, ask: Ask) -> Answer: ..."), ["Shop.find", "on top"]),
    "a class method around a handler": (_service("@classmethod", "@rpc", "async def find(self, ask: Ask) -> Answer: ..."), ["Shop.find", "on top"]),
    **{
        f"{around} around a handler": (
            _service(f"@functools.{around}", "@rpc", "async def find(self, ask: Ask) -> Answer: ..."),
            ["Shop.find", "on top"],
        )
        for around in ("cached_property", "lru_cache", "partialmethod")
    },
    "@abstractmethod above a streaming decorator": (
        _service("@abc.abstractmethod", "@server_stream", "def find(self, ask: Ask) -> AsyncIterator[Answer]: ..."),
        ["Shop.find", "@server_stream above @abstractmethod", "swap the two"],
    ),
    "a property around a handler": (_service("@property", "@rpc", "async def find(self, ask: Ask) -> Answer: ..."), ["Shop.find", "on top"]),
    "another decorator around a handler": (
        _service("@logged", "@rpc", "async def find(self, ask: Ask) -> Answer: ...", before="logged = lambda f: functools.wraps(f)(lambda *a: f(*a))"),
        ["Shop.find", "on top"],
    ),
    "two decorators": (
        _service("@server_stream", "@rpc", "async def find(self, ask: Ask) -> Answer: ..."),
        ["Shop.find", "two decorators", "@rpc", "@server_stream", "keep one"],
    ),
    "one decorator twice": (_service("@rpc", "@rpc()", "async def find(self, ask: Ask) -> Answer: ..."), ["Shop.find", "two decorators", "keep one"]),
    "a positional option": (_option("30.0"), ["@rpc", "by keyword", "timeout=30.0"]),
    "a decorated class": ("@rpc\nclass Shop: ...", ["@rpc", "async method", "Shop"]),
    "an unknown option of a method": (
        _option("retries=3"),
        ["Shop.find: @rpc has no option 'retries'", "it takes timeout, idempotent, serialization, requires"],
    ),
}

_PARAMETERS = {
    "no request": (_rpc("(self) -> Answer"), ["Shop.find", "no request", "empty dataclass"]),
    "no self": (_rpc("(ask: Ask) -> Answer"), ["Shop.find", "no request", "'self'"]),
    "nothing at all": (_rpc("() -> Answer"), ["Shop.find", "no request"]),
    "two requests": (_rpc("(self, ask: Ask, item: Item) -> Answer"), ["Shop.find", "2 arguments", "one dataclass"]),
    "an optional second argument": (_rpc("(self, ask: Ask, deep: bool = False) -> Answer"), ["Shop.find", "2 arguments"]),
    "a keyword-only request": (_rpc("(self, *, ask: Ask) -> Answer"), ["Shop.find", "'ask'", "default"]),
    "a keyword argument without default": (_rpc("(self, ask: Ask, *, deep: bool) -> Answer"), ["Shop.find", "'deep'", "default", "field of the request"]),
    "any number of arguments": (_rpc("(self, *asks: Ask) -> Answer"), ["Shop.find", "*args"]),
    "any keywords": (_rpc("(self, ask: Ask, **options: str) -> Answer"), ["Shop.find", "**kwargs"]),
    "a default request": (_rpc("(self, ask: Ask = Ask()) -> Answer"), ["Shop.find", "'ask'", "remove the default"]),
}

_ANNOTATIONS = {
    "the request has no annotation": (_rpc("(self, ask) -> Answer"), ["Shop.find", "'ask'", "no annotation", "ask: SomeDataclass"]),
    "a stream of requests has no annotation": (_rpc("(self, asks) -> Answer", decorator="@client_stream"), ["Shop.find", "asks: AsyncIterator[SomeDataclass]"]),
    "the result has no annotation": (_rpc("(self, ask: Ask)"), ["Shop.find", "no return annotation", "-> SomeDataclass"]),
    "the result is None": (_result("None"), ["Shop.find", "result", "None", "empty dataclass"]),
    "the request is None": (_request("None"), ["Shop.find", "'ask'", "empty dataclass"]),
    "the request is a str": (_request("str"), ["Shop.find", "'ask'", "str", "field"]),
    "the result is a dict": (_result("dict"), ["Shop.find", "result", "dict", "field"]),
    "the result is a list of messages": (_result("list[Answer]"), ["Shop.find", "result", "list[", "Answer]", "field"]),
    "the request is a union": (_request("Ask | Item"), ["Shop.find", "'ask'", "one type", "field"]),
    "the result is optional": (_result("Optional[Answer]"), ["Shop.find", "result", "one type"]),
    "the request is Any": (_request("Any"), ["Shop.find", "'ask'", "Any", "a dataclass of your own"]),
    "the request is a plain class": (f"class Plain: ...\n{_request('Plain')}", ["Shop.find", "'ask'", "Plain", "decorate it with @dataclass"]),
    "the request inherits from a dataclass": (
        f"class Plain(Ask):\n    more: int = 0\n{_request('Plain')}",
        ["Shop.find", "Plain", "decorate it with @dataclass too"],
    ),
    "the request is an instance": (_request("Ask()"), ["Shop.find", "'ask'", "@dataclass"]),
    "the request is a NamedTuple": (f"class Pair(NamedTuple):\n    a: int\n{_request('Pair')}", ["Shop.find", "Pair", "is a NamedTuple", "use a dataclass"]),
    "the request is a TypedDict": (f"class Pair(TypedDict):\n    a: int\n{_request('Pair')}", ["Shop.find", "Pair", "is a TypedDict", "use a dataclass"]),
    "the request is an enum": (f"class Size(enum.Enum):\n    S = 1\n{_request('Size')}", ["Shop.find", "Size", "dataclass that holds it"]),
    "the request is a generic dataclass": (
        f"T = TypeVar('T')\n@dataclass\nclass Page(Generic[T]):\n    a: T\n{_request('Page[int]')}",
        ["Shop.find", "Page[int]", "written out"],
    ),
    "the result is awaitable": (_result("typing.Awaitable[Answer]"), ["Shop.find", "result", "Awaitable[", "name Answer itself"]),
    "a field is a pydantic dataclass": (
        f"@dataclass\nclass Model:\n    __pydantic_fields__ = {{}}\n@wire_type('shop/Sea')\n@dataclass\nclass Sea:\n    wave: Model\n{_request('Sea')}",
        ["Shop.find", "Sea.wave", "Model is a pydantic model"],
    ),
    "a generic base leaves the messages open": (
        "T = TypeVar('T')\nclass Base(Generic[T]):\n    @rpc\n    async def find(self, ask: T) -> Answer: ...\n@service\nclass Shop(Base[Ask]): ...",
        ["Shop.find", "'ask'", "~T", "redeclare the method here with concrete types"],
    ),
    "a unary request is a stream": (_request("AsyncIterator[Ask]"), ["Shop.find", "'ask'", "AsyncIterator", "@rpc", "one message"]),
    "a unary result is a stream": (_result("AsyncIterator[Answer]"), ["Shop.find", "result", "@rpc", "one message"]),
    "a server-streaming request is a stream": (
        _service("@server_stream", "async def find(self, asks: AsyncIterator[Ask]) -> AsyncIterator[Answer]:", "    yield Answer()"),
        ["Shop.find", "'asks'", "@server_stream", "one message"],
    ),
    "a server-streaming result is no stream": (
        _service("@server_stream", "async def find(self, ask: Ask) -> Answer:", "    yield Answer()"),
        ["Shop.find", "result", "@server_stream", "AsyncIterator[...]"],
    ),
    "a client-streaming request is no stream": (_rpc(decorator="@client_stream"), ["Shop.find", "'ask'", "@client_stream", "AsyncIterator[...]"]),
    "a client-streaming request is a list": (
        _rpc("(self, ask: list[Ask]) -> Answer", decorator="@client_stream"),
        ["Shop.find", "'ask'", "AsyncIterator[...]"],
    ),
    "a bidirectional request is a plain iterator": (
        _service("@bidi_stream", "async def find(self, asks: Iterator[Ask]) -> AsyncIterator[Answer]:", "    yield Answer()"),
        ["Shop.find", "'asks'", "AsyncIterator[...]"],
    ),
    "a stream does not say of what": (
        _rpc("(self, asks: AsyncIterator) -> Answer", decorator="@client_stream"),
        ["Shop.find", "'asks'", "AsyncIterator[SomeDataclass]"],
    ),
    "a stream of builtins": (_rpc("(self, asks: AsyncIterator[bytes]) -> Answer", decorator="@client_stream"), ["Shop.find", "'asks'", "bytes", "field"]),
    "a field of a type that cannot be sent": (
        f"@wire_type('shop/Wave')\n@dataclass\nclass Wave:\n    phase: complex = 0j\n{_request('Wave')}",
        ["Shop.find", "Wave.phase", "complex"],
    ),
    "a field of a nested message that cannot be sent": (
        f"@wire_type('shop/Wave')\n@dataclass\nclass Wave:\n    phase: complex = 0j\n@dataclass\nclass Sea:\n    waves: list[Wave]\n{_result('Sea')}",
        ["Shop.find", "Wave.phase", "complex"],
    ),
}

_UNRESOLVABLE = {
    "an annotation that is no expression": (_request("'Task Ask'"), ["Shop.find", "'ask'", "'Task Ask'", "cannot be resolved", "SyntaxError"]),
    "an annotation that a module does not have": (_result("'typing.Missing'"), ["Shop.find", "its result", "'typing.Missing'", "AttributeError"]),
    "an annotation that takes no arguments": (_request("'Ask[int]'"), ["Shop.find", "'ask'", "'Ask[int]'", "not subscriptable"]),
    "an annotation of an override that is no expression": (
        "class Base:\n    @rpc\n    async def find(self, ask: Ask) -> Answer: ...\n@service\nclass Shop(Base):\n    async def find(self, ask: 'Task Ask'): ...",
        ["Shop.find", "'Task Ask'", "cannot be resolved"],
    ),
    "a type alias of a field that stands for another one without end": (
        "class TypeAliasType:\n    __value__ = property(lambda self: TypeAliasType())\n    def __call__(self): ...\ntree = TypeAliasType()\n"
        "@wire_type('shop/Sea')\n@dataclass\nclass Sea:\n    wave: tree\n" + _request("Sea"),
        ["Shop.find", "a field contains itself", "dataclass"],
    ),
    "a mistake beside a name that does not exist yet": (
        _service("@rpc", "async def late(self, ask: 'Late') -> Answer: ...", "@rpc", "async def find(self, ask: Ask) -> str: ..."),
        ["Shop.find", "str", "not a dataclass"],
    ),
    "a mistake in a field beside a name that does not exist yet": (
        "@wire_type('shop/Wave')\n@dataclass\nclass Wave:\n    phase: complex = 0j\n"
        + _service("@rpc", "async def late(self, ask: 'Late') -> Answer: ...", "@rpc", "async def find(self, ask: Ask) -> Wave: ..."),
        ["Shop.find", "Wave.phase", "complex"],
    ),
}

_CLASSES = {
    "two services in one class": (
        _rpc(decorator="@rpc").replace("@service", "@service('A')\n@service('B')"),
        ["Shop", "@service twice", "keep one", "subclass"],
    ),
    "a decorated function": ("@service\ndef shop(): ...", ["@service", "class"]),
    "a decorated function with options": ("@service(version=2)\ndef shop(): ...", ["@service", "class"]),
    "a number in place of a name": (_rpc().replace("@service", "@service(3)"), ["@service", "class", "3"]),
    "two names": (_rpc().replace("@service", "@service('A', name='B')"), ["'A'", "'B'", "keep one"]),
    "an unknown option of a service": (_class_option("colour=3"), ["Shop: @service has no option 'colour'", "it takes name, version, serialization, scoped"]),
    "a name that is no str": (_class_option("name=3"), ["Shop", "name", "str", "int"]),
    "a version that is no int": (_class_option("version='1'"), ["Shop", "version", "int", "'1'"]),
    "a version that is a bool": (_class_option("version=True"), ["Shop", "version", "int", "True"]),
    "a mode that is a str": (_class_option("serialization='XLANG'"), ["Shop", "serialization", "SerializationMode", "'XLANG'"]),
    "modes that are numbers": (_class_option("serialization=[1]"), ["Shop", "serialization", "SerializationMode", "1"]),
    "an interceptor that is not in a list": (_class_option("interceptors=Ask"), ["Shop", "interceptors", "list of classes"]),
    "an interceptor that is an instance": (_class_option("interceptors=[Ask()]"), ["Shop", "interceptors", "class"]),
    "an error that is not in a list": (_class_option("errors=Ask"), ["Shop", "errors", "list of classes"]),
    "an error that is an instance": (_class_option("errors=[Ask()]"), ["Shop", "errors", "a dataclass", "details of an RpcError"]),
    "an error that is an exception": (_class_option("errors=[KeyError]"), ["Shop", "KeyError in errors is an exception", "RpcError(..., details=[...])"]),
    "an error that is an Enum": (_class_option("errors=[SerializationMode]"), ["Shop", "SerializationMode in errors is an Enum", "a field of one"]),
    "an error that is a plain class": (_class_option("errors=[object]"), ["Shop: errors", "object", "cannot be a message"]),
    "a limit that is no int": (_class_option("max_concurrent_streams=1.5"), ["Shop", "max_concurrent_streams", "int", "1.5"]),
    "a limit that is a bool": (_class_option("max_concurrent_streams=True"), ["Shop", "max_concurrent_streams", "True"]),
    "a requirement that is a str": (_class_option("requires='admin'"), ["Shop", "requires", "CapabilityRequirement", "'admin'"]),
    "a session whose __init__ is async": (
        _class_option("scoped='stream'") + "\n    async def __init__(self, peer): ...",
        ["Shop.__init__ is async", "write 'def __init__"],
    ),
    "a session without peer": (_class_option("scoped='stream'"), ["Shop", "scoped='stream'", "'peer'", "def __init__(self, peer"]),
    "a session with a positional peer": (
        _class_option("scoped='stream'") + "\n    def __init__(self, peer, /): ...",
        ["Shop", "'peer'", "keyword"],
    ),
    "a close hook that is not async": (
        _class_option("scoped='stream'") + "\n    def __init__(self, peer): ...\n    def on_session_close(self): ...",
        ["Shop.on_session_close", "async def"],
    ),
    "a close hook that takes arguments": (
        _class_option("scoped='stream'") + "\n    def __init__(self, peer): ...\n    async def on_session_close(self, why): ...",
        ["Shop.on_session_close", "arguments"],
    ),
    "a close hook of a service without sessions": (
        _class_option("version=1") + "\n    async def on_session_close(self): ...",
        ["Shop has on_session_close", "shared", "scoped='stream'"],
    ),
    "a close hook that is an RPC": (
        _class_option("scoped='stream'") + "\n    def __init__(self, peer): ...\n    @rpc\n    async def on_session_close(self, ask: Ask) -> Answer: ...",
        ["Shop.on_session_close"],
    ),
    "an override that does not fit": (
        "class Base:\n    @rpc\n    async def find(self, ask: Ask) -> Answer: ...\n@service\nclass Shop(Base):\n    async def find(self): ...",
        ["Shop.find", "no request", "Base.find", "overrides"],
    ),
    "a method that was removed": (
        "class Base:\n    @rpc\n    async def find(self, ask: Ask) -> Answer: ...\n@service\nclass Shop(Base):\n    find = None",
        ["Shop.find", "async def", "Base.find"],
    ),
    "a name that is never defined": (_request("'Missing'") + "\nservice_info(Shop)", ["Shop.find", "'Missing'", "define or import", "TYPE_CHECKING"]),
    "a field of a type that is never defined": (
        f"@wire_type('shop/Sea')\n@dataclass\nclass Sea:\n    wave: 'Missing'\n{_request('Sea')}\nservice_info(Shop)",
        ["Shop.find", "Sea", "'Missing'", "import"],
    ),
}

_METHOD_OPTIONS = {
    "a timeout that is a str": (_option("timeout='3'"), ["Shop.find", "timeout", "number", "'3'"]),
    "a timeout that is a bool": (_option("timeout=True"), ["Shop.find", "timeout", "number", "True"]),
    "idempotent that is no bool": (_option("idempotent=1"), ["Shop.find", "idempotent", "True or False"]),
    "a method's mode that is a list": (_option("serialization=[SerializationMode.ROW]"), ["Shop.find", "serialization", "one SerializationMode"]),
    "a method's requirement that is a str": (_option("requires='admin'"), ["Shop.find", "requires", "CapabilityRequirement"]),
}

_VALUES = {
    "a timeout of zero": (_option("timeout=0"), ["Shop.find", "timeout", "positive", "0"]),
    "a negative timeout": (_option("timeout=-1.5"), ["Shop.find", "timeout", "positive", "-1.5"]),
    "an infinite timeout": (_option("timeout=math.inf"), ["Shop.find", "timeout", "finite", "for no limit use None"]),
    "a timeout that is not a number": (_option("timeout=math.nan"), ["Shop.find", "timeout", "finite", "nan"]),
    "an empty name": (_class_option("name=''"), ["Shop", "name", "1 to 128"]),
    "a name with a space": (_rpc().replace("@service", "@service('My Shop')"), ["Shop", "'My Shop'", "1 to 128"]),
    "a name of 129 characters": (_class_option("name='x' * 129"), ["Shop", "name", "1 to 128"]),
    "a name with a newline at its end": (_class_option("name='Shop\\n'"), ["Shop", "name", "1 to 128"]),
    "a class name that is no wire name": (_rpc().replace("Shop", "Café"), ["Café", "name", "@service(name=...)"]),
    "a method name that is no wire name": (_rpc().replace("find", "prüfe"), ["Shop.prüfe", "rename"]),
    "a version of zero": (_class_option("version=0"), ["Shop", "version", "1 or more"]),
    "a huge version": (_class_option("version=2**31"), ["Shop", "version", "2147483648", "2147483647"]),
    "no modes": (_class_option("serialization=[]"), ["Shop", "serialization", "empty", "XLANG"]),
    "one mode twice": (_class_option("serialization=[SerializationMode.ROW] * 2"), ["Shop", "serialization", "twice"]),
    "an unknown scope": (_class_option("scoped='session'"), ["Shop", "scoped='session'", "'shared'", "'stream'"]),
    "a limit of zero": (_class_option("max_concurrent_streams=0"), ["Shop", "max_concurrent_streams", "1 or more"]),
    "two types with one tag": (
        "@wire_type('shop/A')\n@dataclass\nclass First:\n    a: int = 0\n@wire_type('shop/A')\n@dataclass\nclass Second:\n    a: int = 0\n"
        + _rpc("(self, ask: First) -> Second"),
        ["Shop", "shop.First", "shop.Second", "'shop/A'", "@wire_type"],
    ),
    "two types in fields with one tag": (
        "@wire_type('shop/A')\n@dataclass\nclass First:\n    a: int = 0\n@wire_type('shop/A')\n@dataclass\nclass Second:\n    a: int = 0\n"
        "@wire_type('shop/B')\n@dataclass\nclass Both:\n    a: First\n    b: list[Second]\n" + _request("Both"),
        ["Shop", "shop.First", "shop.Second", "'shop/A'"],
    ),
    "a malformed tag": ("@wire_type('Ask')\n@dataclass\nclass Bare: ...", ["'Ask'", "Bare", "malformed"]),
    "a reserved tag": ("@wire_type('_aster/Ask')\n@dataclass\nclass Bare: ...", ["'_aster/Ask'", "Bare", "reserved"]),
}


def _table(cases: dict[str, tuple[str, list[str]]]) -> Any:
    return pytest.mark.parametrize(("source", "parts"), [pytest.param(*case, id=name.replace(" ", "-")) for name, case in cases.items()])


def _assert_refused(source: str, parts: list[str], error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        _run(source)
    assert [part for part in parts if part not in str(caught.value)] == [], str(caught.value)


@_table({**_KINDS, **_PARAMETERS, **_ANNOTATIONS, **_UNRESOLVABLE, **_CLASSES, **_METHOD_OPTIONS})
def test_a_wrong_shape_is_a_type_error_that_names_the_culprit_and_the_mend(source: str, parts: list[str]) -> None:
    _assert_refused(source, parts, TypeError)


@_table(_VALUES)
def test_a_wrong_value_is_a_value_error_that_names_the_culprit_and_the_mend(source: str, parts: list[str]) -> None:
    _assert_refused(source, parts, ValueError)


@pytest.mark.parametrize(
    "source",
    [
        _ANNOTATIONS["a field of a type that cannot be sent"][0],
        _CLASSES["a field of a type that is never defined"][0],
        _CLASSES["an override that does not fit"][0],
        _VALUES["two types with one tag"][0],
    ],
)
def test_a_traceback_says_what_is_wrong_once(source: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        _run(source)
    assert not isinstance(caught.value.__cause__, TypeError | ValueError)


@pytest.mark.parametrize("decorator", ["rpc", "server_stream", "client_stream", "bidi_stream"])
def test_every_method_decorator_checks_its_options(decorator: str) -> None:
    with pytest.raises(ValueError, match="timeout"):
        _run(_rpc(decorator=f"@{decorator}(timeout=-1)"))


def test_a_service_may_be_written_without_methods_but_not_served() -> None:
    shop = _run("@service\nclass Shop:\n    async def find(self, ask: Ask) -> Answer: ...").Shop
    assert aster.decorators.service_info(shop).methods == {}
    with pytest.raises(TypeError, match=r"^Shop has no methods: decorate at least one with @rpc, @server_stream, @client_stream, @bidi_stream$"):
        aster.decorators.check_implementation(shop())


@pytest.mark.parametrize(
    ("kind", "roles", "error", "says"),
    [
        ("roles", ("admin",), ValueError, "'role', 'any_of' or 'all_of', not 'roles'"),
        ("role", "admin", TypeError, r"a tuple of str, as role\('admin'\) .* make it, not 'admin'"),
        ("any_of", ["admin"], TypeError, "a tuple of str"),
        ("any_of", ("admin", 3), TypeError, "a tuple of str"),
        ("any_of", ("admin", ""), ValueError, "an empty role"),
        ("any_of", (), ValueError, "at least one role"),
        ("role", ("admin", "clerk"), ValueError, "exactly one role, not 2"),
    ],
)
def test_a_malformed_requirement_is_refused(kind: Any, roles: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        CapabilityRequirement(kind, roles)


def test_an_option_of_the_wrong_type_is_refused_before_the_shape_of_the_class_is_looked_at() -> None:
    with pytest.raises(TypeError, match="version"):
        _run("@service(version='1')\nclass Shop: ...")


def _fake(**attributes: object) -> type:
    """A class whose base seems to come from a package that is not installed."""
    return type("Model", (type("Base", (), attributes),), {"__module__": "shop"})


@dataclasses.dataclass
class _DataclassModel:
    __is_pydantic_dataclass__ = True
    __pydantic_fields__ = ()


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        (_fake(__pydantic_fields__={}), ["is a pydantic model", "use a standard dataclass", "__post_init__"]),
        (_DataclassModel, ["is a pydantic model", "use a standard dataclass", "__post_init__"]),
        (_fake(__struct_fields__=()), ["is a msgspec struct", "use a dataclass"]),
        (_fake(__attrs_attrs__=()), ["is an attrs class", "@dataclasses.dataclass instead"]),
    ],
    ids=["pydantic", "pydantic dataclass", "msgspec", "attrs"],
)
def test_a_model_of_another_library_is_refused_with_advice_of_its_own(monkeypatch: pytest.MonkeyPatch, model: type, parts: list[str]) -> None:
    monkeypatch.setitem(_NAMES, "Model", model)
    _assert_refused(_request("Model"), ["Shop.find", "'ask'", "Model", *parts], TypeError)


def test_a_real_attrs_class_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    attrs: Any = pytest.importorskip("attrs", reason="attrs is not installed")

    class Model:
        pass

    monkeypatch.setitem(_NAMES, "Model", attrs.define(Model))
    _assert_refused(_request("Model"), ["Shop.find", "'ask'", "Model", "is an attrs class", "@dataclasses.dataclass instead"], TypeError)


def test_a_mistake_inside_a_function_is_named_without_the_function() -> None:
    def define() -> None:
        @aster.decorators.service
        class Shop:
            @aster.decorators.rpc
            async def find(self, ask: messages.Ask) -> str: ...

    with pytest.raises(TypeError, match=r"^Shop\.find: its result is str"):
        define()


def test_a_name_that_only_type_checkers_import_is_found_out_at_the_first_use() -> None:
    module = _run(_request("'Missing'"))
    for _ in range(2):
        with pytest.raises(TypeError, match="Missing") as caught:
            aster.decorators.service_info(module.Shop)
        assert type(caught.value) is TypeError
