from __future__ import annotations

from dataclasses import dataclass

import pytest

from batcher.buffers import Buffers
from batcher.clock import MILLISECOND, SECOND
from batcher.core.commands import Outcome, Reason
from batcher.core.observation import InstanceObservation, ModelObservation, Observation
from batcher.runtime.health import HealthReport, InstanceHealth, InstanceState, ModelHealth
from batcher.telemetry.load import (
    Identity,
    LoadReporter,
    LoadSources,
    ModelDeviceLoad,
    RequestCount,
)


@dataclass
class Scheduler:
    """A scheduler that shows the same model at every look, and counts the looks."""

    clock: object
    models: tuple = ()
    instances: tuple = ()
    looks: int = 0

    def observe(self):
        self.looks += 1
        return Observation(self.clock(), self.models, self.instances)


@pytest.fixture
def scheduler(clock):
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
    )
    instance = InstanceObservation("m:1/0", 1, "m:1", "cpu", False, 1)
    return Scheduler(clock, (waiting,), (instance,))


HEALTHY = HealthReport(
    True, (ModelHealth("m", "1", True, instances=(InstanceHealth(0, InstanceState.UP),)),)
)


@pytest.fixture
def reporter(telemetry, scheduler, clock):
    sources = LoadSources(
        observe=scheduler.observe,
        models=telemetry,
        draining=lambda: False,
        health=lambda: HEALTHY,
        buffers=Buffers(20),
    )
    return LoadReporter(
        Identity("pod-1", "s1"), sources, clock=clock, epoch_clock=lambda: 5 * SECOND + clock()
    )


def test_a_report_has_what_waits_and_what_was_counted(reporter, model, clock):
    model.requests[Outcome.REJECTED, Reason.PREDICTED_LATE] = 4
    model.execution_started(1, "cpu", clock())
    clock.advance(2 * SECOND)
    report = reporter.report()
    (load,) = report.models
    assert (load.model, load.version, load.state) == ("m", "1", "ready")
    assert load.oldest_waiting_age_seconds == 0.005
    assert load.oldest_executing_age_seconds == 0.02
    assert load.oldest_request_target_ratio == 0.5
    assert (load.queue_requests, load.queue_rows, load.queue_bytes) == (3, 7, 4_096)
    assert load.queue_backlog_seconds == 0.25
    assert load.requests == (RequestCount("rejected", "predicted_late", 4),)
    assert load.instances == {"up": 1}
    assert load.devices == (ModelDeviceLoad("cpu", 2.0),)
    assert load.batches_in_flight == 1
    assert report.replica.uptime_seconds == 2
    assert (report.replica.buffered_bytes, report.replica.buffered_limit_bytes) == (0, 20)


def test_who_asks_within_the_interval_gets_the_same_report(reporter, scheduler, clock):
    first = reporter.report()
    clock.advance(100 * MILLISECOND - 1)
    assert all(reporter.report() is first for _ in range(1_000))
    assert scheduler.looks == 1
    clock.advance(1)
    assert reporter.report().number == 2
    assert scheduler.looks == 2


def test_what_the_scheduler_does_not_know_is_unknown(reporter, scheduler):
    scheduler.models = scheduler.instances = ()
    (load,) = reporter.report().models
    assert load.queue_requests is None
    assert load.oldest_waiting_age_seconds is None
    assert load.target_seconds is None


def test_the_name_is_that_of_the_configuration_the_pod_or_the_host():
    pod = {"POD_NAME": "pod-1", "HOSTNAME": "host-1"}
    assert Identity.of_process("mine", pod).replica == "mine"
    assert Identity.of_process(None, pod).replica == "pod-1"
    assert Identity.of_process("", {"HOSTNAME": "host-1"}).replica == "host-1"
    assert Identity.of_process(None, {}).replica


def test_every_start_has_an_id_of_its_own():
    assert len({Identity.of_process("mine", {}).start_id for _ in range(100)}) == 100
