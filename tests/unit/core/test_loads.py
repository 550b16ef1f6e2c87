"""Loads of models and devices: what is offered over what can be served, and when that is not known."""

from __future__ import annotations

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.events import (
    DeviceConfigured,
    InstanceDown,
    InstanceDraining,
    InstanceUp,
    ModelConfigured,
    ModelRemoved,
    RequestArrived,
)
from batcher.core.loads import MOST_FLOWS
from batcher.core.scheduler import Scheduler
from batcher.core.settings import Adaptive, ModelSettings, QueueLimits

PROFILE = tuple((rows, (5 + rows) * MILLISECOND) for rows in (1, 2, 4, 8, 16, 32))
FULL = 32_000 / 37
"""Rows a second in full batches."""


class Offers:
    """A scheduler whose batches never end; requests are refused or wait, and are offered all the same."""

    def __init__(self):
        self.scheduler, self.now_ns, self.ids = Scheduler(), 0, 0

    def feed(self, *events):
        return self.scheduler.handle(list(events), self.now_ns)

    def model(self, name="m", target=None, replaces="", **limits):
        limits = {"max_requests": 1} | limits
        target_ns = None if target is None else target * MILLISECOND
        settings = ModelSettings(32, Adaptive(), QueueLimits(**limits), target_ns)
        self.feed(ModelConfigured(name, settings, replaces))

    def up(self, name="m", device="d", number=0, profile=PROFILE):
        self.feed(InstanceUp(f"{name}#{number}", 1, name, device, 1, profile))

    def offer(self, seconds, rows_a_second, *names, rows=8, **what):
        """Requests of so many rows, as many of each model."""
        step_ns = rows * SECOND // rows_a_second
        end_ns = self.now_ns + seconds * SECOND
        while self.now_ns < end_ns:
            self.now_ns += step_ns
            for name in names or ("m",):
                self.ids += 1
                self.feed(RequestArrived(self.ids, name, rows, 0, (), "", self.now_ns, **what))

    def wait(self, seconds):
        self.now_ns += int(seconds * SECOND)
        self.feed()

    def seen(self):
        """What is observed where no batch hangs."""
        for instance in self.scheduler.fleet.instances.values():
            instance.batches.clear()
        return self.scheduler.observe(self.now_ns)


@pytest.fixture
def offers():
    return Offers()


def test_what_was_refused_counts(offers):
    offers.model()
    offers.up()
    offers.offer(10, 400)
    seen = offers.seen()
    (model,), (device,) = seen.models, seen.devices
    assert model.offered_rows_per_s == pytest.approx(400, rel=0.02)
    assert model.capacity_rows_per_s == pytest.approx(FULL, rel=0.01)
    assert seen.desired_ratio == device.load == model.load == pytest.approx(400 / FULL, rel=0.02)
    assert model.device_loads == (("d", pytest.approx(device.load)),)
    assert device.slots == 1


def test_idle_with_known_times_is_0(offers):
    offers.model()
    offers.up()
    offers.wait(0.5)
    assert offers.seen().desired_ratio is None
    offers.wait(1)
    seen = offers.seen()
    assert (seen.desired_ratio, seen.models[0].load, seen.devices[0].load) == (0, 0, 0)
    assert seen.models[0].capacity_rows_per_s == pytest.approx(FULL, rel=0.01)


def test_without_batch_times_it_is_not_known(offers):
    offers.model()
    offers.up(profile=())
    offers.offer(5, 400)
    seen = offers.seen()
    assert (seen.desired_ratio, seen.devices[0].load, seen.models[0].load) == (None, None, None)
    assert seen.models[0].offered_rows_per_s == pytest.approx(400, rel=0.02)


def test_no_scheduler_without_models_has_a_load(offers):
    assert offers.seen().desired_ratio is None


@pytest.mark.parametrize("end", [InstanceDown("m#0", 1), InstanceDraining("m#0", 1)])
def test_without_an_instance_that_takes_batches_a_replica_counts_as_whole(offers, end):
    offers.model()
    offers.up()
    offers.wait(2)
    offers.feed(end)
    assert offers.seen().desired_ratio == 0
    offers.offer(10, 400)
    seen = offers.seen()
    assert seen.models[0].capacity_rows_per_s == pytest.approx(FULL, rel=0.01)
    assert seen.desired_ratio == seen.models[0].load == pytest.approx(400 / FULL, rel=0.02)
    assert [(each.device, each.load) for each in seen.devices] == [("d", seen.desired_ratio)]
    copy = Scheduler.restore(offers.scheduler.snapshot())
    assert copy.snapshot() == offers.scheduler.snapshot()
    assert copy.observe(offers.now_ns) == seen


def test_instances_that_hang_count_as_if_they_took_batches(offers):
    offers.model()
    offers.up()
    offers.up(number=1, device="e")
    offers.wait(2)
    offers.offer(1, 100)
    both = offers.scheduler.observe(offers.now_ns).models[0].capacity_rows_per_s
    offers.wait(2)
    seen = offers.scheduler.observe(offers.now_ns)
    assert [each.device for each in seen.devices] == ["d", "e"]
    assert seen.models[0].capacity_rows_per_s == pytest.approx(both, rel=0.01)
    assert seen.desired_ratio is not None


def test_whole_is_with_all_instances_that_are_to_come_back(offers):
    offers.model()
    for number in range(3):
        offers.up(number=number)
    offers.wait(2)
    offers.feed(InstanceDraining("m#2", 1), InstanceDown("m#2", 1))
    two = offers.seen().models[0].capacity_rows_per_s
    offers.feed(InstanceDown("m#0", 1))
    assert offers.seen().models[0].capacity_rows_per_s == pytest.approx(two / 2)
    offers.feed(InstanceDown("m#1", 1))
    assert offers.seen().models[0].capacity_rows_per_s == pytest.approx(two)


def test_a_model_that_is_down_does_not_leave_its_device_to_the_others(offers):
    for name in "ab":
        offers.model(name)
        offers.up(name)
    offers.feed(DeviceConfigured("d", 1))
    offers.wait(2)
    offers.feed(InstanceDown("b#0", 1))
    offers.offer(10, 200, "a", "b")
    assert offers.seen().desired_ratio == pytest.approx(400 / FULL, rel=0.02)


def test_half_of_the_instances_are_half_of_the_capacity(offers):
    offers.model()
    offers.up()
    offers.up(number=1)
    offers.wait(2)
    both = offers.seen().models[0].capacity_rows_per_s
    offers.feed(InstanceDown("m#1", 1))
    assert offers.seen().models[0].capacity_rows_per_s == pytest.approx(both / 2)


@pytest.mark.parametrize("device", [None, "gpu0", "gpu1"])
def test_work_of_unknown_cost_hides_a_low_load_and_not_a_high_one(offers, device):
    for name in "ab":
        offers.model(name)
    offers.up("a", "gpu0")
    if device:
        offers.up("b", device, profile=())
    offers.offer(10, 400, "a")
    # Nothing is offered to the model of which nothing is known.
    assert offers.seen().desired_ratio == pytest.approx(400 / FULL, rel=0.02)
    offers.offer(6, 400, "a", "b")
    assert offers.seen().desired_ratio is None
    offers.offer(6, 2 * int(FULL), "a", "b", rows=32)
    if device != "gpu0":
        assert offers.seen().desired_ratio == pytest.approx(2, rel=0.03)
    offers.offer(6, 400, "a")
    assert offers.seen().desired_ratio is not None


def test_a_new_model_does_not_hide_the_load_of_another(offers):
    offers.model("a")
    offers.up("a")
    offers.offer(10, 400, "a")
    offers.model("b")
    assert offers.seen().desired_ratio == pytest.approx(400 / FULL, rel=0.02)


def test_models_on_one_device_add_up(offers):
    for name in "ab":
        offers.model(name)
        offers.up(name)
    offers.feed(DeviceConfigured("d", 1))
    offers.offer(6, 200, "a", "b")
    seen = offers.seen()
    (device,) = seen.devices
    parts = [dict(model.device_loads)["d"] for model in seen.models]
    assert sum(parts) == pytest.approx(device.load)
    assert device.load == pytest.approx(400 / FULL, rel=0.02)
    assert seen.models[0].load == pytest.approx(200 / FULL, rel=0.02)


def test_the_highest_device_counts(offers):
    for name in "ab":
        offers.model(name)
        offers.up(name, device=f"gpu-{name}")
    offers.offer(6, 200, "a")
    seen = offers.seen()
    assert [device.load for device in seen.devices] == [pytest.approx(200 / FULL, rel=0.02), 0]
    assert seen.desired_ratio == seen.devices[0].load


def test_what_no_capacity_would_serve_is_not_offered(offers):
    offers.model(max_batches_per_request=1)
    offers.up()
    offers.wait(2)
    offers.offer(3, 400, rows=33)
    offers.offer(3, 400, deadline_ns=1)
    assert offers.seen().models[0].offered_rows_per_s == 0


def test_a_change_of_settings_shows_at_once(offers):
    offers.model()
    offers.up()
    offers.wait(2)
    offers.model(target=20)
    found = offers.seen().models[0].capacity_rows_per_s
    assert found == pytest.approx(500, rel=0.01)


def test_a_generation_takes_over_what_was_offered_to_the_one_before(offers):
    offers.model("m/1")
    offers.up("m/1")
    offers.offer(10, 400, "m/1")
    offers.model("m/1~2", replaces="m/1")
    before = 400 / FULL

    assert offers.seen().desired_ratio == pytest.approx(before, rel=0.02)
    offers.up("m/1~2")
    offers.offer(2, 400, "m/1~2")
    offers.feed(InstanceDraining("m/1#0", 1))
    assert offers.seen().desired_ratio == pytest.approx(before, rel=0.02)
    copy = Scheduler.restore(offers.scheduler.snapshot())
    assert copy.snapshot() == offers.scheduler.snapshot()
    assert copy.models["m/1~2"].replaces == "m/1"
    offers.feed(InstanceDown("m/1#0", 1), ModelRemoved("m/1"))
    assert offers.seen().desired_ratio == pytest.approx(before, rel=0.02)


def test_more_buckets_than_are_told_apart_count_in_full(offers):
    offers.model()
    offers.up(profile=())
    buckets = [((length,),) for length in range(2, MOST_FLOWS + 4)]
    profiles = tuple((bucket, PROFILE) for bucket in buckets)
    offers.feed(InstanceUp("m#0", 2, "m", "d", 1, (), profiles))
    while offers.now_ns < 10 * SECOND:
        for bucket in buckets:
            offers.now_ns += SECOND // 50
            offers.ids += 1
            offers.feed(RequestArrived(offers.ids, "m", 8, 0, bucket, "", offers.now_ns))
    assert offers.seen().desired_ratio == pytest.approx(400 / FULL, rel=0.03)


def test_an_unloaded_model_is_no_part_of_it(offers):
    for name in "ab":
        offers.model(name)
        offers.up(name)
    offers.offer(6, 400, "a")
    offers.feed(InstanceDown("a#0", 1), ModelRemoved("a"))
    assert offers.seen().desired_ratio == 0


def test_the_first_requests_of_all_are_no_load_yet(scheduler, play):
    play.fixed(target=200)
    profile = ((1, 20 * MILLISECOND), (8, 40 * MILLISECOND))
    play.feed(InstanceUp("i", 1, "m", "d", profile=profile))
    assert scheduler.observe(3_000 * MILLISECOND).models[0].load == 0
    play.arrive(1, 2, at=3_000)
    seen = scheduler.observe(3_001 * MILLISECOND)
    assert (seen.models[0].load, seen.devices[0].load) == (0, 0)


@pytest.mark.parametrize("request_s", [1, 5, 30])
def test_a_model_of_slow_requests_is_as_loaded_as_it_is(offers, request_s):
    """One request at a time, and one comes each second time that one could be served."""
    offers.model()
    offers.up(profile=((1, request_s * SECOND), (32, 32 * request_s * SECOND)))
    for number in range(200):
        offers.wait(2 * request_s)
        offers.feed(RequestArrived(number, "m", 1, 0, (), "", offers.now_ns))
        load = offers.seen().desired_ratio
        if number > 30:
            assert load == pytest.approx(0.5, rel=0.15)


def test_a_restored_scheduler_goes_on_with_long_slots(offers):
    offers.model()
    offers.up(profile=((1, 5 * SECOND), (32, 160 * SECOND)))
    for number in range(40):
        offers.wait(10)
        offers.feed(RequestArrived(number, "m", 1, 0, (), "", offers.now_ns))
    again = Scheduler.restore(offers.scheduler.snapshot())
    before = offers.scheduler.models["m"].offered
    assert again.models["m"].offered.capture() == before.capture()
    assert before.slot_ns == 16 * SECOND
