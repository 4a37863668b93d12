"""Streams 100,000 readings into a pandas DataFrame, with a progress bar, and says how warm it was. Needs ``pip install '.[arrow]' pandas tqdm``.

``ASTER_ENDPOINT_ADDR=aster://... python examples/rows_to_dataframe/client.py [--rows 100000]``
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import anyio
import pyarrow
from service import Reading, ReadingsRequest, SensorService
from tqdm import tqdm

import aster
from aster.arrow import arrow_schema, record_batches


async def main(rows: int) -> int:
    gathered: list[Any] = []
    try:
        async with aster.connect() as client:
            sensors = await client.client(SensorService)
            # The readings arrive as views. What is read of them goes straight into columns, and 5,000 of them are gone before the next ones come.
            async with record_batches(sensors.readings(ReadingsRequest(rows)), Reading, size=5_000) as batches:
                with tqdm(total=rows, unit="rows", unit_scale=True) as bar:
                    async for batch in batches:
                        gathered.append(batch)
                        bar.update(batch.num_rows)
    except (aster.RpcError, aster.ConnectError) as exc:
        print(exc, file=sys.stderr)
        return 1
    frame = pyarrow.Table.from_batches(gathered, arrow_schema(Reading)).to_pandas()
    print(f"{len(frame):,} rows, from {frame['measured'].min()} to {frame['measured'].max()}")
    good = frame[frame["quality"] == "GOOD"]
    print(good.groupby("sensor")["celsius"].agg(["count", "mean"]).round(2).to_string())
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    options = parser.parse_args()
    try:
        sys.exit(anyio.run(main, options.rows, backend=options.backend))
    except KeyboardInterrupt:
        # By now the stream was closed, and its handler has ended.
        sys.exit(130)
