"""The admin service's `WriteFlightRecord`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

from batcher.protocol import admin
from batcher.server.calls import Context, answered
from batcher.server.status import Style

MOST_DETAIL = 256
"""The most characters of a caller's reason that are kept."""

Write: TypeAlias = Callable[[str], Awaitable[Path]]
"""Writes a flight record with this reason and returns its path. Raises `RequestError`."""


class FlightRecordServicer:
    """Answers `WriteFlightRecord`."""

    def __init__(self, write: Write, style: Style) -> None:
        self._write = write
        self._style = style

    def methods(self) -> dict[str, Callable[[Any, Context], Awaitable[Any]]]:
        """Method name -> handler."""
        return {"WriteFlightRecord": self._write_flight_record}

    async def _write_flight_record(
        self, request: admin.WriteFlightRecordRequest, context: Context
    ) -> admin.WriteFlightRecordResponse:
        path = await answered(self._write(request.detail[:MOST_DETAIL]), context, self._style)
        return admin.WriteFlightRecordResponse(path=str(path))
