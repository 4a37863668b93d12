"""Interceptors: what wraps whole calls, at either end.

A server's are given to ``serve(interceptors=[...])`` and to ``@service(interceptors=[...])``, a client's to ``connect(interceptors=[...])``.
"""

from aster.interceptors.base import InterceptedCall, Interception, Interceptor, check_intercepts, checked_interceptors
from aster.interceptors.chain import CallState, composed
from aster.interceptors.logging import LoggingInterceptor, request_id

__all__ = [
    "CallState",
    "InterceptedCall",
    "Interception",
    "Interceptor",
    "LoggingInterceptor",
    "check_intercepts",
    "checked_interceptors",
    "composed",
    "request_id",
]
