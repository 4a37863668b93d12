"""Aster: RPC for Python on structured concurrency. Every call is a task that owns its stream; deadlines, cancellation and errors cross the wire.

``docs/tutorial.md`` shows the way in; ``aster.serve`` and ``aster.connect`` are the two ends.
"""

from aster._call import current_call
from aster._contract import contract_id
from aster._incoming_session import SessionContext, current_session
from aster._invoke import InteractiveCall
from aster._sessions import SessionBlock
from aster._streams import ResponseStream
from aster.client import AsterClient, open_call, with_options
from aster.codec import buffer_of, materialize, wire_type
from aster.decorators import bidi_stream, client_stream, rpc, server_stream, service
from aster.errors import (
    AddressError,
    AsterError,
    AutoTagWarning,
    ConnectError,
    DecodeError,
    IdentityError,
    IncompatiblePeerError,
    KeyFileError,
    RefusedError,
    RpcError,
    StatusCode,
    UnknownDetail,
    UnreachableError,
)
from aster.interceptors import InterceptedCall, Interceptor, LoggingInterceptor, request_id
from aster.server import AsterServer
from aster.trust import Identity
from aster.types import CallContext, CapabilityRequirement, Metadata, MethodInfo, Peer, RpcPattern, SerializationMode, ServiceInfo, all_of, any_of, role

__all__ = [
    "AddressError",
    "AsterClient",
    "AsterError",
    "AsterServer",
    "AutoTagWarning",
    "CallContext",
    "CapabilityRequirement",
    "ConnectError",
    "DecodeError",
    "Identity",
    "IdentityError",
    "IncompatiblePeerError",
    "InteractiveCall",
    "InterceptedCall",
    "Interceptor",
    "KeyFileError",
    "LoggingInterceptor",
    "Metadata",
    "MethodInfo",
    "Peer",
    "RefusedError",
    "ResponseStream",
    "RpcError",
    "RpcPattern",
    "SerializationMode",
    "ServiceInfo",
    "SessionBlock",
    "SessionContext",
    "StatusCode",
    "UnknownDetail",
    "UnreachableError",
    "all_of",
    "any_of",
    "bidi_stream",
    "buffer_of",
    "client_stream",
    "connect",
    "contract_id",
    "current_call",
    "current_session",
    "materialize",
    "open_call",
    "request_id",
    "role",
    "rpc",
    "serve",
    "server_stream",
    "service",
    "wire_type",
    "with_options",
]

serve = AsterServer
connect = AsterClient
