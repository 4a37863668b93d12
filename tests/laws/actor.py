"""A service whose handlers do what their callers tell them to, step by step, and keep a record of it."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

import anyio

import aster
from aster.codec import wire_type
from aster.decorators import bidi_stream, client_stream, rpc, server_stream, service
from aster.errors import RpcError, StatusCode
from tests.rpc.probes import kept_cancellation

__all__ = ["Actor", "Part", "Plan", "Run", "Step", "message"]


@wire_type("tests.laws/Step")
@dataclass
class Step:
    """One thing to do.

    ``send``: a response of ``amount`` bytes. ``pour``: such responses without an end. ``wait``: for ``seconds``. ``hang``: for ever. ``read``: ``amount``
    requests. ``drain``: all requests. ``raise cancellation``: by hand, while nothing cancels it. ``fail``: with the status code ``amount``. ``bug``: raise
    something else. ``linger``: when the handler ends after this, clean up for ``seconds``, shielded.
    """

    what: str
    amount: int = 0
    seconds: float = 0.0


@wire_type("tests.laws/Plan")
@dataclass
class Plan:
    """What a handler is to do. ``key`` names its record."""

    key: int = 0
    steps: list[Step] = field(default_factory=list[Step])


@wire_type("tests.laws/Part")
@dataclass
class Part:
    """A message; the first one of a stream of requests has the plan."""

    number: int = 0
    data: bytes = b""
    plan: Plan | None = None


def message(number: int, size: int) -> Part:
    """The message of a number, whose data has no two pieces alike: none of it can be lost, repeated or exchanged unnoticed."""
    return Part(number, hashlib.shake_128(number.to_bytes(8, "big", signed=True)).digest(size))


@dataclass
class Run:
    """What became of one handler."""

    began: int = 0
    read: list[int] = field(default_factory=list[int])
    checksum: int = 0
    """CRC-32 of the data of all requests read, one after the other."""
    sent: int = 0
    cancelled: int = 0
    finals: int = 0
    where: str = ""
    """The step at which it is."""
    remaining: float = math.inf
    """Seconds until its deadline when it began."""
    unwound_at: float | None = None


@service("Actor")
class Actor:
    """Handlers of all four patterns."""

    def __init__(self) -> None:
        self.runs: dict[int, Run] = {}
        self.on_unwound: Callable[[Run], None] = lambda run: None
        """Called last thing in each handler."""

    @rpc
    async def unary(self, plan: Plan) -> Part:
        """The last response of the plan."""
        return await self._last(plan, None)

    @server_stream
    async def stream(self, plan: Plan) -> AsyncIterator[Part]:
        """The responses of the plan."""
        async with aclosing(self._carry_out(plan, None)) as parts:
            async for part in parts:
                yield part

    @client_stream
    async def gather(self, parts: AsyncIterator[Part]) -> Part:
        """The last response of the plan that the first request brings."""
        return await self._last(await _plan_of(parts), parts)

    @bidi_stream
    async def talk(self, parts: AsyncIterator[Part]) -> AsyncIterator[Part]:
        """The responses of the plan that the first request brings."""
        async with aclosing(self._carry_out(await _plan_of(parts), parts)) as responses:
            async for part in responses:
                yield part

    async def _last(self, plan: Plan, requests: AsyncIterator[Part] | None) -> Part:
        last = Part(-1)
        async with aclosing(self._carry_out(plan, requests)) as parts:
            async for part in parts:
                last = part
        return last

    async def _carry_out(self, plan: Plan, requests: AsyncIterator[Part] | None) -> AsyncGenerator[Part]:
        run = self.runs.setdefault(plan.key, Run())
        run.began += 1
        run.remaining = aster.current_call().deadline - anyio.current_time()
        linger = 0.0
        try:
            for step in plan.steps:
                run.where = step.what
                match step.what:
                    case "send":
                        run.sent += 1
                        yield message(run.sent - 1, step.amount)
                    case "pour":
                        while True:
                            run.sent += 1
                            yield message(run.sent - 1, step.amount)
                    case "wait":
                        await anyio.sleep(step.seconds)
                    case "hang":
                        await anyio.sleep_forever()
                    case "read" if requests is not None:
                        await _read(requests, run, step.amount)
                    case "drain" if requests is not None:
                        await _read(requests, run, None)
                    case "fail":
                        raise RpcError(StatusCode(step.amount), f"step {step.what}")
                    case "raise cancellation":
                        raise await kept_cancellation()
                    case "bug":
                        raise ZeroDivisionError
                    case "linger":
                        linger = step.seconds
                    case _:
                        pass
            run.where = "the end"
        except anyio.get_cancelled_exc_class():
            run.cancelled += 1
            raise
        finally:
            run.finals += 1
            if linger:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(linger)
            run.unwound_at = anyio.current_time()
            self.on_unwound(run)


async def _plan_of(parts: AsyncIterator[Part]) -> Plan:
    first = await anext(parts)
    assert first.plan is not None
    return first.plan


async def _read(requests: AsyncIterator[Part], run: Run, most: int | None) -> None:
    while most is None or most > 0:
        try:
            part = await anext(requests)
        except StopAsyncIteration:
            return
        run.read.append(part.number)
        run.checksum = zlib.crc32(part.data, run.checksum)
        if most is not None:
            most -= 1
