"""The mutants that no test can tell from the package, by name, each with the reason."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["SURVIVORS"]

SURVIVORS: Mapping[str, str] = {}
