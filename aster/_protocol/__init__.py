"""The wire protocol without I/O: bytes in, state and bytes out. ``docs/wire.md`` is its specification."""
