"""How to make one instance of a model, and what all instances of a process share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import field

from batcher.clock import Clock
from batcher.core.record import record
from batcher.executor import AsyncExecutor, Executor, LoadContext
from batcher.runtime.instances.health_checks import HealthCheckPlan
from batcher.runtime.instances.sample import WarmupPlan
from batcher.runtime.runner import Runner


@record
class InstancePlan:
    """How to make one instance, again and again. `name` is unique in the process."""

    name: str
    key: str
    """The scheduler's name of the model."""
    context: LoadContext
    make_executor: Callable[[], Executor | AsyncExecutor]
    max_in_flight: int
    execute_timeout_ns: int
    warmup: WarmupPlan
    fail_nan: bool = False
    """Whether rows whose answer holds NaN have failed."""
    load_retry_ns: int = 0
    """For how long a load is tried again that fails with `BackendUnavailable`."""
    checks: HealthCheckPlan = HealthCheckPlan()


@record
class ProcessContext:
    """What all instances of a process share."""

    runner: Runner
    loop: asyncio.AbstractEventLoop
    clock: Clock
    measuring: dict[str, asyncio.Lock] = field(default_factory=dict)
    """By device: buckets are measured in turns, so that they measure the device and not each other."""
    changed: Callable[[], None] = lambda: None
    """Called when an instance or a model has got better or worse."""
