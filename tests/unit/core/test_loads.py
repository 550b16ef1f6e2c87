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
def test_a_replica_without_an_instance_that_takes_batches_is_not_idle(offers, end):
    offers.model()
    offers.up()
    offers.wait(2)
    offers.feed(end)
    offers.offer(5, 400)
    seen = offers.seen()
    assert (seen.desired_ratio, seen.models[0].load) == (None, None)
    assert seen.models[0].offered_rows_per_s == pytest.approx(400, rel=0.02)


def test_an_instance_that_hangs_takes_no_batches(offers):
    offers.model()
    offers.up()
    offers.up(number=1, device="e")
    offers.wait(2)
    offers.offer(1, 100)
    assert len(offers.scheduler.observe(offers.now_ns).devices) == 2
    offers.wait(2)
    seen = offers.scheduler.observe(offers.now_ns)
    assert (seen.devices, seen.desired_ratio) == ((), None)


def test_half_of_the_instances_are_half_of_the_capacity(offers):
    offers.model()
    offers.up()
    offers.up(number=1)
    offers.wait(2)
    both = offers.seen().models[0].capacity_rows_per_s
    offers.feed(InstanceDown("m#1", 1))
    assert offers.seen().models[0].capacity_rows_per_s == pytest.approx(both / 2)


def test_a_part_that_is_not_known_hides_a_low_load_and_not_a_high_one(offers):
    for name in "ab":
        offers.model(name)
    offers.up("a", "gpu0")
    offers.wait(2)
    assert offers.seen().desired_ratio is None
    offers.offer(6, 2 * int(FULL), "a", rows=32)
    assert offers.seen().desired_ratio == pytest.approx(2, rel=0.03)


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
