"""pyarrow, which has no types to offer, as ``Any``."""

from __future__ import annotations

from typing import Any

try:
    import pyarrow  # pyright: ignore[reportMissingTypeStubs]
except ImportError as exc:
    raise ImportError("aster.arrow needs pyarrow, which cannot be imported here: pip install 'aster-anyio[arrow]'", name="pyarrow") from exc

__all__ = ["pa"]

pa: Any = pyarrow
