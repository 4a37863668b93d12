"""Streams of rows as Apache Arrow record batches, where pandas, polars and DuckDB begin. Needs the extra: ``pip install 'aster-anyio[arrow]'``.

::

    async with record_batches(sensors.readings(request), Reading) as batches:
        async for batch in batches:
            ...

Values are gathered column by column, and of a view only the fields that are columns are read: no row is materialized, and so no ``__post_init__`` runs.
"""

from __future__ import annotations

from aster.arrow.batches import RecordBatches, arrow_schema, record_batches

__all__ = ["RecordBatches", "arrow_schema", "record_batches"]
