"""The composition root: makes a running server of a `Config`.

Start: find the executors, bind the listeners (probes get an answer, and a port in use is reported
at once), load and warm up the models, become ready. Stop: stop being ready, refuse new requests with
a retry hint, answer the accepted ones, close everything in the opposite order.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from batcher import __version__
from batcher.buffers import Buffers, default_limit
from batcher.clock import SECOND, monotonic_ns
from batcher.config import Config, gpus_of
from batcher.core.commands import PolicyFailed
from batcher.core.scheduler import Scheduler
from batcher.errors import BatcherError, NotSupported, RequestError
from batcher.journal import IncidentReason, Recording
from batcher.lifecycle import ModelManager
from batcher.lifecycle.repository import RepositorySource
from batcher.live_settings import FileFollower, LiveSettings
from batcher.model_builder import ModelBuilder
from batcher.runtime.health import Health, HealthReport, InstanceState, ModelState
from batcher.runtime.instances.plan import ProcessContext
from batcher.runtime.instances.turns import DeviceTurns
from batcher.runtime.models.registry import ModelRegistry
from batcher.runtime.models.review import Reviewer
from batcher.runtime.runner import Runner
from batcher.runtime.timer import TimerFd
from batcher.server.frontend import GrpcFrontend
from batcher.server.memory import Trimmer
from batcher.server.services.flight_record import FlightRecordServicer
from batcher.server.status import code_of_reason
from batcher.service import Batcher
from batcher.telemetry import (
    GpusPart,
    HealthPoints,
    LoopWatchdog,
    RecordingPart,
    RepositoryPart,
    Telemetry,
    TransportPart,
    TritonPart,
    probe_loop_lag,
)
from batcher.telemetry.devices import DeviceWatcher
from batcher.telemetry.live import Changes, LiveView, Sampler, Severity
from batcher.telemetry.load import DutyCycles, Identity, LoadReporter, LoadSources
from batcher.telemetry.tracing import Tracing, switched_off
from batcher.web import HttpServer, build_app, render
from batcher.web.live import Feed

log = logging.getLogger(__name__)


LAST_WRITES_S = 5.0
"""Seconds that replies which are ready may take to be sent when the server stops."""


class DrainTimeoutError(BatcherError):
    """Accepted requests were unanswered after `drain_timeout`."""


class Application:
    """One server. Call `start`, `drain` and `close` once each, in this order."""

    def __init__(
        self, config: Config, path: Path | None = None, hangup: asyncio.Event | None = None
    ) -> None:
        """Build the server without starting anything. Raises `PluginError` and `ModelLoadError`.

        `path` is the configuration file: its changes are applied, and it is reloaded when `hangup`
        is set.
        """
        self.config = config
        self._identity = Identity.of_process(config.server.replica)
        loop = asyncio.get_running_loop()
        self.registry = CollectorRegistry()
        self.telemetry = Telemetry(self.registry)
        self._health = Health()
        scheduler = Scheduler()
        self.runner = Runner(
            scheduler,
            loop,
            monotonic_ns,
            partial(TimerFd, loop),
            on_policy_failed=self._policy_failed,
            on_broken=self._scheduler_failed,
        )
        self.telemetry.watch(self.runner.observe)
        self.devices = DeviceWatcher(gpus_of(config.devices))
        self.telemetry.add(GpusPart(self.devices.reports))
        self._process = process = ProcessContext(
            self.runner,
            loop,
            monotonic_ns,
            devices=self.devices,
            turns=DeviceTurns(self.runner),
            changed=self._health.changed,
            load_again=self._load_again,
        )
        self.models = ModelRegistry()
        self.manager = ModelManager(
            config, ModelBuilder(process, self.telemetry), self.models, process, self.telemetry
        )
        self.repository = self._model_repository()
        self.batcher = Batcher(self.models, self.runner, self.telemetry, monotonic_ns, self._health)
        self.telemetry.watch_health(self._health_points)
        self.live_settings = LiveSettings(
            config, self.manager, self.telemetry.process.settings, path
        )
        self._follower: FileFollower | None = None
        if path is not None:
            interval_ns = config.server.config_poll_interval
            self._follower = FileFollower(path, interval_ns, self.live_settings.reload, hangup)
            self.live_settings.read_again = True
        self.recording = Recording(
            config,
            scheduler.snapshot,
            self._recorded_settings,
            self._exposition,
            self.live_settings.in_force,
        )
        self.telemetry.add(RecordingPart(self.recording.statistics))
        flight = FlightRecordServicer(self._write_on_request, config.server.status_codes)
        server = config.server
        self.buffers = Buffers(server.max_buffered or default_limit(server.max_message))
        self._duty_cycles = DutyCycles(self.telemetry.devices, monotonic_ns)
        self.load = self._load_reporter()
        self._health.watch(lambda _: self.load.health_changed())
        self.grpc = GrpcFrontend(
            self.batcher,
            self.manager,
            self.live_settings,
            flight,
            server,
            monotonic_ns,
            self.buffers,
            self.load,
        )
        self.telemetry.add(TransportPart(self.grpc.statistics))
        self._tracing = self._set_up_tracing()
        self.live = self._live_feed()
        if config.metrics.triton_names:
            self.telemetry.add(TritonPart(self.telemetry, self.devices.reports, monotonic_ns))
        self.http: HttpServer | None = None
        self._background: list[asyncio.Task[None]] = []
        self._watchdog: LoopWatchdog | None = None
        self._last_writes_s = LAST_WRITES_S

    async def start(self) -> None:
        """Listen, load every model, become ready. Raises `StartupError`; call `close` even then."""
        self._run("live-view", self.live.run())
        self._run("duty-cycles", self._duty_cycles.run())
        address = self.config.server.http
        if address is not None:
            http = HttpServer(
                address, build_app(self.registry, self.health, self.live, self.load.current)
            )
            await http.start()
            self.http = http
        await self.grpc.start()
        if self._tracing is not None:
            self._tracing.start()
        record = await self.recording.start()
        if record is not None:
            self.runner.record_with(record)
        self._run("devices", self.devices.run())
        await self.manager.start()
        self._run("loop-lag", probe_loop_lag(self.telemetry.process.loop_lag))
        self._run("review", Reviewer(self.models, self.runner.observe).run())
        self._watchdog = LoopWatchdog(self.telemetry.process.loop_stalled)
        self._watchdog.start()
        if self._follower is not None:
            self._run("settings", self._follower.run())
        self._run("memory", Trimmer(self.buffers).run())
        if self.grpc.certificates is not None and self.config.server.config_poll_interval:
            watch = self.grpc.certificates.watch(self.config.server.config_poll_interval / SECOND)
            self._run("certificates", watch)
        if self.recording.flight is not None:
            self._run("flight-recorder", self.recording.flight.watch(self.telemetry.tallies))
        self.manager.started()
        if self.repository is not None:
            await self.repository.start()
            self._run("model-repository", self.repository.run())
            await self.repository.first_loaded()
        self._health.started()

    async def drain(self, delay_ns: int = 0) -> None:
        """Stop being ready; after `delay_ns`, refuse new requests and answer the accepted ones.

        Raises `DrainTimeoutError`, with the number of unanswered requests, after `drain_timeout`.
        """
        self.telemetry.process.draining = True
        self._health.drain()
        # Load balancers go on sending until they have seen that the server is not ready.
        await asyncio.sleep(delay_ns / SECOND)
        loop = asyncio.get_running_loop()
        timeout_s = self.config.server.drain_timeout / SECOND
        ends = loop.time() + timeout_s
        self.grpc.send_goaway()
        # What clients had sent before they read that is answered, too.
        await self.grpc.goaway_acknowledged(timeout_s)
        self.grpc.end_streams()
        try:
            async with asyncio.timeout_at(ends):
                await self.grpc.all_received()
                self.batcher.draining = True
                await self.batcher.idle()
                await self.grpc.streams_ended()
        except TimeoutError:
            self.batcher.draining = True
            unfinished = _unfinished(self.runner.unanswered, self.grpc.receiving)
            raise DrainTimeoutError(
                f"{unfinished} after {timeout_s:g} s (server.drain_timeout)"
            ) from None
        self._last_writes_s = min(LAST_WRITES_S, ends - loop.time())

    async def close(self) -> None:
        """Close everything, in the opposite order of the start. Unanswered requests fail."""
        self._health.drain()
        if self._watchdog is not None:
            self._watchdog.close()
        for task in self._background:
            task.cancel()
        # Before the listeners, so that callers still get the error of a lost request.
        if self.repository is not None:
            await self.repository.close()
        await self.manager.close()
        await self.grpc.stop(self._last_writes_s)
        self.runner.close()
        await self.devices.close()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)
        await asyncio.to_thread(self.recording.close)
        self.live.close()
        if self.http is not None:
            await self.http.stop()

    async def write_flight_record(self, reason: IncidentReason, detail: str) -> Path:
        """Write a flight record now and return its path.

        Raises `NotSupported` if none is configured, and what `FlightRecorder.write` raises.
        """
        flight = self.recording.flight
        if flight is None:
            raise NotSupported("no flight recorder is configured (flight_recorder.folder)")
        return await flight.write(reason, detail)

    def on_signal(self) -> None:
        """Write a flight record in the background, because of a signal. Errors are logged."""
        self._run("flight-record", self._write_and_log(IncidentReason.SIGNAL, "SIGUSR2"))

    def health(self) -> HealthReport:
        """Whether the server is ready for traffic, and the state of each model."""
        return self._health.report()

    def _set_up_tracing(self) -> Tracing | None:
        """What traces requests, as the configuration says; None if they are not traced."""
        section = self.config.tracing
        if section is None:
            return None
        if switched_off():
            log.info("requests are not traced: the environment says OTEL_SDK_DISABLED")
            return None
        status_of = partial(code_of_reason, style=self.config.server.status_codes)
        instance = f"{self._identity.replica}/{self._identity.start_id}"
        tracing = Tracing(section, self.telemetry, status_of, instance=instance)
        self.runner.trace_with(tracing.tracer)
        return tracing

    def _load_reporter(self) -> LoadReporter:
        sources = LoadSources(
            observe=self.runner.observe,
            models=self.telemetry,
            draining=lambda: self.telemetry.process.draining,
            health=self._health.report,
            buffers=self.buffers,
            duty_cycle=self._duty_cycles.of,
            statistics=self.devices.report,
        )
        return LoadReporter(self._identity, sources)

    def _live_feed(self) -> Feed:
        changes = Changes()
        changes.note(Severity.NOTICE, f"server: started, batcher {__version__}")
        view = LiveView(
            Sampler(self.telemetry, self.runner.observe, monotonic_ns),
            changes,
            self.telemetry,
            self._health.report,
            self.load.report,
        )
        self.telemetry.process.settings.watch(view.settings_changed)
        self.load.sources.recent = view.recent
        return Feed(view)

    def _health_points(self) -> HealthPoints:
        report = self._health.report()
        states = [
            ((model.name, model.version, state), int(model.state is state))
            for model in report.models
            for state in ModelState
        ]
        instances = [
            ((model.name, model.version, str(each.number), state), int(each.state is state))
            for model in report.models
            for each in model.instances
            for state in InstanceState
        ]
        abandoned = [
            ((name, version), self._process.abandoned.count(name, version))
            for name, version in dict.fromkeys((m.name, m.version) for m in report.models)
        ]
        return HealthPoints(report.ready, states, instances, abandoned)

    def describe(self) -> str:
        """The line that is printed when the server is ready."""
        parts = [f"grpc {', '.join(self.grpc.addresses)}"]
        if self.grpc.admin_addresses:
            parts.append(f"admin {', '.join(self.grpc.admin_addresses)}")
        if self.http is not None:
            parts.append(f"metrics http://{self.http.address}/metrics")
        parts.append(f"models {', '.join(m.name for m in self.models)}")
        return f"batcher is ready: {'; '.join(parts)}"

    def _run(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=name)
        self._background.append(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._background.remove(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical(
                "internal error: the background task %s has ended; restart the server",
                task.get_name(),
                exc_info=error,
            )

    async def _write_on_request(self, detail: str) -> Path:
        return await self.write_flight_record(IncidentReason.REQUEST, detail)

    async def _write_and_log(self, reason: IncidentReason, detail: str) -> None:
        try:
            await self.write_flight_record(reason, detail)
        except RequestError as error:
            log.warning("%s: %s", detail, error)

    def _load_again(self, key: str) -> None:
        self.manager.load_again(key)

    def _scheduler_failed(self) -> None:
        self._health.broken(self.runner.broken)
        if self.recording.flight is not None:
            self._run(
                "flight-record", self._write_and_log(IncidentReason.INTERNAL, self.runner.broken)
            )

    def _model_repository(self) -> RepositorySource | None:
        """The source of models that the configuration has besides `models`; None if it has none."""
        section = self.config.model_repository
        if section is None:
            return None
        source = RepositorySource(section, self.manager, self._names_in_file)
        self.manager.repository = source
        self.telemetry.add(RepositoryPart(source.points))
        return source

    def _names_in_file(self) -> set[str]:
        return {model.name for model in self.manager.of_file()}

    async def _exposition(self) -> bytes:
        return (await render(self.registry, ""))[0]

    def _policy_failed(self, failure: PolicyFailed) -> None:
        counts = self.telemetry.of_generation(failure.model)
        if counts is not None:
            counts.policy_failed()

    def _recorded_settings(self) -> dict[str, dict[str, Any]]:
        """Model -> the settings that decide how it is scheduled, for the head of an event log."""
        kept = {"batching", "queue"}
        return {
            key: model.model_dump(mode="json", include=kept)
            for key, model in self.manager.generations().items()
        }


@contextlib.asynccontextmanager
async def running(
    config: Config, path: Path | None = None, hangup: asyncio.Event | None = None
) -> AsyncIterator[Application]:
    """A started application; leaving closes it, without draining."""
    application = Application(config, path, hangup)
    try:
        await application.start()
        yield application
    finally:
        await application.close()


def _unfinished(unanswered: int, incomplete: int) -> str:
    if unanswered:
        return f"{unanswered} request{'s' if unanswered != 1 else ''} unanswered"
    if incomplete:
        return f"{incomplete} request{'s' if incomplete != 1 else ''} not sent as a whole"
    return "replies were not read by their clients"
