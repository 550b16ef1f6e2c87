import random
from dataclasses import replace

import numpy as np
import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.settings import Adaptive
from batcher.simulation.fleet import (
    FleetSettings,
    Processor,
    Readiness,
    Scrape,
    Scripted,
    Signal,
    Span,
    StartUp,
    requests_at,
    simulate_fleet,
)
from batcher.simulation.fleet.devices import BusyTimes
from batcher.telemetry.busy import BusyClock


@pytest.mark.slow
def test_busy_times_are_those_of_the_servers_own_clock():
    draw = random.Random(1)
    for _ in range(200):
        begins = sorted(draw.randrange(1000) for _ in range(20))
        batches = [(begin, begin + draw.randrange(1, 90)) for begin in begins]
        moments = sorted(draw.randrange(1200) for _ in range(8))
        clock, times, noted = BusyClock(), BusyTimes(), 0
        changes = sorted([(b, 1) for b, _ in batches] + [(e, -1) for _, e in batches])
        for now in moments:
            while noted < len(batches) and batches[noted][0] < now:
                times.noted.append(batches[noted])
                noted += 1
            while changes and changes[0][0] < now:
                at, change = changes.pop(0)
                (clock.started if change > 0 else clock.ended)(at)
            assert times.read(now, 50) == clock.read(now)
            ran = sum(any(b <= t < e for b, e in batches) for t in range(now - 50, now))
            assert times.part(now - 50, now) == pytest.approx(ran / 50)


def values(run, signal):
    return [step.values.get(signal) for step in run.steps]


def test_rates_and_utilization_follow_from_batches(deployment):
    settings = FleetSettings(
        deployment,
        "greedy",
        scrape=Scrape(20 * MILLISECOND, 0, 40 * MILLISECOND, 10 * MILLISECOND),
        processor=Processor(MILLISECOND // 5, MILLISECOND // 10, 0.5, 0.01, requested=2.0),
    )
    signals = (Signal.CPU, Signal.DUTY_CYCLE, Signal.NVML_UTILIZATION)
    load = requests_at([10 * MILLISECOND, 30 * MILLISECOND], "m")
    script = Scripted((), 20 * MILLISECOND, signals)
    run = simulate_fleet(settings, load, script, until_ns=80 * MILLISECOND)
    # Busy from 10 to 16 ms and from 30 to 36 ms.
    assert values(run, Signal.DUTY_CYCLE) == pytest.approx([0.3, 0.3, 0.15, 0])
    assert values(run, Signal.NVML_UTILIZATION) == pytest.approx([0.6, 0.6, 0, 0])
    each_ms = 0.2 + 0.1 + 0.5 * 6
    assert values(run, Signal.CPU) == pytest.approx(
        [(0.01 + each_ms * n / ms) / 2 for n, ms in ((1, 20), (2, 40), (1, 40), (0, 40))]
    )


def test_a_new_replica_has_no_rate_before_its_second_reading_and_no_load_in_its_first_second(
    deployment,
):
    policy = Adaptive(limit_ns=SECOND)
    model = deployment.models[0]
    model = replace(
        model, settings=replace(model.settings, policy=policy), warmup_sizes=(1, 2, 4, 8)
    )
    settings = FleetSettings(
        replace(deployment, models=(model,)),
        replicas=0,
        start_up=StartUp(Span(SECOND // 10)),
        readiness=Readiness(added_ns=0),
        scrape=Scrape(SECOND // 2, 0, SECOND),
    )
    load = requests_at(np.arange(2 * SECOND, 4 * SECOND, SECOND // 100).tolist(), "m")
    script = Scripted(((2 * SECOND, 1),), SECOND // 2, (Signal.DUTY_CYCLE, Signal.DESIRED_RATIO))
    run = simulate_fleet(settings, load, script, until_ns=4 * SECOND)
    # It is started at 2 s, ready at 2.1 s, and read at 2.5, 3, 3.5 and 4 s.
    assert [value is not None for value in values(run, Signal.DUTY_CYCLE)] == [False] * 5 + [
        True
    ] * 3
    assert [v is not None for v in values(run, Signal.DESIRED_RATIO)] == [False] * 6 + [True] * 2
