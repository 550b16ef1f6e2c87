"""Replicas that answer `LoadReports` as they are told: late, wrongly, or not at all."""

import asyncio
import itertools
import secrets

import grpc
from grpc import aio

from batcher.protocol import LOAD_REPORTS, handlers, load


class FakeReplica:
    """One replica on a Unix socket or a port of 127.0.0.1. Set its attributes at any time."""

    def __init__(self, address="127.0.0.1:0", *, ratio=0.0, credentials=None):
        self.address = address
        self.ratio = ratio
        """`desired_ratio`; None: absent."""
        self.ready = True
        self.draining = False
        self.ended = 0
        """Requests that have ended."""
        self.refused = 0
        """Of them those that were refused, as its queue was full."""
        self.pending = 0
        self.model = "ranker"
        self.start_id = secrets.token_hex(8)
        self._answers = asyncio.Event()
        self.hangs = False
        self.edit = lambda report: None
        """Changes a report before it is sent."""
        self.raw = None
        """Bytes that are sent instead of a report."""
        self.status = None
        """A status instead of a report."""
        self.polls = 0
        self.at_once = self.most_at_once = 0
        self.credentials = credentials
        self._numbers = itertools.count(1)
        self._server = None

    @property
    def hangs(self):
        """Whether it answers no call, nor those that wait."""
        return not self._answers.is_set()

    @hangs.setter
    def hangs(self, hangs):
        if hangs:
            self._answers.clear()
        else:
            self._answers.set()

    async def start(self):
        self._server = aio.server(options=[("grpc.so_reuseport", 0)])
        methods = {"Get": self._get}
        self._server.add_generic_rpc_handlers((handlers(LOAD_REPORTS, methods, raw=methods),))
        if self.credentials is None:
            port = self._server.add_insecure_port(self.address)
        else:
            port = self._server.add_secure_port(self.address, self.credentials)
        if not self.address.startswith("unix:"):
            self.address = f"{self.address.rpartition(':')[0]}:{port}"
        await self._server.start()
        return self

    async def stop(self):
        server, self._server = self._server, None
        if server is not None:
            await server.stop(0)

    async def restart(self):
        """End, and begin anew at the same address, with another start_id."""
        await self.stop()
        self.start_id, self._numbers = secrets.token_hex(8), itertools.count(1)
        self.ended = self.refused = self.pending = 0
        await self.start()

    def report(self):
        number = next(self._numbers)
        report = load.LoadReport(number=number, timestamp_seconds=1_790_000_000.0 + number)
        replica = report.replica
        replica.replica, replica.start_id = self.address[:200], self.start_id
        replica.uptime_seconds = number / 10
        replica.ready, replica.draining = self.ready, self.draining
        if self.ratio is not None:
            replica.desired_ratio = self.ratio
        model = report.models.add(model=self.model, version="1", state="ready")
        model.queue_requests, model.queue_rows = self.pending, 2 * self.pending
        model.executing_requests = 0
        model.recent.window_seconds = 10
        model.requests.add(outcome="ok", count=self.ended)
        model.requests.add(outcome="rejected", reason="queue_requests", count=self.refused)
        device = model.devices.add(device="gpu0")
        if self.ratio is not None:
            device.load_ratio = self.ratio
        report.devices.add(device="gpu0", duty_cycle_ratio=min(self.ratio or 0.0, 1.0))
        self.edit(report)
        return report

    async def _get(self, _, context):
        self.polls += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self._answers.wait()
            if self.status is not None:
                await context.abort(self.status, "as it was told")
            return self.report().SerializeToString() if self.raw is None else self.raw
        finally:
            self.at_once -= 1


UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
