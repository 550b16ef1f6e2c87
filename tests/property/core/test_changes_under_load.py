"""A hundred changes of settings at 80 % load, in virtual time, beside the same arrivals without."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.commands import Outcome, Settle
from batcher.core.events import InstanceUp, ModelConfigured, RequestArrived
from batcher.core.scheduler import Scheduler
from batcher.core.settings import Adaptive, FixedWindow, ModelSettings, QueueLimits
from batcher.simulation import Driver

ROWS = 32
SECONDS = 20
CHANGES = 100
TARGET_NS = 50 * MILLISECOND
FIRST = ModelSettings(ROWS, Adaptive(), QueueLimits(), TARGET_NS)


def took_ns(rows):
    """The emulated device: 5 ms and half a millisecond a row."""
    return 5 * MILLISECOND + rows * MILLISECOND // 2


RATE = 0.8 * ROWS / took_ns(ROWS)


def some_settings(draw):
    """Settings under which the device still serves 80 % of what it can, in time."""
    target_ns = draw.choice([46, 48, 50]) * MILLISECOND
    policy = draw.choice(
        [
            Adaptive(limit_ns=target_ns),
            Adaptive(draw.choice([0.7, 0.8, 0.9]), draw.choice([target_ns, SECOND, None])),
            FixedWindow(draw.choice([0, 2]) * MILLISECOND),
        ]
    )
    limits = QueueLimits(
        max_requests=draw.choice([256, 1024]),
        max_rows=draw.choice([None, 512]),
        timeout_ns=draw.choice([None, SECOND]),
        priority_levels=draw.choice([1, 3, 5]),
        default_priority=1,
        promote_after_ns=draw.choice([100, 1000]) * MILLISECOND,
        tenants=draw.choice([(), (("gold", 4.0), ("default", 1.0))]),
    )
    return ModelSettings(draw.choice([28, 32]), policy, limits, target_ns)


def served(seed, change):
    """Latencies in order, and how many were not answered; `change` makes the settings of a turn."""
    draw = random.Random(seed)
    arrivals = {}
    now_ns = 0
    while now_ns < SECONDS * SECOND:
        now_ns += int(draw.expovariate(RATE)) + 1
        arrivals[len(arrivals)] = now_ns
    story = [(at_ns, RequestArrived(i, "m", 1, 4, (), "", at_ns)) for i, at_ns in arrivals.items()]
    for turn in range(CHANGES):
        at_ns = (2 * turn + 1) * SECONDS * SECOND // (2 * CHANGES)
        settings = change(turn)
        if settings is not None:
            story.append((at_ns, ModelConfigured("m", settings)))
    story.sort(key=lambda told: told[0])
    ended = {}

    def observe(now_ns, commands):
        for command in commands:
            if isinstance(command, Settle):
                for request_id in command.ids:
                    assert request_id not in ended
                    ended[request_id] = command.outcome, now_ns

    scheduler = Scheduler()
    driver = Driver(scheduler, lambda d: took_ns(len(d.parts)), observe=observe)
    profile = tuple((rows, took_ns(rows)) for rows in (1, 2, 4, 8, 16, 32))
    driver.step([ModelConfigured("m", FIRST), InstanceUp("i", 1, "m", "d", 1, profile)], 0)
    driver.run(story)
    assert ended.keys() == arrivals.keys()
    lost = sum(outcome is not Outcome.OK for outcome, _ in ended.values())
    return sorted(at_ns - arrivals[i] for i, (_, at_ns) in ended.items()), lost


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_same_settings_again_cost_nothing(seed):
    constant = served(seed, lambda _: None)
    assert served(seed, lambda _: replace(FIRST)) == constant
    assert constant[1] == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_other_settings_lose_refuse_and_delay_no_request(seed):
    draw = random.Random(seed)
    latencies, refused = served(seed, lambda _: some_settings(draw))
    assert refused == 0
    assert latencies[-1] <= TARGET_NS


@pytest.mark.slow
def test_a_target_that_comes_and_goes_refuses_and_delays_no_request():
    latencies, refused = served(
        0, lambda turn: FIRST if turn % 2 else replace(FIRST, target_ns=None)
    )
    assert refused == 0
    assert latencies[-1] <= TARGET_NS
