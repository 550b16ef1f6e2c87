"""A fleet whose replicas' last reports are averaged: what KEDA gets, and what does not follow from the mean."""

import pytest

from batcher.clock import SECOND
from batcher.config import format_duration
from batcher.scaler.aggregation import Member, estimate
from batcher.scaler.channels import Channels
from batcher.scaler.config import parse_scaler_config
from batcher.scaler.discovery import Endpoint, Found
from batcher.scaler.fleet import Fleet
from batcher.scaler.metrics import METRICS
from batcher.scaler.polling import PollSpacing
from batcher.scaler.replica import PollResult, State
from batcher.scaler.web import fleet_summary, replica_summary
from batcher.testing.replica import FakeReplica

LOAD = METRICS["desired_ratio"]
CONFIG = "fleets: [{{name: ranker, replicas: {{static: ['10.0.0.1:8001']}}, idle_after: 20s, average: {}}}]"


class Quiet:
    """A discovery that finds nothing by itself."""

    async def run(self, update):
        raise NotImplementedError


class Scene:
    """A fleet that is listed and heard when a test says so, and asks none."""

    def __init__(self, now, average_ns=15 * SECOND):
        (config,) = parse_scaler_config(CONFIG.format(format_duration(average_ns))).fleets
        self.now = now
        self.fleet = Fleet(config, Quiet(), Channels(config), PollSpacing(), now)
        self.speakers = []

    def lists(self, *speakers):
        self.speakers = speakers
        endpoints = tuple(Endpoint(each.address) for each in speakers)
        self.fleet._update(Found(endpoints, ok=True, at_ns=self.now()))

    def hears(self, seconds=1, *, silent=()):
        """Every replica, once each second."""
        for _ in range(seconds):
            self.now.s += 1
            for replica in self.fleet.replicas:
                (speaker,) = (x for x in self.speakers if x.address == replica.endpoint.address)
                if speaker in silent:
                    replica.failed(PollResult.TIMEOUT, "hung")
                else:
                    replica.answered(speaker.report().SerializeToString(), self.now())
        self.fleet._forget()

    @property
    def load(self):
        return self.fleet.value(LOAD, "").estimate.value


@pytest.fixture
async def scene(now):
    """A fleet of two replicas that have had a load of 0.4 each for long."""
    scene = Scene(now)
    scene.lists(*(FakeReplica(f"10.0.0.{host}:8001", ratio=0.4) for host in (1, 2)))
    scene.hears(20)
    yield scene
    scene.lists()


async def test_a_burst_between_two_looks_of_the_hpa_counts(scene):
    one, _ = scene.speakers
    one.ratio = 3.4
    scene.hears(5)
    one.ratio = 0.4
    scene.hears(5)
    assert scene.load == pytest.approx(0.8 + 3 * 5 / 15)
    assert scene.fleet.last_value(LOAD) == pytest.approx(0.8)
    scene.hears(11)
    assert scene.load == pytest.approx(0.8)


async def test_a_new_replica_takes_its_place_at_once(scene):
    """The others' readings from before it came still have what it takes over; its own have no zeros."""
    new = FakeReplica("10.0.0.3:8001", ratio=0.0)
    new.ready = False
    scene.lists(*scene.speakers, new)
    scene.hears(10)
    assert scene.load == pytest.approx(0.8)
    new.ready, new.ratio = True, 0.3
    scene.hears(1)
    assert scene.load == pytest.approx(0.8 + 0.3)


async def test_one_that_drains_counts_as_it_says_at_once(scene):
    one, _ = scene.speakers
    one.draining, one.ratio = True, 0.0
    scene.hears(1)
    assert scene.fleet.states() == {State.KNOWN: 1, State.NOT_READY: 1}
    assert scene.load == pytest.approx(0.4)


async def test_one_that_is_gone_from_the_list_is_gone(scene):
    scene.lists(scene.speakers[0])
    assert scene.load == pytest.approx(0.4)


async def test_one_that_is_kept_goes_on_as_it_was_last_and_then_as_the_others(scene):
    one, other = scene.speakers
    one.ratio = 1.9
    scene.hears(1)
    assert scene.load == pytest.approx(0.8 + 0.5 * 1.5 / 15)
    scene.hears(15, silent=[one])
    assert scene.fleet.states() == {State.KNOWN: 1, State.KEPT: 1}
    assert scene.load == pytest.approx(0.4 + 1.9)
    assert scene.fleet.report_age_ns(scene.now()) == 15 * SECOND
    scene.hears(20, silent=[one])
    assert scene.fleet.states() == {State.KNOWN: 1, State.UNKNOWN: 1}
    assert scene.load == pytest.approx(0.4 + 0.4)
    other.ratio = 0.5
    scene.hears(16)
    assert scene.load == pytest.approx(1.9 + 0.5), "nothing is averaged over what was not known"


async def test_idleness_follows_from_the_last_reports(scene):
    for speaker in scene.speakers:
        speaker.ratio = 0.0
    scene.hears(1)
    assert scene.load > 0.7, "of the last 15 s"
    scene.hears(18)
    assert scene.fleet.activity().active is True, "19 s ago something was asked"
    scene.hears(2)
    scene.lists(*scene.speakers)
    assert (scene.load, scene.fleet.activity().active) == (0, False)


async def test_a_minority_that_is_known_still_cannot_shrink_the_fleet(scene):
    one, other = scene.speakers
    third = FakeReplica("10.0.0.3:8001", ratio=0.4)
    scene.lists(one, other, third)
    one.ratio = 0.1
    scene.hears(40, silent=[other, third])
    found = scene.fleet.value(LOAD, "").estimate
    assert (found.known, found.guessed, found.stays) == (1, 2, True)
    assert found.for_target(0.8, LOAD.how) == pytest.approx(2.4)


async def test_the_pages_say_the_mean_and_the_last(scene):
    one, _ = scene.speakers
    one.ratio = 1.9
    scene.hears(2)
    page = fleet_summary(scene.fleet, scene.now())
    value, last = page["metrics"]["desired_ratio"].values()
    assert (value, last) == (pytest.approx(0.95), pytest.approx(2.3))
    assert page["metrics"]["gpu_utilization_ratio"]["last"] is None
    assert page["oldest_report_seconds"] == 0
    first, _ = (replica_summary(each, scene.now()) for each in scene.fleet.replicas)
    assert (first["desired_ratio"], first["desired_ratio_mean"]) == (1.9, pytest.approx(0.55))


async def test_a_member_alone_is_its_report(scene):
    members = scene.fleet._look().members
    alone = [Member(each.state, each.report) for each in members]
    assert alone == members
    assert estimate(alone, LOAD) is not None


async def test_without_an_average_the_last_report_counts(now):
    scene = Scene(now, 0)
    speaker = FakeReplica("10.0.0.1:8001", ratio=0.4)
    scene.lists(speaker)
    scene.hears(20)
    speaker.ratio = 1.9
    scene.hears(1)
    assert scene.load == scene.fleet.last_value(LOAD) == 1.9
    scene.lists()
