"""Interceptors that tests make of functions, and that note what passes."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import pytest

import aster
from tests.rpc.echo import Item

Around = Callable[[aster.InterceptedCall], AsyncGenerator[None]]


class By(aster.Interceptor):
    """Runs what a test gives it."""

    def __init__(self, around: Around) -> None:
        self._around = around

    async def intercept(self, call: aster.InterceptedCall) -> AsyncIterator[None]:
        steps = self._around(call)
        await anext(steps)
        try:
            yield
        except BaseException as exc:
            try:
                await steps.athrow(exc)
            except StopAsyncIteration:
                return
            raise AssertionError from exc
        with pytest.raises(StopAsyncIteration):
            await anext(steps)


class Noting(aster.Interceptor):
    """Notes what passes by, under a name."""

    def __init__(self, name: str, log: list[str]) -> None:
        self._name = name
        self._log = log

    async def intercept(self, call: aster.InterceptedCall) -> AsyncIterator[None]:
        self._log.append(f"{self._name} in")
        call.on_request(functools.partial(self._pass, "request"))
        call.on_response(functools.partial(self._pass, "response"))
        try:
            yield
        except BaseException as exc:
            self._log.append(f"{self._name} {exc.code.name if isinstance(exc, aster.RpcError) else 'cancelled'}")
            raise
        self._log.append(f"{self._name} out")

    def _pass(self, kind: str, message: Item) -> Item:
        self._log.append(f"{self._name} {kind}")
        return message
