import asyncio
import contextlib

import pytest

from batcher.clock import SECOND
from batcher.scaler.channels import Channels
from batcher.scaler.config import parse_scaler_config
from batcher.scaler.discovery import STALE_NS, Endpoint, Found
from batcher.scaler.fleet import Fleet
from batcher.scaler.metrics import METRICS
from batcher.scaler.polling import POLL_SPACING_NS, PollSpacing
from batcher.scaler.replica import PollResult, State
from batcher.testing.replica import FakeReplica

LOAD = METRICS["desired_ratio"]
CONFIG = """
fleets:
  - name: ranker
    replicas: {static: ["127.0.0.1:1"]}
    poll: {interval: 1h}
    average: 0s
    idle_after: 300s
    wake_for: 120s
"""


class Listing:
    """A discovery that finds what a test says."""

    def __init__(self, now):
        self._now = now
        self.raised = None
        self._update = None
        self.running = asyncio.Event()

    async def run(self, update):
        self._update = update
        self.running.set()
        if self.raised is not None:
            raise self.raised
        await asyncio.Event().wait()

    def finds(self, *endpoints):
        found = tuple(
            each if isinstance(each, Endpoint) else Endpoint(each.address) for each in endpoints
        )
        self._update(Found(found, ok=True, at_ns=self._now()))

    def fails(self, error="SERVFAIL"):
        self._update(Found((), ok=False, error=error, at_ns=self._now()))


class Scene:
    """A fleet whose replicas are asked when a test says so."""

    def __init__(self, now):
        (config,) = parse_scaler_config(CONFIG).fleets
        # Together with an hour between polls no file may say so.
        config = config.model_copy(update={"average": 15 * SECOND})
        self.now = now
        self.listing = Listing(now)
        # An hour passes between polls: in this scene, replicas are heard instead.
        self.fleet = Fleet(config, self.listing, Channels(config), PollSpacing(), now)
        self.fleet._fresh_ns = lambda: 4 * SECOND

    def after(self, seconds):
        self.now.s += seconds

    def hear(self, *speakers):
        said = {speaker.address: speaker for speaker in speakers}
        for replica in self.fleet.replicas:
            if replica.endpoint.address in said:
                report = said[replica.endpoint.address].report()
                replica.answered(report.SerializeToString(), self.now())
        self.after(0.2)

    def fail(self, result=PollResult.TIMEOUT):
        for replica in self.fleet.replicas:
            replica.failed(result, result)
        self.after(0.2)

    @property
    def active(self):
        return self.fleet.activity().active

    @property
    def load(self):
        found = self.fleet.value(LOAD, "").estimate
        return None if found is None else pytest.approx(found.value)


@pytest.fixture
async def scene(now):
    """A fleet that lists and polls."""
    scene = Scene(now)
    task = asyncio.ensure_future(scene.fleet.run())
    await scene.listing.running.wait()
    yield scene
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.fixture
def two():
    """Two replicas that are asked something."""
    return FakeReplica("10.0.0.1:8001", ratio=0.5), FakeReplica("10.0.0.2:8001", ratio=0.7)


async def test_before_the_first_list_nothing_is_known(scene):
    assert scene.active is None
    assert scene.load is None
    assert not scene.fleet.has_looked


async def test_a_fleet_at_zero_is_idle(scene):
    scene.listing.finds()
    assert scene.active is False
    assert scene.load == 0
    assert scene.fleet.has_looked


async def test_a_fleet_at_zero_is_woken_for_a_while(scene):
    scene.listing.finds()
    scene.fleet.wake()
    assert scene.active is True
    assert scene.load == 0, "an error here would keep KEDA from starting it"
    scene.after(119)
    scene.listing.finds()
    assert scene.active is True
    scene.after(1)
    assert scene.active is False


async def test_many_wakes_last_as_long_as_one(scene):
    scene.listing.finds()
    told = []
    scene.fleet.changed = lambda: told.append(True)
    for _ in range(1000):
        scene.fleet.wake()
    assert len(told) == 1, "nothing is computed anew for the others"
    scene.after(120)
    scene.listing.finds()
    assert scene.active is False


async def test_after_a_start_nothing_is_idle_before_all_were_asked(scene, two):
    scene.after(10_000)
    scene.listing.finds(*two)
    assert scene.active is True
    assert scene.load is None
    idle = FakeReplica(two[0].address)
    scene.hear(idle)
    scene.after(301)
    scene.hear(idle)
    assert scene.active is True, "the other one was not asked yet"


async def test_a_fleet_gets_idle_when_nothing_is_asked_of_it(scene):
    idle = FakeReplica("10.0.0.1:8001")
    scene.listing.finds(idle)
    scene.hear(idle)
    for _ in range(10):
        scene.after(25)
        scene.listing.finds(idle)
        scene.hear(idle)
    assert scene.active is True
    for _ in range(3):
        scene.after(25)
        scene.listing.finds(idle)
        scene.hear(idle)
    assert scene.active is False
    idle.ended += 1
    scene.hear(idle)
    assert scene.active is True


async def test_loads_come_from_the_last_reports(scene, two):
    scene.listing.finds(*two)
    scene.hear(*two)
    assert scene.load == 1.2
    scene.after(10)
    scene.hear(two[0])
    assert scene.fleet.states() == {State.KNOWN: 1, State.KEPT: 1}
    assert scene.load == 1.2
    scene.after(25)
    scene.hear(two[0])
    assert scene.load == 1.0, "the mean of those that are known"


async def test_a_replica_that_is_listed_no_more_counts_no_more(scene, two):
    scene.listing.finds(*two)
    scene.hear(*two)
    scene.listing.finds(two[1])
    assert scene.load == 0.7


async def test_a_fleet_that_gets_out_of_sight_is_not_at_zero(scene, two):
    scene.listing.finds(*two)
    scene.hear(*two)
    scene.listing.finds()
    assert scene.active is True
    assert scene.load is None, "a value of 0 would have the HPA shrink it"
    scene.after(301)
    scene.listing.finds()
    assert scene.active is False
    assert scene.load == 0


async def test_replicas_that_all_fail_keep_the_size(scene, two):
    scene.listing.finds(*two)
    scene.hear(*two)
    for _ in range(40):
        scene.after(25)
        scene.listing.finds(*two)
        scene.fail()
        assert scene.active is True
    assert scene.load is None
    assert "timeout" in scene.fleet.value(LOAD, "").reason


async def test_a_replica_that_starts_after_a_wake_has_no_load_yet(scene):
    scene.listing.finds()
    scene.fleet.wake()
    scene.listing.finds(Endpoint("10.0.0.1:8001", ready=False, name="ranker-0"))
    scene.fail(PollResult.UNREACHABLE)
    assert scene.load == 0
    assert scene.active is True
    scene.after(200)
    assert scene.active is True, "the wake has ended, and it is not known how busy it is"


async def test_replicas_that_all_get_unready_are_not_idle(scene, two):
    scene.listing.finds(*two)
    scene.hear(*two)
    scene.after(60)
    scene.listing.finds(*(Endpoint(each.address, ready=False) for each in two))
    scene.fail(PollResult.UNREACHABLE)
    assert scene.active is True
    assert scene.load is None


@pytest.mark.parametrize("result", [PollResult.TIMEOUT, PollResult.FAILED])
async def test_replicas_that_hung_before_the_scaler_started_keep_the_size(scene, two, result):
    scene.listing.finds(*(Endpoint(each.address, ready=False) for each in two))
    scene.fail(result)
    assert scene.active is True
    assert scene.load is None, "a value of 0 would have the HPA shrink it"
    scene.fleet.wake()
    assert scene.load == 0, "after a wake they start"


async def test_replicas_that_start_with_the_scaler_have_no_load(scene, two):
    scene.listing.finds(*(Endpoint(each.address, ready=False) for each in two))
    scene.fail(PollResult.UNREACHABLE)
    assert scene.load == 0


async def test_a_list_that_fails_leaves_replicas_as_they_were(scene, two):
    scene.listing.finds(*two)
    scene.hear(*two)
    for _ in range(100):
        scene.after(10)
        scene.listing.fails()
        scene.hear(*two)
        assert scene.load == 1.2
    for each in two:
        each.ratio = 0.0
    for _ in range(100):
        scene.after(10)
        scene.listing.fails()
        scene.hear(*two)
    assert scene.active is True, "there may be others by now"


async def test_a_list_that_fails_starts_no_fleet_that_is_at_zero(scene):
    scene.listing.finds()
    scene.listing.fails()
    assert scene.active is None
    assert scene.load is None
    assert "SERVFAIL" in scene.fleet.activity().reason


async def test_a_list_of_which_nothing_is_heard_has_failed(scene):
    idle = FakeReplica("10.0.0.1:8001")
    scene.listing.finds(idle)
    scene.hear(idle)
    scene.after(STALE_NS / 1e9 + 300)
    scene.hear(idle)
    assert scene.active is True
    scene.listing.finds(idle)
    assert scene.active is False


async def test_one_replica_at_two_addresses_counts_once(scene):
    one = FakeReplica("10.0.0.1:8001", ratio=0.6)
    scene.listing.finds(one, Endpoint("[fd00::1]:8001"))
    for replica in scene.fleet.replicas:
        replica.answered(one.report().SerializeToString(), scene.now())
    assert scene.load == 0.6


async def test_a_replica_cannot_hide_another_by_its_start_id(scene, two):
    liar, honest = two
    liar.ratio, liar.start_id = 0.0, honest.start_id
    scene.listing.finds(*two)
    scene.hear(*two)
    assert scene.load == 0.7


async def test_a_discovery_that_raises_is_a_list_that_fails(now):
    scene = Scene(now)
    scene.listing.raised = RuntimeError("a defect")
    failed = asyncio.Event()
    scene.fleet.changed = failed.set
    task = asyncio.ensure_future(scene.fleet.run())
    await failed.wait()
    assert not scene.fleet.found.ok
    assert "a defect" in scene.fleet.found.error
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_a_listing_goes_on_whatever_fails_while_its_failure_is_noted(now, monkeypatch):
    monkeypatch.setattr("batcher.scaler.fleet._RETRY_S", 0.0)
    scene = Scene(now)
    scene.listing.raised = RuntimeError("a defect")
    times = []
    thrice = asyncio.Event()

    def changed():
        times.append(scene.fleet.found.ok)
        if len(times) == 3:
            thrice.set()
        raise ValueError("another one")

    scene.fleet.changed = changed
    task = asyncio.ensure_future(scene.fleet.run())
    await thrice.wait()
    assert not task.done()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert times == [False] * 3
    assert scene.fleet.counts.listings[False] == 3


def test_many_replicas_are_asked_less_often():
    (config,) = parse_scaler_config(CONFIG.replace("1h", "1s")).fleets
    spacing = PollSpacing()
    for replicas, interval_ns in ((0, SECOND), (200, SECOND), (5000, 5000 * POLL_SPACING_NS)):
        spacing.pollers = replicas
        assert spacing.interval_ns(config.poll) == interval_ns


async def test_replicas_that_are_gone_count_no_more_for_the_spacing(scene, two):
    scene.listing.finds(*two)
    assert scene.fleet._spacing.pollers == 2
    scene.listing.finds(two[0])
    await asyncio.gather(*scene.fleet._stopping)
    assert scene.fleet._spacing.pollers == 1


async def test_a_rollout_of_a_fleet_that_does_not_serve_does_not_let_it_grow(scene, two):
    def asked():
        scene.fleet.activity()
        return scene.fleet.value(LOAD, "").estimate.for_target(1.0, LOAD.how)

    scene.listing.finds(*two)
    scene.hear(*two)
    assert asked() == pytest.approx(1.2)
    for each in two:
        each.ready, each.ratio = False, 0.0
    scene.hear(*two)
    assert asked() == 2.0
    third = FakeReplica("10.0.0.3:8001", ratio=0.0)
    third.ready = False
    scene.listing.finds(*two, third)
    scene.hear(*two, third)
    assert asked() == 2.0
