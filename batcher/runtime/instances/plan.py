"""How to make one instance of a model, and what all instances of a process share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import field

from batcher.clock import Clock
from batcher.config import ExecutorBatches
from batcher.core.record import record
from batcher.executor import AsyncExecutor, Executor, LoadContext
from batcher.executor.classes import ExecutorPath
from batcher.runtime.execution.worker import Isolation
from batcher.runtime.instances.abandoned import AbandonedThreads
from batcher.runtime.instances.health_checks import HealthCheckPlan
from batcher.runtime.instances.replacement import RestartPlan
from batcher.runtime.instances.sample import WarmupPlan
from batcher.runtime.instances.turns import DeviceTurns
from batcher.runtime.runner import Runner
from batcher.telemetry.devices import DeviceWatcher


@record
class InstancePlan:
    """How to load one instance, each time it has to be loaded. `name` is unique in the process."""

    name: str
    key: str
    """The model in events and commands: `model_key`."""
    context: LoadContext
    make_executor: Callable[[], Executor | AsyncExecutor | ExecutorPath]
    """Makes the executor; or says where a child process finds its class."""
    max_in_flight: int
    execute_timeout_ns: int
    warmup: WarmupPlan
    fail_nan: bool = False
    """Whether a row whose outputs contain NaN counts as failed."""
    load_retry_ns: int = 0
    """Nanoseconds for which a load that raises `BackendUnavailable` is repeated."""
    load_timeout_ns: int | None = None
    """Nanoseconds that one attempt to load it and to warm it up may take; None: no bound."""
    checks: HealthCheckPlan = HealthCheckPlan()
    isolation: Isolation = "thread"
    """Where the executor runs: `models[].isolation`."""
    pipelining: bool = True
    """Whether batches are pipelined where the executor can: `models[].pipelining`."""
    restart: RestartPlan = RestartPlan()
    max_abandoned_threads: int = 3
    """With more threads of the model that were abandoned and still run, it is not loaded again."""
    fit: Callable[[ExecutorBatches], InstancePlan] | None = None
    """How to load it for an executor that says what batches it takes (raises `ModelLoadError` where the
    configuration asks for more); None where that does not matter."""
    batch_sizes: tuple[int, ...] = ()
    """The only sizes that batches are executed with, ascending; () for any."""


@record
class ProcessContext:
    """What all instances of the process share."""

    runner: Runner
    loop: asyncio.AbstractEventLoop
    clock: Clock
    measuring: dict[str, asyncio.Lock] = field(default_factory=dict)
    """By device: instances measure their buckets one at a time, so as not to measure each other."""
    abandoned: AbandonedThreads = field(default_factory=AbandonedThreads)
    turns: DeviceTurns | None = None
    """How warm-ups take turns with what serves; None: they do not."""
    devices: DeviceWatcher = field(default_factory=DeviceWatcher)
    """Knows which GPU each device is, and whether it has failed."""
    changed: Callable[[], None] = lambda: None
    """Called when the health of an instance or a model has changed."""
    load_again: Callable[[str], None] = lambda _key: None
    """Called with the `key` of a model whose instance would be loaded again with another interface: only
    the whole model can be."""
