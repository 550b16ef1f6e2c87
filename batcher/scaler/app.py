"""`Scaler`: a configuration becomes a running external scaler."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Final

from batcher.buffers import Buffers
from batcher.clock import SECOND, Clock, monotonic_ns
from batcher.errors import StartupError
from batcher.protocol import FLEETS, KEDA
from batcher.scaler.channels import Channels
from batcher.scaler.collector import ScalerCollector
from batcher.scaler.config import FleetConfig, ScalerConfig
from batcher.scaler.discovery import discovery_of
from batcher.scaler.fleet import Fleet
from batcher.scaler.polling import PollSpacing
from batcher.scaler.service import ScalerService
from batcher.scaler.streams import Streams
from batcher.scaler.waking import Waker
from batcher.scaler.web import build_scaler_app
from batcher.server.listeners import BuiltinServer
from batcher.server.services.health import SERVER, HealthService
from batcher.server.services.reflection import reflection_handlers
from batcher.server.tls import Certificates
from batcher.telemetry import LoopWatchdog, probe_loop_lag
from batcher.web import HttpServer

log = logging.getLogger(__name__)

CERTIFICATES_S: Final = 1.0
"""How often it is looked whether files of certificates have changed, as a server does by default."""

READY_AFTER_NS: Final = 10 * SECOND
"""The scaler is ready when each fleet was looked at once, or so long after its start: one fleet of which the list
never comes must not keep the others from KEDA."""

AGAIN_S: Final = 1.0
"""After so long, background work that has raised begins again."""

GRACE_S: Final = 2.0
"""How long calls may take at the end: each is answered at once."""


class Scaler:
    """Everything that runs. `start` once, then `close` once, even if `start` raised."""

    def __init__(self, config: ScalerConfig, clock: Clock = monotonic_ns) -> None:
        """Raises `StartupError` where what the configuration names cannot be had."""
        self.config = config
        spacing = PollSpacing()
        self.fleets = {each.name: _fleet(each, spacing, clock) for each in config.fleets}
        self._clock = clock
        self._streams = Streams()
        for fleet in self.fleets.values():
            fleet.changed = self._streams.look
        waker = Waker(self.fleets)
        self._service = ScalerService(self.fleets, self._streams, waker)
        self._health = HealthService()
        self._collector = ScalerCollector(
            self.fleets, self._service, self._streams, clock, lambda: not self.not_ready()
        )
        server = config.listen.server()
        tls = config.listen.tls
        self._certificates = None if tls is None else Certificates(tls, "listen.tls")
        self.grpc = BuiltinServer(
            server.grpc,
            [
                *self._service.handlers(),
                self._health.handler(),
                *reflection_handlers([KEDA, FLEETS, "grpc.health.v1.Health"]),
            ],
            server,
            self._certificates,
            Buffers(server.max_buffered or 0),
            lambda _: None,
        )
        self.http: HttpServer | None = None
        if config.listen.http is not None:
            app = build_scaler_app(self.fleets, self._collector, waker, clock, self.not_ready)
            self.http = HttpServer(config.listen.http, app)
        self._began_ns = clock()
        self._ending = False
        self._tasks: list[asyncio.Task[None]] = []
        self._watchdog: LoopWatchdog | None = None

    async def start(self) -> None:
        """Listen and poll. Raises `ListenError`."""
        self._began_ns = self._clock()
        if self.http is not None:
            await self.http.start()
        await self.grpc.start()
        for name, fleet in self.fleets.items():
            self._run(f"fleet {name}", fleet.run)
            self._run(f"certificates of fleet {name}", partial(_watch_certificates, fleet))
        self._run("streams", self._streams.watch)
        self._run("health", self._watch_health)
        self._run("loop-lag", lambda: probe_loop_lag(self._collector.loop_lag))
        self._watchdog = LoopWatchdog(self._collector.loop_stalled)
        self._watchdog.start()
        certificates = self._certificates
        if certificates is not None:
            self._run("certificates", lambda: certificates.watch(CERTIFICATES_S))

    async def close(self) -> None:
        """Say that it is not ready, end streams with OK, answer what was asked, and close everything."""
        self._ending = True
        self._health.close()
        self._streams.close()
        self.grpc.send_goaway()
        await self.grpc.stop(GRACE_S)
        if self.http is not None:
            await self.http.stop()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._watchdog is not None:
            self._watchdog.close()

    def not_ready(self) -> str:
        """Why it is not ready; empty if it is."""
        if self._ending:
            return "shutting down"
        if self._clock() - self._began_ns >= READY_AFTER_NS:
            return ""
        missing = [name for name, fleet in self.fleets.items() if not fleet.has_looked]
        return f"not every replica of {', '.join(missing)} was asked yet" if missing else ""

    def describe(self) -> str:
        """What it serves and where, in one line."""
        listens = [f"gRPC on {', '.join(self.grpc.addresses)}"]
        if self.http is not None:
            listens.append(f"HTTP on {self.http.address}")
        return f"batcher scaler: {', '.join(self.fleets)}; {', '.join(listens)}"

    async def _watch_health(self) -> None:
        while True:
            # What cannot be told is not ready: the state from before would be a guess.
            ready = False
            try:
                ready = not self.not_ready()
            finally:
                for service in (SERVER, KEDA):
                    self._health.set(service, ready)
            await asyncio.sleep(CERTIFICATES_S if ready else CERTIFICATES_S / 10)

    def _run(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        self._tasks.append(asyncio.create_task(keep_running(name, work), name=name))


async def _watch_certificates(fleet: Fleet) -> None:
    while True:
        await asyncio.sleep(CERTIFICATES_S)
        fleet.refresh_certificates()


async def keep_running(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Await `work` until cancelled: when it raises, that is logged, and it is called again `AGAIN_S` later.

    Of an error that repeats itself only the first is logged.
    """
    logged = ""
    while True:
        try:
            await work()
        except Exception as raised:
            if repr(raised) != logged:
                log.exception("internal error: %s has ended, and begins again", name)
            logged = repr(raised)
        await asyncio.sleep(AGAIN_S)


def _fleet(config: FleetConfig, spacing: PollSpacing, clock: Clock) -> Fleet:
    try:
        discovery = discovery_of(config.replicas)
    except StartupError as error:
        raise StartupError(f"fleet {config.name}: {error}") from error
    return Fleet(config, discovery, Channels(config), spacing, clock)


@contextlib.asynccontextmanager
async def running_scaler(config: ScalerConfig) -> AsyncIterator[Scaler]:
    """The scaler, started; closed at the end. Raises `StartupError`."""
    allow_files()
    scaler = Scaler(config)
    try:
        await scaler.start()
        yield scaler
    finally:
        await scaler.close()


def allow_files() -> None:
    """Allow this process as many open files as it may have: each replica and each caller takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
