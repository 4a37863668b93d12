"""Payloads in each mode: a value of exactly the declared type comes out, or one decoding error."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from aster.codec import make_codec
from aster.types import SerializationMode
from tests.codec.models import CODECS, MESSAGES, tags_of
from tests.codec.test_hostile import OTHER, decode_or_fail
from tests.fuzz.script import Script
from tests.fuzz.target import Run, Target
from tests.fuzz.values import value_of

__all__ = ["NATIVE", "XLANG"]


def _target(mode: SerializationMode) -> Target:
    codec = CODECS[mode]

    def make(chance: random.Random) -> bytes:
        declared = chance.randrange(len(MESSAGES))
        # Now and then another type than the one that is expected, or the other mode.
        sent = declared if chance.random() < 0.95 else chance.randrange(len(MESSAGES))
        encoder: Callable[[Any], bytes] = (codec if chance.random() < 0.97 else CODECS[OTHER[mode]]).encoder(MESSAGES[sent])
        return bytes((declared,)) + encoder(value_of(MESSAGES[sent], chance))

    @contextmanager
    def world() -> Generator[Run]:
        fresh = make_codec(mode, tags_of(*MESSAGES))  # so that what other tests have made fail does not decide when its instances are replaced

        def run(data: bytes) -> str:
            script = Script(data)
            cls = MESSAGES[script.byte() % len(MESSAGES)]
            payload = script.rest()
            if not decode_or_fail(fresh, cls, payload):
                return "decoding error"
            assert not decode_or_fail(fresh, cls, payload + b"\x00"), "what follows a value was passed over"
            return "value"

        yield run

    name = mode.name.lower()
    return Target(name, f"payloads, {mode.name}", name, make, world, frozenset({"value", "decoding error"}), share=100, cost=0.15)


XLANG, NATIVE = _target(SerializationMode.XLANG), _target(SerializationMode.NATIVE)
