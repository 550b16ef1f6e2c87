"""The callers of a fleet: gRPC's own client, its round robin, its health checks, and the documented retry policy."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from clients import Record
from grpc import aio
from numpy import ones

from batcher.protocol import INFERENCE, Stub
from batcher.testing.messages import infer_request
from fleet.scene import COLUMNS, DEADLINE_S, MODEL

DOCUMENTED = Path(__file__).parents[3] / "deploy" / "client" / "round-robin.json"
"""The service configuration that callers are to use."""

OPTIONS: dict[str, int] = {
    # A new connection, and new addresses, at once: the defaults are 1 s and 30 s.
    "grpc.dns_min_time_between_resolutions_ms": 500,
    "grpc.initial_reconnect_backoff_ms": 200,
    "grpc.min_reconnect_backoff_ms": 1000,
    "grpc.max_reconnect_backoff_ms": 2000,
    # A server that hangs acknowledges no ping: it is left after four seconds. In gRPC's C core the timeout of
    # keepalive pings alone does not do that. With a second less, servers that get no processor are left as well.
    "grpc.keepalive_time_ms": 2000,
    "grpc.keepalive_timeout_ms": 2000,
    "grpc.http2.ping_timeout_ms": 2000,
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.http2.max_pings_without_data": 0,
    "grpc.use_local_subchannel_pool": 1,
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What callers are told of the fleet; without anything it is what docs/load-balancing.md recommends."""

    health_checks: bool = True
    retries: bool = True
    throttled: bool = True
    """Whether retries stop while many calls fail."""
    options: Mapping[str, int] = field(default_factory=lambda: OPTIONS)

    def service_config(self) -> dict[str, Any]:
        """The documented service configuration, or parts of it."""
        config: dict[str, Any] = json.loads(DOCUMENTED.read_text(encoding="utf-8"))
        if not self.health_checks:
            del config["healthCheckConfig"]
        if not self.retries:
            del config["methodConfig"][0]["retryPolicy"]
        if not self.throttled:
            del config["retryThrottling"]
        return config


class Callers:
    """Sends the requests of an open loop, round several channels. `open` first, `finish` last."""

    def __init__(self, record: Record, settings: Settings | None = None) -> None:
        self.record = record
        settings = settings or Settings()
        config = json.dumps(settings.service_config())
        self._options = [("grpc.service_config", config), *settings.options.items()]
        self._request = infer_request(MODEL, {"X": ones((1, COLUMNS), "float32")})
        self._tasks: set[asyncio.Task[None]] = set()
        self._channels: list[aio.Channel] = []
        self._stubs: list[Stub] = []

    async def open(self, target: str, channels: int) -> None:
        """Connect, with so many channels."""
        self._channels = [
            aio.insecure_channel(target, options=self._options) for _ in range(channels)
        ]
        self._stubs = [Stub(channel, INFERENCE) for channel in self._channels]
        for stub in self._stubs:
            await stub.ModelInfer(self._request, timeout=DEADLINE_S)

    def send(self, place: int, due_ns: int) -> None:
        """Send one request; does not wait."""
        task = asyncio.create_task(self._one(place, due_ns))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self) -> None:
        """Wait for the answers that are still open, and close the connections."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        for channel in self._channels:
            await channel.close()

    async def _one(self, place: int, due_ns: int) -> None:
        stub = self._stubs[place % len(self._stubs)]
        try:
            await stub.ModelInfer(self._request, timeout=DEADLINE_S)
        except aio.AioRpcError as error:
            self.record.failed[place] = reason(error)
        else:
            self.record.latency_ns[place] = time.monotonic_ns() - due_ns


def reason(error: aio.AioRpcError) -> str:
    """Why there is no answer: `refused` where a server refuses for overload and says why, else the status."""
    trailers = dict(error.trailing_metadata() or ())
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "grpc-retry-pushback-ms" in trailers:
        return "refused"
    return f"{error.code().name}: {error.details()}"
