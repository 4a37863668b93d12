"""Calls and messages a second: Aster beside grpc.aio and beside its bare engine, in one run. See ``docs/reference/performance.md``."""
