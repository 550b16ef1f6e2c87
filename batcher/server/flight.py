"""The admin service's `WriteFlightRecord`."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import grpc
from grpc import aio

from batcher.errors import RequestError
from batcher.protocol import admin
from batcher.server.status import Style, to_status

log = logging.getLogger(__name__)

MOST_DETAIL = 256
"""Characters of a caller's reason that are kept."""

Context: TypeAlias = "aio.ServicerContext[Any, Any]"

Write: TypeAlias = Callable[[str], Awaitable[Path]]
"""Writes a flight record for this reason, or raises a `RequestError`."""


class FlightEdge:
    """Answers the calls of one service, as messages."""

    def __init__(self, write: Write, style: Style) -> None:
        self._write = write
        self._style = style

    def methods(self) -> dict[str, Callable[[Any, Context], Awaitable[Any]]]:
        """Method name -> handler."""
        return {"WriteFlightRecord": self._write_flight_record}

    async def _write_flight_record(
        self, request: admin.WriteFlightRecordRequest, context: Context
    ) -> admin.WriteFlightRecordResponse:
        try:
            path = await self._write(request.detail[:MOST_DETAIL])
            return admin.WriteFlightRecordResponse(path=str(path))
        except RequestError as error:
            status = to_status(error, self._style)
            await context.abort(status.code, status.message, status.trailing_metadata)
        except Exception:
            log.exception("a flight record could not be written")
            await context.abort(grpc.StatusCode.INTERNAL, "internal error while answering a call")
        raise AssertionError("abort raises")
