"""What both processes know of the service: a reading, and the method that streams many of them as rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

import aster


@aster.wire_type("example.sensors/Quality")
class Quality(Enum):
    GOOD = "good"
    DOUBTFUL = "doubtful"


@aster.wire_type("example.sensors/ReadingsRequest")
@dataclass
class ReadingsRequest:
    count: int = 0


@aster.wire_type("example.sensors/Reading")
@dataclass
class Reading:
    sensor: str
    measured: datetime
    celsius: float
    humidity: float | None
    quality: Quality


@aster.service("Sensors", version=1, serialization=aster.SerializationMode.ROW)
class SensorService(ABC):
    @aster.server_stream
    @abstractmethod
    def readings(self, req: ReadingsRequest) -> AsyncIterator[Reading]:
        """As many readings as the request says, one a second from the beginning of 2026."""
