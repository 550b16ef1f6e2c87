from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.commands import Outcome, Reason
from batcher.runtime.health import HealthReport
from batcher.telemetry.budget import Hop
from batcher.telemetry.load import Identity


@pytest.fixture
def busy(model, clock, stamps):
    """The model has answered, refused and failed, and its device is busy."""
    model.splits_target({Hop.QUEUE: MILLISECOND // 2})
    model.request_ended(Outcome.OK, Reason.NONE, 2, stamps(1, 2, 3, 4, 5, 6, 7), 6 * MILLISECOND)
    for _ in range(4):
        model.request_ended(
            Outcome.REJECTED, Reason.PREDICTED_LATE, 1, stamps(1, 2, 0, 0, 0, 3, 4), None
        )
    model.device_known("cpu")
    model.batch_finished(
        rows=2,
        requests=1,
        max_batch_size=8,
        started_ns=3 * MILLISECOND,
        execute_start_ns=4 * MILLISECOND,
        execute_end_ns=5 * MILLISECOND,
        scattered_ns=6 * MILLISECOND,
        failed=False,
        device="cpu",
    )
    model.execution_started(1, "cpu", clock())
    clock.advance(2 * SECOND)
    return model


OF_A_MODEL = {
    "generation": ("batcher_model_generation", {}),
    "oldest_waiting_age_seconds": ("batcher_oldest_request_age_seconds", {"state": "waiting"}),
    "oldest_executing_age_seconds": ("batcher_oldest_request_age_seconds", {"state": "executing"}),
    "oldest_request_target_ratio": ("batcher_oldest_request_target_ratio", {}),
    "queue_requests": ("batcher_queue_requests", {}),
    "queue_rows": ("batcher_queue_rows", {}),
    "queue_bytes": ("batcher_queue_bytes", {}),
    "queue_backlog_seconds": ("batcher_queue_backlog_seconds", {}),
    "executing_requests": ("batcher_executing_requests", {}),
    "batches_in_flight": ("batcher_batches_in_flight", {}),
    "latency_target_reachable": ("batcher_latency_target_reachable", {}),
    "latency_target_missed": ("batcher_latency_target_missed_total", {}),
    "batches": ("batcher_batch_rows_count", {}),
    "batch_rows": ("batcher_batch_rows_sum", {}),
}
"""Field -> the sample that it equals."""


def test_every_field_equals_its_metric(reporter, busy, value, registry):
    busy.fold()
    report = reporter.report()
    (load,) = report.models
    for field, (name, labels) in OF_A_MODEL.items():
        assert getattr(load, field) == value(name, **labels), field
        assert getattr(load, field), f"{field}: 0 proves nothing"
    ended = {(each.outcome, each.reason): each.count for each in load.requests}
    assert ended == {("ok", ""): 1, ("rejected", "predicted_late"): 4}
    for (outcome, reason), count in ended.items():
        assert count == value("batcher_requests_total", outcome=outcome, reason=reason)
    model_counts = {"late_answers": load.late_answers, "budget_exceeded": load.budget_exceeded}
    for name, by_hop in model_counts.items():
        assert by_hop == {hop: value(f"batcher_{name}_total", hop=hop) for hop in by_hop}
    assert sum(load.late_answers.values()) == 1
    assert load.budget_exceeded == {"queue": 1}
    (share,) = load.devices
    busy_s = value("batcher_executor_busy_seconds_total", device="cpu")
    assert share.executor_busy_seconds == busy_s == 2
    assert share.load_ratio == value("batcher_model_load_ratio", device="cpu")
    (device,) = report.devices
    sample = registry.get_sample_value
    assert device.load_ratio == sample("batcher_device_load_ratio", {"device": "cpu"})
    assert (
        device.busy_seconds == sample("batcher_device_busy_seconds_total", {"device": "cpu"}) == 2
    )
    assert device.batch_fill_ratio == sample("batcher_device_batch_fill_ratio", {"device": "cpu"})
    assert device.batch_fill_ratio == 0.25
    assert device.headroom_ratio == sample("batcher_device_headroom_ratio", {"device": "cpu"})
    assert report.replica.desired_ratio == sample("batcher_desired_ratio")
    assert report.replica.draining == bool(sample("batcher_draining"))


def test_who_asks_within_the_interval_gets_the_same_report(reporter, scheduler, clock):
    first = reporter.report()
    clock.advance(100 * MILLISECOND - 1)
    assert all(reporter.report() is first for _ in range(1_000))
    assert scheduler.looks == 1
    clock.advance(1)
    assert reporter.report().number == 2
    assert scheduler.looks == 2


def test_a_change_of_health_shows_at_once(reporter, sources):
    assert reporter.report().replica.ready
    sources.health = lambda: HealthReport(False, reason="draining")
    reporter.health_changed()
    report = reporter.report()
    assert (report.number, report.replica.ready, report.replica.reason) == (2, False, "draining")
    assert reporter.report() is report


def test_a_report_that_fails_is_not_the_last_one(reporter, scheduler, sources):
    sources.observe = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        reporter.report()
    sources.observe = scheduler.observe
    assert reporter.report().number == 1


def test_what_the_scheduler_does_not_know_is_unknown(reporter, model, scheduler):
    scheduler.models = scheduler.instances = scheduler.devices = ()
    scheduler.desired_ratio = None
    report = reporter.report()
    (load,) = report.models
    assert load.queue_requests is None
    assert load.oldest_waiting_age_seconds is None
    assert load.target_seconds is None
    assert load.offered_rows_per_second is None
    assert report.replica.desired_ratio is None
    assert report.devices == ()


def test_what_is_not_measured_yet_is_unknown(reporter, scheduler):
    (model,), (device,) = scheduler.models, scheduler.devices
    scheduler.models = (
        replace(model, target_ns=None, offered_rows_per_s=None, load=None, device_loads=()),
    )
    scheduler.devices = (replace(device, load=None),)
    report = reporter.report()
    (load,), (device,) = report.models, report.devices
    assert load.oldest_request_target_ratio is None
    assert load.latency_target_reachable is None
    assert load.devices == ()
    assert (device.load_ratio, device.headroom_ratio, device.statistics) == (None, None, None)


def test_a_device_to_which_nothing_is_offered_has_no_headroom_in_numbers(reporter, scheduler):
    scheduler.devices = (replace(scheduler.devices[0], load=0.0),)
    (device,) = reporter.report().devices
    assert (device.load_ratio, device.headroom_ratio) == (0.0, None)


def test_a_model_that_is_counted_but_not_served_is_unloaded(reporter, model, sources, telemetry):
    telemetry.model("other:1", "other", "1")
    assert [(m.model, m.state) for m in reporter.report().models] == [
        ("m", "ready"),
        ("other", "unloaded"),
    ]


def test_the_name_is_that_of_the_configuration_the_pod_or_the_host():
    pod = {"POD_NAME": "pod-1", "HOSTNAME": "host-1"}
    assert Identity.of_process("mine", pod).replica == "mine"
    assert Identity.of_process(None, pod).replica == "pod-1"
    assert Identity.of_process("", {"HOSTNAME": "host-1"}).replica == "host-1"
    assert Identity.of_process(None, {}).replica
    assert len(Identity.of_process(None, {"POD_NAME": "x" * 1_000}).replica) == 253


def test_every_start_has_an_id_of_its_own():
    assert len({Identity.of_process("mine", {}).start_id for _ in range(100)}) == 100


async def test_who_can_wait_gets_the_same_report_in_slices(reporter, scheduler, telemetry):
    for number in range(2, 40):
        telemetry.model(f"m:{number}", "m", str(number))
    turns = []

    async def others():
        while True:
            turns.append(1)
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    reports = await asyncio.gather(*(reporter.current() for _ in range(1_000)))
    beside.cancel()
    assert len(set(map(id, reports))) == scheduler.looks == 1
    assert len(reports[0].models) == 39
    assert len(turns) >= 3
    assert reporter.report() is reports[0]


async def test_a_report_in_one_go_meanwhile_is_the_later_one(reporter, scheduler, clock):
    waiting = asyncio.create_task(reporter.current())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert scheduler.looks == 1
    clock.advance(1)
    at_once = reporter.report()
    assert await waiting is at_once
    assert (at_once.number, scheduler.looks) == (1, 2)


async def test_a_change_of_health_is_not_joined_to_a_computation_before_it(reporter, sources):
    before = asyncio.create_task(reporter.current())
    await asyncio.sleep(0)
    sources.health = lambda: HealthReport(False, reason="draining")
    reporter.health_changed()
    after = asyncio.create_task(reporter.current())
    assert (await after).replica.reason == "draining"
    await before
    assert reporter.report().replica.reason == "draining"


async def test_a_caller_who_cannot_wait_gets_the_last_one_while_the_next_is_made(
    reporter, scheduler, clock
):
    first = reporter.latest()
    clock.advance(500 * MILLISECOND)
    assert reporter.latest() is first
    second = await reporter.current()
    assert (second.number, scheduler.looks) == (2, 2)
    assert reporter.latest() is second
    clock.advance(SECOND)
    assert reporter.latest().number == 3


async def test_a_computation_that_fails_is_begun_anew(reporter, scheduler, sources, clock):
    first = reporter.report()
    sources.observe = lambda: 1 / 0
    clock.advance(500 * MILLISECOND)
    assert reporter.latest() is first
    with pytest.raises(ZeroDivisionError):
        await reporter.current()
    sources.observe = scheduler.observe
    assert (await reporter.current()).number == 2


def test_a_report_that_takes_long_serves_for_longer(reporter, scheduler, sources, clock):
    """Of 20 ms that computing takes, the event loop has 400 ms for other things."""

    def observe():
        clock.advance(20 * MILLISECOND)
        return scheduler.observe()

    sources.observe = observe
    first = reporter.report()
    clock.advance(379 * MILLISECOND)
    assert reporter.report() is first
    clock.advance(1 * MILLISECOND)
    assert reporter.report().number == 2
