"""A reporter over a scheduler that shows what a test says, beside a `Telemetry` of the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from batcher.buffers import Buffers
from batcher.clock import MILLISECOND, SECOND
from batcher.core.observation import (
    DeviceObservation,
    InstanceObservation,
    ModelObservation,
    Observation,
)
from batcher.runtime.health import HealthReport, InstanceHealth, InstanceState, ModelHealth
from batcher.telemetry.load import Identity, LoadReporter, LoadSources, RecentLoad


@dataclass
class Scheduler:
    """A scheduler that shows the same at every look, and counts the looks."""

    clock: Any
    models: tuple = ()
    instances: tuple = ()
    devices: tuple = ()
    desired_ratio: float | None = None
    looks: int = 0

    def observe(self):
        self.looks += 1
        return Observation(
            self.clock(), self.models, self.instances, self.devices, self.desired_ratio
        )


@pytest.fixture
def scheduler(telemetry, clock):
    waiting = ModelObservation(
        model="m:1",
        waiting_requests=3,
        waiting_rows=7,
        waiting_bytes=4_096,
        executing_requests=2,
        oldest_waiting_ns=5 * MILLISECOND,
        oldest_executing_ns=20 * MILLISECOND,
        target_ns=40 * MILLISECOND,
        backlog_ns=0.25 * SECOND,
        offered_rows_per_s=150.0,
        capacity_rows_per_s=100.0,
        load=1.5,
        device_loads=(("cpu", 1.5),),
    )
    instance = InstanceObservation("m:1/0", 1, "m:1", "cpu", False, 1)
    device = DeviceObservation("cpu", 2, 1.5)
    scheduler = Scheduler(clock, (waiting,), (instance,), (device,), 1.5)
    telemetry.watch(scheduler.observe)
    return scheduler


HEALTHY = HealthReport(
    True, (ModelHealth("m", "1", True, instances=(InstanceHealth(0, InstanceState.UP),)),)
)


@pytest.fixture
def sources(telemetry, scheduler):
    return LoadSources(
        observe=scheduler.observe,
        models=telemetry,
        draining=lambda: telemetry.process.draining,
        health=lambda: HEALTHY,
        buffers=Buffers(20),
        recent=lambda _: RecentLoad(10.0, 100.0, 70.0, 20.0, 5.0, 4.0, 0.01, 0.03),
    )


@pytest.fixture
def reporter(sources, clock):
    return LoadReporter(
        Identity("pod-1", "s1"),
        sources,
        clock=clock,
        epoch_clock=lambda: 5 * SECOND + clock(),
        cost_clock=clock,
    )
