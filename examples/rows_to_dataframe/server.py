"""Serves readings of four sensors. ``python examples/rows_to_dataframe/server.py``; the first line of output is its address."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import anyio
from service import Quality, Reading, ReadingsRequest, SensorService

import aster

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)


class Sensors(SensorService):
    @aster.server_stream
    async def readings(self, req: ReadingsRequest) -> AsyncIterator[Reading]:
        for number in range(req.count):
            yield Reading(
                sensor=f"sensor {number % 4}",
                measured=BEGIN + number * SECOND,
                celsius=18.0 + number % 4 + (number // 4) % 3,
                humidity=None if number % 10 == 0 else 0.5,
                quality=Quality.DOUBTFUL if number % 10 == 0 else Quality.GOOD,
            )


async def main() -> None:
    async with aster.serve(services=[Sensors()], listen="127.0.0.1:0") as server:
        print(server.address, flush=True)
        await server.serve()  # until SIGTERM or Ctrl-C


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    anyio.run(main, backend=parser.parse_args().backend)
