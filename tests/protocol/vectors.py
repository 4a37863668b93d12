"""The tables of ``docs/wire.md``, and the same bytes as Aster makes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from aster._protocol.call import ClientCall, ServerCall
from aster._protocol.events import Describe, Description, GoAway, Hello, MethodEntry, ResetCode, ServiceEntry, Setting, Target, Trailer, TrailerOrigin
from aster._protocol.frames import (
    FrameKind,
    encode_call,
    encode_call_end,
    encode_cancel,
    encode_contract,
    encode_credit,
    encode_describe,
    encode_frame,
    encode_go_away,
    encode_header,
    encode_header_start,
    encode_hello,
    encode_message,
    encode_metadata,
    encode_session,
    encode_session_end,
    encode_trailer,
)
from aster._protocol.session import ClientSession, ServerSession
from aster.errors import StatusCode
from aster.types import Metadata, RpcPattern, SerializationMode
from tests.protocol.pair import limits_of

__all__ = ["CONTRACT", "encoded_by_aster", "rows"]

CONTRACT = (
    b'{"aster":1,"methods":[{"modes":["XLANG"],"name":"get_task","pattern":"UNARY","request":"demo.Task","response":"demo.Task"}],"scope":"shared",'
    b'"service":"demo.TaskService","types":[{"members":[["LOW",1],["HIGH",5]],"name":"demo.Level"},{"fields":['
    b'{"default":false,"name":"id","type":"str"},{"default":true,"name":"level","type":["optional",["type","demo.Level"]]},'
    b'{"default":true,"name":"next","type":["list",["type","demo.Task"]]}],"name":"demo.Task"}],"version":1}'
)
"""The canonical form of a small service's contract, its types recursive."""

_PAGE = Path(__file__).parents[2] / "docs" / "wire.md"


def rows(first_column: str, *others: str) -> list[list[str]]:
    """The rows of all tables of the page that have exactly these columns, without back-ticks."""
    return [row for header, body in _tables() if header == [first_column, *others] for row in body]


def _tables() -> Iterator[tuple[list[str], list[list[str]]]]:
    table: list[list[str]] = []
    for line in [*_PAGE.read_text(encoding="utf-8").splitlines(), ""]:
        if line.startswith("|"):
            table.append([cell.strip().strip("`") for cell in line[1:-1].split("|")])
        elif table:
            yield table[0], table[2:]
            table = []


def encoded_by_aster() -> Mapping[str, bytes]:
    """The bytes of each vector, by its name on the page."""
    limits = limits_of()
    target = Target("demo.TaskService", 1, "get_task", RpcPattern.UNARY, SerializationMode.XLANG)
    start = encode_header_start(target)
    metadata = Metadata([("trace-id", "ä1"), ("trace-bin", b"\x00\xff"), ("trace-id", "")])
    settings: dict[int, int] = {
        Setting.WINDOW: 262_144,
        Setting.MESSAGE_LIMIT: 4_194_304,
        Setting.METADATA_LIMIT: 8_192,
        Setting.CALL_LIMIT: 1_000,
        Setting.SESSION_LIMIT: 256,
        Setting.CLEANUP_MILLISECONDS: 5_000,
    }
    methods = (
        MethodEntry("get_task", RpcPattern.UNARY, frozenset({SerializationMode.XLANG})),
        MethodEntry("watch", RpcPattern.SERVER_STREAM, frozenset({SerializationMode.XLANG, SerializationMode.ROW})),
    )
    services = (ServiceEntry("demo.TaskService", 1, False, b"\xca\xfe", methods), ServiceEntry("demo.Room", 300, True, b"", ()))
    failure = Trailer(StatusCode.NOT_FOUND, TrailerOrigin.HANDLER, "no task «7»", (("demo/Hint", b"\x01\x02"),), Metadata({"retry": "never"}))
    client, server = ClientCall(RpcPattern.UNARY, limits), ServerCall(limits)
    requests = client.send_header(start, 1.5, Metadata({"user": "ada"})) + client.send_message(b"ask") + client.send_end()
    server.receive_data(requests)
    responses = server.send_message(b"answer") + server.send_trailer(Trailer())
    return {
        "client hello": encode_hello(Hello((1,), settings)),
        "server hello": encode_hello(Hello((1, 2), settings, services, {"demo": b"\x07"})),
        "least hello": encode_hello(Hello((1,), {})),
        "go away": encode_go_away(GoAway(8, "update")),
        "go away at once": encode_go_away(GoAway(-1)),
        "describe": encode_describe(Describe("demo.TaskService", 1)),
        "contract": encode_contract(Description("demo.TaskService", 1, CONTRACT)),
        "header": encode_header(start, None, Metadata()),
        "header with deadline": encode_header(start, 1.5, Metadata()),
        "header without time left": encode_header(start, 0.0, Metadata()),
        "header with metadata": encode_header(start, None, metadata),
        "message": encode_message(b"hello"),
        "empty message": encode_message(b""),
        "message of one full chunk": encode_message(b"a" * 16_384),
        "message of two full chunks": encode_message(b"a" * 32_768),
        "message in three chunks": encode_message(b"a" * 32_768 + b"bc"),
        "end": encode_frame(FrameKind.END, b""),
        "credit": encode_credit(131_072),
        "metadata": encode_metadata(metadata),
        "empty metadata": encode_metadata(Metadata()),
        "success": encode_trailer(Trailer()),
        "success with metadata": encode_trailer(Trailer(metadata=Metadata({"took": "3 ms"}))),
        "failure": encode_trailer(failure),
        "deadline by the server": encode_trailer(Trailer(StatusCode.DEADLINE_EXCEEDED, TrailerOrigin.DEADLINE, "late")),
        "unary call, requests": requests,
        "unary call, responses": responses,
        "session": encode_session("demo.Room", 300),
        "ready": encode_frame(FrameKind.READY, b""),
        "call, the first 3 bytes of a half": encode_call(0, b"\x11\x05h"),
        "call in two frames": encode_call(64, b"a" * 20_000),
        "call end": encode_call_end(0),
        "cancel": encode_cancel(64, ResetCode.DEADLINE),
        "session end": encode_session_end(Trailer()),
        "session end with a reason": encode_session_end(Trailer(StatusCode.UNAVAILABLE, TrailerOrigin.SERVER, "update")),
        **_whole_session(),
    }


def _whole_session() -> Mapping[str, bytes]:
    """A session of two calls: the first one succeeds, the second is cancelled while its handler waits for requests; then the client leaves."""
    limits = limits_of()
    client, server = ClientSession(8_192), ServerSession(8_192)
    requests = client.send_open("demo.Room", 300)
    list(server.receive_data(requests))
    responses = server.send_ready()
    list(client.receive_data(responses))

    first, answer = ClientCall(RpcPattern.UNARY, limits), ServerCall(limits)
    start = encode_header_start(Target("demo.Room", 300, "say", RpcPattern.UNARY, SerializationMode.XLANG))
    client.begin_call()
    data = first.send_header(start, None, Metadata()) + first.send_message(b"hi") + first.send_end()
    answer.receive_data(data)
    sent = client.send_call(data)
    list(server.receive_data(sent))
    requests += sent
    sent = server.send_call(answer.send_message(b"hello")) + server.send_call(answer.send_trailer(Trailer())) + server.send_call_end()
    list(client.receive_data(sent))
    responses += sent

    second = ClientCall(RpcPattern.BIDI_STREAM, limits)
    start = encode_header_start(Target("demo.Room", 300, "chat", RpcPattern.BIDI_STREAM, SerializationMode.XLANG))
    client.begin_call()
    sent = client.send_call(second.send_header(start, None, Metadata())) + client.send_call(second.send_message(b"a")) + client.send_cancel(ResetCode.CANCELLED)
    sent += client.send_end()
    list(server.receive_data(sent))
    requests += sent
    responses += server.send_call_end() + server.send_end(Trailer())
    return {"session of two calls, requests": requests, "session of two calls, responses": responses}
