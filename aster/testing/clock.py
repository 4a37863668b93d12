"""Virtual time on both backends: a wait of an hour takes no time, and what takes no time on the clock is seen to take none.

The clock stands still while anything can run, and jumps to the next deadline when nothing can. Use it where all that a program waits for is inside it, as over
``MemoryTransport``: a network, a thread or another process does not make the clock wait for it.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

__all__ = ["VirtualTimeLoop", "virtual_time_backend"]


class _JumpingSelector(selectors.BaseSelector):
    """Reports what is ready; when nothing is, time passes instead of being waited for."""

    def __init__(self) -> None:
        self.now = 0.0
        self._real = selectors.DefaultSelector()

    def register(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        # Without any deadline only a thread or a signal can bring news: that is a real wait.
        ready = self._real.select(None if timeout is None else 0)
        if not ready and timeout is not None and timeout > 0:
            self.now += timeout
        return ready

    def close(self) -> None:
        self._real.close()

    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey]:
        return self._real.get_map()


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An asyncio loop whose clock begins at zero and jumps: ``anyio.run(main, backend_options={"loop_factory": VirtualTimeLoop})``."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds of virtual time since the loop was made."""
        return self._jumping.now


def virtual_time_backend(name: str) -> tuple[str, dict[str, Any]]:
    """A backend in virtual time, as AnyIO's pytest plugin takes it from an ``anyio_backend`` fixture. Each result serves one run.

    Args:
        name: ``"asyncio"`` or ``"trio"``.

    Raises:
        ValueError: there is no such backend.
    """
    if name == "asyncio":
        return name, {"loop_factory": VirtualTimeLoop}
    if name == "trio":
        from trio.testing import MockClock

        return name, {"clock": MockClock(autojump_threshold=0)}
    raise ValueError(f"there is no backend {name!r}; use 'asyncio' or 'trio'")
