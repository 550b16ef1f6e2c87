"""Lanes and models that compete for one device: nobody is starved by whoever asks for more."""

import random

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.commands import Outcome, Settle
from batcher.core.events import DeviceConfigured, InstanceUp, ModelConfigured, RequestArrived
from batcher.core.scheduler import Scheduler
from batcher.core.settings import Adaptive, ModelSettings
from batcher.simulation import Driver

TARGET_NS = 50 * MILLISECOND


def took_ns(rows):
    return (5 + rows) * MILLISECOND


def arrivals(rate, seconds, draw, **what):
    """Moments of a Poisson stream, each with what is asked there."""
    at_ns, found = 0, []
    while (at_ns := at_ns + int(draw.expovariate(rate) * SECOND)) < seconds * SECOND:
        found.append((at_ns, what))
    return found


@pytest.fixture
def in_time():
    """Plays streams on one device; returns the part of each that was answered in time."""

    def play(targets, *streams):
        scheduler = Scheduler()
        begin = [DeviceConfigured("d", 1)]
        for model, target_ns in targets.items():
            begin.append(ModelConfigured(model, ModelSettings(32, Adaptive(), target_ns=target_ns)))
            profile = tuple((rows, took_ns(rows)) for rows in (1, 8, 32))
            begin.append(InstanceUp(f"{model}#0", 1, model, "d", 1, profile))
        done_ns = {}

        def observe(now_ns, commands):
            for command in commands:
                if isinstance(command, Settle) and command.outcome is Outcome.OK:
                    done_ns.update(dict.fromkeys(command.ids, now_ns))

        def service_ns(dispatch):
            return took_ns(sum(part.stop - part.start for part in dispatch.parts))

        driver = Driver(scheduler, service_ns, observe=observe)
        driver.step(begin, 0)
        order = sorted(
            (at_ns, place, number)
            for place, stream in enumerate(streams)
            for number, (at_ns, _) in enumerate(stream)
        )
        events = []
        for request_id, (at_ns, place, number) in enumerate(order):
            what = {"model": "m", "rows": 1, "batch_key": "", "priority": 0}
            what |= streams[place][number][1]
            events.append(
                (at_ns, RequestArrived(request_id, nbytes=0, shapes=(), arrival_ns=at_ns, **what))
            )
        driver.run(events)
        scheduler.validate()
        parts = []
        for wanted in range(len(streams)):
            ids = [i for i, (_, place, _) in enumerate(order) if place == wanted]
            latest = [events[i][0] + targets[events[i][1].model] + 1000 for i in ids]
            good = [done_ns.get(i, 1 << 62) <= last for i, last in zip(ids, latest, strict=True)]
            parts.append(sum(good) / len(good))
        return parts

    return play


def test_a_small_lane_lives_beside_one_that_is_overloaded(in_time):
    draw = random.Random(1)
    small, _ = in_time(
        {"m": TARGET_NS},
        arrivals(80, 4, draw, batch_key="small"),
        arrivals(1200, 4, draw, batch_key="large"),
    )
    assert small >= 0.85


def test_a_better_level_comes_first_in_another_lane_too(in_time):
    draw = random.Random(2)
    urgent, _ = in_time(
        {"m": TARGET_NS},
        arrivals(250, 4, draw, batch_key="a", priority=1),
        arrivals(1200, 4, draw, batch_key="b", priority=3),
    )
    assert urgent >= 0.85


def test_a_request_of_many_rows_is_served_beside_a_neighbour_in_a_hurry(in_time):
    draw = random.Random(3)
    targets = {"m": 200 * MILLISECOND, "hurry": 20 * MILLISECOND}
    large, _ = in_time(
        targets,
        arrivals(5, 4, draw, rows=24),
        arrivals(50, 4, draw, model="hurry"),
    )
    assert large >= 0.9


def test_a_neighbour_that_fell_silent_is_not_waited_for(in_time):
    draw = random.Random(4)
    targets = {"m": TARGET_NS, "hurry": 20 * MILLISECOND}
    later = [(at_ns + 3 * SECOND, what) for at_ns, what in arrivals(600, 3, draw)]
    many, _ = in_time(targets, later, arrivals(100, 1, draw, model="hurry"))
    assert many >= 0.99
