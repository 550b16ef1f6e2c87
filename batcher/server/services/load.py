"""`LoadReports` and ORCA's `OpenRcaService`: the load report, once or all the time.

A watcher is sent a report only when it has read the one before, so nothing queues for a slow one: it misses
reports, and gets the latest one next.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from grpc import aio

from batcher.clock import SECOND, Clock
from batcher.http2.grpc_headers import PUSHBACK
from batcher.protocol import (
    LOAD_REPORTS,
    MAX_CONTROL_BYTES,
    OPEN_RCA,
    handlers,
    load,
    orca_service,
)
from batcher.runtime.health import HealthReport
from batcher.server.calls import Context, answered
from batcher.server.status import Style
from batcher.telemetry.load import LoadReporter, SharedEncoding, message_parts, whole_parts

MAX_WATCHERS: Final = 64
"""Calls of `Watch` at once, on all listeners. Each costs up to ten messages a second."""
MAX_ORCA_STREAMS: Final = 1024
"""Calls of `StreamCoreMetrics` at once: a load balancer has one on each connection, and `server.max_connections`
is as many by default."""
MIN_INTERVAL_NS: Final = SECOND // 10
"""The shortest interval of `Watch`: reports are not computed more often."""
MAX_INTERVAL_NS: Final = 3600 * SECOND
"""The longest: ten minutes or ten hours would do as well, but a timer must not overflow."""
DEFAULT_INTERVAL_NS: Final = SECOND
"""The interval of a `Watch` that names none."""
MIN_ORCA_INTERVAL_NS: Final = SECOND
"""The shortest interval between two reports of `StreamCoreMetrics`; a shorter one is taken for this, as ORCA
has it. Balancers ask for 10 s by default."""

_Request = TypeVar("_Request", bound=Message)


class LoadServicer:
    """Answers both services, on every listener."""

    def __init__(self, reporter: LoadReporter, clock: Clock, style: Style) -> None:
        self._style = style
        self._clock = clock
        self._messages = SharedEncoding(reporter.current, message_parts)
        self._core_metrics = SharedEncoding(reporter.current, whole_parts)
        self._watchers: dict[str, int] = {}
        self._closing = False
        self._ready: bool | None = None
        self._news = asyncio.Event()
        """Set, and replaced, when watchers are to get a report before its time."""

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """The handlers to add to a server; they take and return bytes."""
        load_methods = {"Get": self._get, "Watch": self._watch}
        orca_methods = {"StreamCoreMetrics": self._stream_core_metrics}
        return [
            handlers(LOAD_REPORTS, load_methods, raw=load_methods),
            handlers(OPEN_RCA, orca_methods, raw=orca_methods),
        ]

    def health_changed(self, report: HealthReport) -> None:
        """Send each watcher a report at once where the server has become ready, or not ready."""
        if report.ready is not self._ready:
            self._ready = report.ready
            self._wake()

    def close(self) -> None:
        """Send each watcher one last report, and end its call."""
        self._closing = True
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _get(self, data: bytes, context: Context) -> bytes:
        await _read(load.GetLoadRequest, data, context)
        return await answered(self._messages.current(), context, self._style)

    async def _watch(self, data: bytes, context: Context) -> None:
        request = await _read(load.WatchLoadRequest, data, context)
        interval_ns = DEFAULT_INTERVAL_NS
        if request.HasField("interval"):
            interval_ns = _nanoseconds(request.interval)
        if not MIN_INTERVAL_NS <= interval_ns <= MAX_INTERVAL_NS:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"interval is {interval_ns / SECOND:g} s; allowed: {MIN_INTERVAL_NS / SECOND:g} s to"
                f" {MAX_INTERVAL_NS / SECOND:g} s",
            )
        await self._send(LOAD_REPORTS, MAX_WATCHERS, interval_ns, self._messages, context)

    async def _stream_core_metrics(self, data: bytes, context: Context) -> None:
        request = await _read(orca_service.OrcaLoadReportRequest, data, context)
        asked_ns = _nanoseconds(request.report_interval)
        interval_ns = min(max(asked_ns, MIN_ORCA_INTERVAL_NS), MAX_INTERVAL_NS)
        await self._send(OPEN_RCA, MAX_ORCA_STREAMS, interval_ns, self._core_metrics, context)

    async def _send(
        self,
        service: str,
        most: int,
        interval_ns: int,
        reports: SharedEncoding,
        context: Context,
    ) -> None:
        """Write a report now and one each interval, until the caller leaves or the server stops."""
        if self._watchers.get(service, 0) >= most:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{most} callers watch the load already; try again later",
                PUSHBACK,
            )
        self._watchers[service] = self._watchers.get(service, 0) + 1
        try:
            while True:
                began_ns = self._clock()
                closing, news = self._closing, self._news
                await context.write(await answered(reports.current(), context, self._style))
                if closing:
                    return
                wait_s = (began_ns + interval_ns - self._clock()) / SECOND
                if wait_s > 0:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(wait_s):
                            await news.wait()
        except aio.UsageError:
            return  # the call has ended
        except aio.InternalError:
            raise asyncio.CancelledError from None  # what grpcio raises where the caller has left
        finally:
            self._watchers[service] -= 1
            del context  # an error's traceback refers to this frame


def _nanoseconds(duration: Duration) -> int:
    return duration.seconds * SECOND + duration.nanos


async def _read(kind: type[_Request], data: bytes, context: Context) -> _Request:
    """The request. A call with one that cannot be read is aborted."""
    if len(data) > MAX_CONTROL_BYTES:
        problem = f"the request has {len(data)} bytes, at most {MAX_CONTROL_BYTES} are read"
    else:
        try:
            return kind.FromString(data)
        except DecodeError:
            problem = "the request cannot be read; is it of another type?"
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
    raise AssertionError("abort raises")
