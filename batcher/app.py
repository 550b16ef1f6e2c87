"""The composition root: a `Config` becomes a running server. The only file that knows every room.

Start: executors are found, listeners bound (so that a probe gets an answer and a port in use is
said at once), models loaded and warmed up, and then the server calls itself ready. Stop: readiness
goes first, new requests are refused with a hint when to retry, accepted ones are answered, and what
was started is closed in the opposite order.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from batcher import plugins
from batcher.buffers import Buffers, default_limit
from batcher.clock import SECOND, monotonic_ns
from batcher.config import Config, ModelConfig, device_limits
from batcher.core.commands import PolicyFailed
from batcher.core.events import DeviceConfigured
from batcher.core.scheduler import Scheduler
from batcher.errors import BatcherError, NotSupported, RequestError, UnloadedWhileLoading
from batcher.executor import AsyncExecutor, Executor, LoadContext
from batcher.journal import Reason, Recording
from batcher.live_settings import FileFollower, LiveSettings
from batcher.runtime.health import Health, HealthReport, ModelState
from batcher.runtime.instances.health_checks import HealthCheckPlan
from batcher.runtime.instances.plan import InstancePlan, ProcessContext
from batcher.runtime.instances.sample import WarmupPlan
from batcher.runtime.interface.labels import read_labels
from batcher.runtime.interface.padding_rules import read_padding_rules
from batcher.runtime.models.model import ServedModel, model_key
from batcher.runtime.models.registry import ModelRegistry
from batcher.runtime.runner import Runner
from batcher.runtime.timer import TimerFd
from batcher.server.frontend import GrpcFrontend
from batcher.server.memory import Trimmer
from batcher.server.services.flight_record import FlightRecordServicer
from batcher.service import Batcher
from batcher.telemetry import HealthPoints, LoopWatchdog, Telemetry, probe_loop_lag
from batcher.web import HttpServer, build_app, render

log = logging.getLogger(__name__)


LAST_WRITES_S = 5.0
"""How long answers that are ready may take to leave when the server stops."""

CLOSE_TIMEOUT_S = 1.0
"""How long an instance may take to end its batch and to close when the server stops."""


GARBAGE = 20_000
"""Objects that are made before the collector looks for garbage. What waits for its answer, or to be
recorded, is none, and would be walked over many times a second."""


class DrainTimeoutError(BatcherError):
    """Accepted requests were still unanswered when `drain_timeout` was over."""


class Application:
    """A server made from a configuration. `start`, `drain`, `close`, each once, in this order."""

    def __init__(
        self, config: Config, path: Path | None = None, hangup: asyncio.Event | None = None
    ) -> None:
        """Find every executor. Raises `PluginError` before anything is started.

        `path` is the file that the configuration came from: its changes are followed, and it is
        read again when `hangup` is set.
        """
        self.config = config
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
        process = ProcessContext(self.runner, loop, monotonic_ns, changed=self._health.changed)
        self.models = ModelRegistry(
            [self._served(model, f"models[{i}].", process) for i, model in enumerate(config.models)]
        )
        self.batcher = Batcher(self.models, self.runner, self.telemetry, monotonic_ns, self._health)
        self.telemetry.watch_health(self._health_points)
        self.live_settings = LiveSettings(config, list(self.models), self.telemetry.settings, path)
        self._follower = (
            None
            if path is None
            else FileFollower(
                path, config.server.config_poll_interval, self.live_settings.reload, hangup
            )
        )
        self.recording = Recording(
            config,
            scheduler.snapshot,
            recorded_settings(config),
            self._exposition,
            self.live_settings.in_force,
        )
        self.telemetry.watch_recording(self.recording.statistics)
        flight = FlightRecordServicer(self._write_on_request, config.server.status_codes)
        server = config.server
        self.buffers = Buffers(server.max_buffered or default_limit(server.max_message))
        self.grpc = GrpcFrontend(
            self.batcher, self.live_settings, flight, server, monotonic_ns, self.buffers
        )
        self.telemetry.watch_transport(self.grpc.statistics)
        self.http: HttpServer | None = None
        self._background: list[asyncio.Task[None]] = []
        self._watchdog: LoopWatchdog | None = None
        self._last_writes_s = LAST_WRITES_S

    async def start(self) -> None:
        """Listen, load every model, be ready. Raises `StartupError`; call `close` all the same."""
        address = self.config.server.http
        if address is not None:
            http = HttpServer(address, build_app(self.registry, self.health))
            await http.start()
            self.http = http
        await self.grpc.start()
        record = await self.recording.start()
        if record is not None:
            self.runner.record_with(record)
        for device, limit in device_limits(self.config).items():
            self.runner.feed(DeviceConfigured(device, limit))
        await self._load_models()
        self._run("loop-lag", probe_loop_lag(self.telemetry.loop_lag))
        self._watchdog = LoopWatchdog(self.telemetry.loop_stalled)
        self._watchdog.start()
        if self._follower is not None:
            self._run("settings", self._follower.run())
        self._run("memory", Trimmer(self.buffers).run())
        if self.grpc.certificates is not None and self.config.server.config_poll_interval:
            watch = self.grpc.certificates.watch(self.config.server.config_poll_interval / SECOND)
            self._run("certificates", watch)
        if self.recording.flight is not None:
            self._run("flight-recorder", self.recording.flight.watch(self.telemetry.tallies))
        self._health.started()

    async def drain(self, delay_ns: int = 0) -> None:
        """Stop being ready; after the delay, refuse new requests and answer the accepted ones.

        Raises `DrainTimeoutError` with their number when `drain_timeout` is over first.
        """
        self.telemetry.draining = True
        self._health.drain()
        # Until then those who were told of this server before go on sending.
        await asyncio.sleep(delay_ns / SECOND)
        loop = asyncio.get_running_loop()
        timeout_s = self.config.server.drain_timeout / SECOND
        ends = loop.time() + timeout_s
        self.grpc.send_goaway()
        # What clients had sent before they read that is answered, too.
        await self.grpc.goaway_acknowledged(timeout_s)
        self.batcher.draining = True
        self.grpc.end_streams()
        try:
            async with asyncio.timeout_at(ends):
                await self.runner.idle()
                await self.grpc.streams_ended()
        except TimeoutError:
            raise DrainTimeoutError(
                f"{_unfinished(self.runner.unanswered)} after {timeout_s:g} s"
                " (server.drain_timeout)"
            ) from None
        self._last_writes_s = min(LAST_WRITES_S, ends - loop.time())

    async def close(self) -> None:
        """Close what was started, last things first. Whatever is still unanswered fails."""
        self._health.drain()
        await self.grpc.end_changes()
        if self._watchdog is not None:
            self._watchdog.close()
        for task in self._background:
            task.cancel()
        # Before the listeners: callers of requests that are lost now are told so.
        await asyncio.gather(*(model.unload(CLOSE_TIMEOUT_S) for model in self.models))
        await self.grpc.stop(self._last_writes_s)
        self.runner.close()
        await asyncio.to_thread(self.recording.close)
        if self.http is not None:
            await self.http.stop()

    async def write_flight_record(self, reason: Reason, detail: str) -> Path:
        """Write what the flight recorder has in memory.

        Raises `NotSupported` where none is configured, and what `FlightRecorder.write` raises.
        """
        flight = self.recording.flight
        if flight is None:
            raise NotSupported("there is no flight recorder; configure flight_recorder")
        return await flight.write(reason, detail)

    def on_signal(self) -> None:
        """Write a flight record because a signal asked for it; what is wrong is logged."""
        self._run("flight-record", self._write_unasked(Reason.SIGNAL, "SIGUSR2"))

    def health(self) -> HealthReport:
        """Whether the server wants traffic, and which models can serve."""
        return self._health.report()

    def _health_points(self) -> HealthPoints:
        report = self._health.report()
        states = [
            ((model.name, model.version, state), int(model.state is state))
            for model in report.models
            for state in ModelState
        ]
        return HealthPoints(ready=report.ready, states=states)

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
            log.critical("%s has ended, by a mistake of ours", task.get_name(), exc_info=error)

    async def _write_on_request(self, detail: str) -> Path:
        return await self.write_flight_record(Reason.REQUEST, detail)

    async def _write_unasked(self, reason: Reason, detail: str) -> None:
        try:
            await self.write_flight_record(reason, detail)
        except RequestError as error:
            log.warning("%s: %s", detail, error)

    def _scheduler_failed(self) -> None:
        self._health.broken(self.runner.broken)
        if self.recording.flight is not None:
            self._run("flight-record", self._write_unasked(Reason.INTERNAL, self.runner.broken))

    async def _exposition(self) -> bytes:
        return (await render(self.registry, ""))[0]

    def _policy_failed(self, failure: PolicyFailed) -> None:
        for model in self.models:
            if model.key == failure.model:
                model.telemetry.policy_failed()

    async def _load_models(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for model in self.models:
                    group.create_task(self._load(model))
        except BaseExceptionGroup as failures:
            first: BaseException = failures
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            raise first from None

    async def _load(self, model: ServedModel) -> None:
        log.info("loading %s version %s with %s", model.name, model.version, model.executor)
        started_ns = monotonic_ns()
        try:
            await model.load()
        except UnloadedWhileLoading:
            # An admin call asked for that: the others are served.
            log.warning(
                "%s version %s was unloaded while it was loading", model.name, model.version
            )
            return
        seconds = (monotonic_ns() - started_ns) / SECOND
        log.info("%s version %s is ready after %.2f s", model.name, model.version, seconds)

    def _served(self, config: ModelConfig, path: str, process: ProcessContext) -> ServedModel:
        executor = plugins.find_executor(config.executor)
        key = model_key(config.name, config.version)
        plans = [
            instance_plan(config, index, executor, self.config.base_dir)
            for index in range(config.instances)
        ]
        telemetry = self.telemetry.model(key, config.name, config.version)
        settings = config.scheduler_settings()
        return ServedModel(
            config.name,
            config.version,
            config.executor,
            settings,
            plans,
            process,
            telemetry,
            read_padding_rules(config, path),
            {name: read_labels(config.name, file) for name, file in config.label_files().items()},
        )


def recorded_settings(config: Config) -> dict[str, dict[str, Any]]:
    """What a recorded log says of each model's settings: what decides how it is scheduled."""
    kept = {"batching", "queue"}
    return {
        model_key(model.name, model.version): model.model_dump(mode="json", include=kept)
        for model in config.models
    }


def instance_plan(
    config: ModelConfig,
    index: int,
    executor: Callable[[], Executor | AsyncExecutor],
    base_dir: Path,
) -> InstancePlan:
    """How to make one instance of a model."""
    key = model_key(config.name, config.version)
    return InstancePlan(
        name=f"{key}#{index}",
        key=key,
        context=LoadContext(
            model=config.name,
            version=config.version,
            instance=index,
            device=config.device,
            max_batch_size=config.batching.max_batch_size,
            options=config.options,
            base_dir=base_dir,
            batched={each.input: each.batched for each in config.inputs},
        ),
        make_executor=executor,
        max_in_flight=config.max_in_flight,
        execute_timeout_ns=config.execute_timeout,
        warmup=WarmupPlan(config.warmup_sizes(), config.warmup.length, config.warmup.inputs),
        fail_nan=config.on_nan == "fail",
        load_retry_ns=config.load_retry_timeout,
        checks=HealthCheckPlan(
            config.health.interval, config.health.timeout, config.health.failure_threshold
        ),
    )


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


async def serve(config: Config, path: Path | None = None) -> None:
    """Run until SIGTERM or SIGINT, then drain. A second signal ends the process at once.

    After SIGTERM newcomers are answered for `drain_delay`: a supervisor tells others meanwhile.

    SIGHUP has the file at `path`, where the configuration came from, read again. Raises
    `StartupError` when it could not start and `DrainTimeoutError` when it could not drain.
    """
    hangup = asyncio.Event()
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[int] = loop.create_future()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, _on_signal, signum, stop)
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    loop.add_signal_handler(signal.SIGUSR2, log.warning, "SIGUSR2: not ready yet")
    await _run_until(config, path, stop, hangup)


async def _run_until(
    config: Config, path: Path | None, stop: asyncio.Future[int], hangup: asyncio.Event
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        entering = asyncio.ensure_future(stack.enter_async_context(running(config, path, hangup)))
        await asyncio.wait((entering, stop), return_when=asyncio.FIRST_COMPLETED)
        if not entering.done():
            entering.cancel()
            await asyncio.wait((entering,))
            log.info("stopped before it was ready")
            return
        application = entering.result()
        # What lives now lives for ever: keep the collector from walking over it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GARBAGE)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, application.on_signal)
        print(application.describe(), flush=True)  # noqa: T201 - the line that supervisors wait for
        delay_ns = config.server.drain_delay if await stop == signal.SIGTERM else 0
        log.info("draining: %d requests unanswered", application.batcher.unanswered)
        await application.drain(delay_ns)
        log.info("drained")


def _unfinished(unanswered: int) -> str:
    if not unanswered:
        return "answers on open streams were not read"
    return f"{unanswered} request{'s' if unanswered != 1 else ''} unanswered"


def _on_signal(signum: int, stop: asyncio.Future[int]) -> None:
    if stop.done():
        log.warning("%s again: ending at once", signal.Signals(signum).name)
        logging.shutdown()
        os._exit(1)
    stop.set_result(signum)
