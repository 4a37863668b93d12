"""What both processes know of the service: its messages, and its methods without their bodies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import aster


@aster.wire_type("example.reports/ReportRequest")
@dataclass
class ReportRequest:
    title: str = ""
    seconds: float = 0.0


@aster.wire_type("example.reports/Report")
@dataclass
class Report:
    text: str = ""


@aster.service("Reports", version=1)
class ReportService(ABC):
    @aster.rpc(timeout=30.0)
    @abstractmethod
    async def build(self, req: ReportRequest) -> Report:
        """Build a report, which takes as long as the request says."""
