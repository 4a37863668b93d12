"""The program in JavaScript, and what it should make of Python's values."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import math
import os
import subprocess
import uuid
from pathlib import Path
from typing import Any, cast

from tests.interop import golden

_SCRIPT = Path(__file__).parent / "fory_js.mjs"


def run_javascript(build: str) -> Any:
    """What JavaScript reads in the recorded payloads of Aster, and what it writes.

    Args:
        build: the path of a build of Fory's core package for JavaScript.

    Raises:
        subprocess.CalledProcessError: node fails.
    """
    done = subprocess.run(
        ["node", str(_SCRIPT), build],
        input=json.dumps(golden.load(golden.ASTER)),
        env=os.environ | {"TZ": "UTC"},  # JavaScript reads a date as midnight of the local time
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def in_javascript(value: Any) -> Any:
    """The reading of a value that is right, in the JSON form of ``fory_js.mjs``. What JavaScript's types cannot hold is cut off here as it is there."""
    match value:
        case enum.Enum():
            return value.value
        case bool() | str() | None:
            return value
        case int():
            return {"bigint": str(value)}
        case float():
            return _number(value)
        case bytes():
            return {"bytes": value.hex()}
        case list() | tuple():
            return [in_javascript(item) for item in cast("list[Any]", value)]
        case set() | frozenset():
            return {"set": [in_javascript(item) for item in cast("set[Any]", value)]}
        case dict():
            return {"map": [[in_javascript(key), in_javascript(item)] for key, item in cast("dict[Any, Any]", value).items()]}
        case datetime.datetime():
            instant = value.replace(tzinfo=datetime.UTC) if value.tzinfo is None else value.astimezone(datetime.UTC)
            return {"date": instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")}
        case datetime.date():
            return {"date": f"{value.isoformat()}T00:00:00.000Z"}
        case datetime.timedelta():
            return _number((value.days * 86_400 + value.seconds) * 1000 + value.microseconds / 1000)
        case decimal.Decimal():
            exponent = cast("int", value.as_tuple().exponent)
            return {"decimal": [str(int(value.scaleb(-exponent))), -exponent]}
        case uuid.UUID():
            return {"hex": value.hex}
        case datetime.time():
            micros = ((value.hour * 60 + value.minute) * 60 + value.second) * 1_000_000 + value.microsecond
            return {"number": {"bigint": str(micros * 2 + value.fold)}}
        case _:
            return {field.name: in_javascript(getattr(value, field.name)) for field in dataclasses.fields(value)}


def _number(value: float) -> Any:
    if not math.isfinite(value):
        return {"number": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    return {"number": "-0"} if value == 0 and math.copysign(1, value) < 0 else value
