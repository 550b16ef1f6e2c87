"""A replica of a fleet that answers `LoadReports` as it is told: late, wrongly, or not at all."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable
from typing import Any

import grpc
from grpc import aio

from batcher.protocol import LOAD_REPORTS, handlers, load


class FakeReplica:
    """One replica on a Unix socket or a port of 127.0.0.1. Set its attributes at any time.

    `start` first, `stop` last; both on an event loop. A process can hold hundreds.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:0",
        *,
        ratio: float | None = 0.0,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self.address = address
        """Where it listens; after `start` with the port that was taken for port 0."""
        self.ratio = ratio
        """`desired_ratio`; None: absent."""
        self.ready = True
        self.draining = False
        self.ended = 0
        """Requests that were answered."""
        self.refused = 0
        """Requests that were refused, as the queue was full."""
        self.pending = 0
        """Requests that wait."""
        self.model = "ranker"
        self.start_id = secrets.token_hex(8)
        self.edit: Callable[[load.LoadReport], object] = lambda _: None
        """Changes each report before it is sent."""
        self.raw: bytes | None = None
        """What is sent instead of a report."""
        self.status: grpc.StatusCode | None = None
        """A status that is sent instead of a report."""
        self.polls = 0
        """Calls so far."""
        self.most_at_once = 0
        """The most calls that were open at the same time."""
        self._open = 0
        self._credentials = credentials
        self._numbers = itertools.count(1)
        self._answers = asyncio.Event()
        self._answers.set()
        self._server: aio.Server | None = None

    @property
    def hangs(self) -> bool:
        """Whether it answers no call, nor those that wait."""
        return not self._answers.is_set()

    @hangs.setter
    def hangs(self, hangs: bool) -> None:
        if hangs:
            self._answers.clear()
        else:
            self._answers.set()

    async def start(self) -> FakeReplica:
        """Listen."""
        self._server = server = aio.server(options=[("grpc.so_reuseport", 0)])
        methods = {"Get": self._get}
        server.add_generic_rpc_handlers((handlers(LOAD_REPORTS, methods, raw=methods),))
        if self._credentials is None:
            port = server.add_insecure_port(self.address)
        else:
            port = server.add_secure_port(self.address, self._credentials)
        if not self.address.startswith("unix:"):
            self.address = f"{self.address.rpartition(':')[0]}:{port}"
        await server.start()
        return self

    async def stop(self) -> None:
        """Listen no more, and end every call."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(0)

    def start_again(self) -> None:
        """Be another start of the server: another id, and every count at 0."""
        self.start_id, self._numbers = secrets.token_hex(8), itertools.count(1)
        self.ended = self.refused = self.pending = 0

    def report(self) -> load.LoadReport:
        """The next report."""
        number = next(self._numbers)
        report = load.LoadReport(number=number, timestamp_seconds=1_790_000_000.0 + number)
        replica = report.replica
        replica.replica, replica.start_id = self.address[:200], self.start_id
        replica.uptime_seconds = number / 10
        replica.ready, replica.draining = self.ready, self.draining
        model = report.models.add(model=self.model, version="1", state="ready")
        model.queue_requests, model.queue_rows = self.pending, 2 * self.pending
        model.queue_backlog_seconds = self.pending / 100
        model.oldest_waiting_age_seconds = self.pending / 10
        model.oldest_executing_age_seconds = 0.0
        model.executing_requests = 0
        model.offered_rows_per_second = 0.0
        model.recent.window_seconds = 10.0
        model.requests.add(outcome="ok", count=self.ended)
        model.requests.add(outcome="rejected", reason="queue_requests", count=self.refused)
        on_device = model.devices.add(device="gpu0")
        device = report.devices.add(device="gpu0")
        if self.ratio is not None:
            replica.desired_ratio = on_device.load_ratio = self.ratio
            device.duty_cycle_ratio = min(self.ratio, 1.0)
        self.edit(report)
        return report

    async def _get(self, _: bytes, context: aio.ServicerContext[Any, Any]) -> bytes:
        self.polls += 1
        self._open += 1
        self.most_at_once = max(self.most_at_once, self._open)
        try:
            await self._answers.wait()
            if self.status is not None:
                await context.abort(self.status, "as it was told")
            return self.report().SerializeToString() if self.raw is None else self.raw
        finally:
            self._open -= 1
