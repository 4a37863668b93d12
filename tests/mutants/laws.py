"""Which functions carry which law, and the mutants of them. The functions are chosen; what is broken in them is not."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256

from tests.mutants.mutant import ROOT, Mutant, differs, parsed
from tests.mutants.operators import OPERATORS, Function, broken

__all__ = ["CARRIERS", "law_mutants", "sample"]

_OUT = "aster._outgoing:OutgoingCall"
_IN = "aster._incoming:IncomingCall"
_CLIENT = "aster._client_connection:ClientConnection"
_SERVER = "aster._server_connection:ServerConnection"
_CHANNEL = "aster._channel:ClientChannel"
_IN_SESSION = "aster._incoming_session:IncomingSession"
_OUT_SESSION = "aster._outgoing_session:OutgoingSession"
_HALVES = "aster._protocol.call"

CARRIERS: Mapping[int, Sequence[str]] = {
    1: [f"{_IN}._start", f"{_IN}._run", f"{_IN}._finish", f"{_IN}._over_if_ended", f"{_IN}._never_ran"],
    2: ["aster._lifetime:Lifetime.close", "aster._lifetime:Lifetime._run_to_its_end", "aster._lifetime:_leave", f"{_CHANNEL}.leave", f"{_OUT}._release"],
    3: [f"{_OUT}.cancel", f"{_OUT}._tear_down", f"{_IN}.was_reset", f"{_IN}._interrupt", f"{_IN}._send_all", f"{_IN}._raised", f"{_OUT}.abandon"],
    4: [f"{_CHANNEL}.leave", "aster._channel:_finish_calls", f"{_CLIENT}.call_over", f"{_OUT}.finished", f"{_OUT}.was_reset", f"{_OUT}._release"],
    5: ["aster._invoke:_begin", "aster._invoke:_Begun.conclude", f"{_OUT}._open", f"{_OUT}._expire", f"{_IN}._time_limit", f"{_IN}._outcome_of"],
    6: [f"{_HALVES}:ReceiveHalf.part", f"{_HALVES}:ReceiveHalf.message", f"{_HALVES}:ReceiveHalf.take", f"{_HALVES}:SendHalf.message", f"{_OUT}.send"],
    7: [f"{_OUT}._settle", f"{_OUT}.data_received", f"{_OUT}.finished", f"{_OUT}._broken", f"{_IN}._finish", f"{_HALVES}:ClientCall.receive_end"],
    8: [f"{_OUT}.end_requests", f"{_OUT}.was_stopped", f"{_IN}.finished", f"{_HALVES}:ServerCall.receive_end", "aster._pump:RequestPump.stop"],
    9: [
        f"{_HALVES}:SendHalf.ready",
        f"{_HALVES}:SendHalf.granted",
        f"{_HALVES}:ReceiveHalf._hold",
        f"{_HALVES}:ReceiveHalf.grant",
        "aster._call:CallDriver.wait_credit",
        "aster._call:CallDriver.receive",
    ],
    10: [f"{_IN}.data_received", f"{_IN}.fail", f"{_IN}._failed", f"{_IN}._guarded", f"{_SERVER}.admit", f"{_SERVER}._broken", f"{_OUT}._broken"],
    11: [
        f"{_IN_SESSION}._receive",
        f"{_IN_SESSION}._begin_call",
        f"{_IN_SESSION}.call_over",
        f"{_IN_SESSION}.end",
        f"{_IN_SESSION}.drain",
        f"{_IN_SESSION}._live_through",
        f"{_IN_SESSION}._wait_for_the_end",
        f"{_IN_SESSION}._passing",
        f"{_IN_SESSION}._close",
        f"{_IN_SESSION}._finish",
        f"{_OUT_SESSION}.leave",
        f"{_OUT_SESSION}._receive",
        f"{_OUT_SESSION}.call_over",
        "aster._sessions:SessionBlock._closed",
        "aster._protocol.session:ServerSession._begins",
    ],
    12: [
        f"{_OUT}.connection_lost",
        f"{_IN}.connection_lost",
        f"{_CLIENT}.connection_lost",
        f"{_SERVER}.connection_lost",
        f"{_CHANNEL}.connection_changed",
        "aster.transports.memory:_MemoryConnection.lose",
        "aster.transports.quic.connection:QuicConnection.tell_lost",
        "aster.transports.quic.connection:QuicConnection._finish_off",
        "aster.transports.quic.connection:QuicConnection._on_timer",
    ],
    13: [
        f"{_OUT}._may_be_repeated",
        f"{_OUT}._was_seen_by_no_handler",
        f"{_OUT}._failed",
        f"{_OUT}.begin_again",
        f"{_CHANNEL}.repeat",
        f"{_CHANNEL}._begin_again",
        "aster._retries:Backoff.next",
        "aster._retries:RetryBudget.spend",
        "aster._retries:RetryBudget.earn",
    ],
    14: [
        "aster.server:AsterServer.drain",
        "aster.server:AsterServer._refuse_new_calls",
        "aster.server:AsterServer._stop_handlers",
        "aster.server:AsterServer._give_grace",
        "aster.server:AsterServer._release_peers",
        f"{_SERVER}.announce_drain",
        f"{_SERVER}.stop_calls",
    ],
    15: [
        "aster.transports.memory:_MemoryStream.reset",
        "aster.transports.memory:_MemoryStream.finish",
        "aster.transports.memory:_MemoryConnection._deliver_to_stream",
        "aster.transports.quic.connection:QuicConnection._data_received",
        "aster.transports.quic.connection:QuicConnection._stream_reset",
        "aster._tasks:StartedTask.cancel",
    ],
    16: [f"{_HALVES}:ServerCall.receive_data", f"{_HALVES}:ClientCall.receive_data", f"{_HALVES}:_unexpected", f"{_SERVER}._control_frame"],
}


def law_mutants(law: int) -> list[Mutant]:
    """Every mutant of the functions that carry a law, in the order of the table."""
    return [mutant for carrier in CARRIERS[law] for mutant in _mutants_of(carrier, law)]


def sample(mutants: Sequence[Mutant], most: int, seed: int) -> list[Mutant]:
    """Some of the mutants of a law: the same for the same seed, also when others come or go."""
    return sorted(mutants, key=lambda mutant: sha256(f"{seed} {mutant.name}".encode()).digest())[:most]


def _mutants_of(carrier: str, law: int) -> Iterator[Mutant]:
    module, _, path = carrier.partition(":")
    tree = parsed(module)
    function = _find(tree, path)
    original = ast.unparse(tree)
    for kind, operator in OPERATORS.items():
        for number, (source, line, what) in enumerate(broken(tree, function, operator)):
            if differs(source, original):
                yield Mutant(f"{carrier}:{kind}:{number}", f"law {law}", module, line, f"{kind}: {what}", source, _stages(law))


def _find(tree: ast.Module, path: str) -> Function:
    node: ast.Module | ast.ClassDef | Function = tree
    for name in path.split("."):
        kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        node = next(child for child in node.body if isinstance(child, kinds) and child.name == name)
    assert isinstance(node, Function), path
    return node


def _stages(law: int) -> tuple[tuple[str, ...], ...]:
    tests = tuple(str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests" / "laws").glob(f"test_law_{law:02}_*.py")))
    assert tests, f"no test of law {law}"
    return tests, ("tests/protocol", "tests/rpc")
