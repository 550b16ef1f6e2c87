"""Logs of made-up traffic, and what-if runs of them."""

import numpy as np
import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.events import DeviceConfigured, InstanceUp, ModelConfigured, RequestArrived
from batcher.core.settings import Adaptive, ModelSettings
from batcher.core.times import NEVER_NS
from batcher.journal import read_log
from batcher.simulation import Driver
from batcher.simulation.compare.experiment import Cell
from batcher.simulation.compare.report import summarize
from batcher.simulation.logs.replay import replay
from batcher.simulation.logs.stretch import Samples, stretches
from batcher.simulation.logs.variants import variants
from batcher.simulation.logs.whatif import REPLAYED, Variant, WhatIf
from batcher.simulation.policies.named import parse_policy
from batcher.testing.recording import RecordedScheduler

ADAPTIVE = ModelSettings(32, Adaptive(), target_ns=50 * MILLISECOND)
SECTIONS = {"m/1": {"batching": {"target_p99": "50ms"}, "queue": {}}}


def _cost(rows):
    return 5 * MILLISECOND + rows * MILLISECOND // 2


def _device(noise=0.0, seed=0):
    draw = np.random.default_rng(seed)

    def took(dispatch):
        rows = sum(part.stop - part.start for part in dispatch.parts)
        return round(_cost(rows) * max(0.5, draw.normal(1.0, noise)))

    return took


def _arrivals(rate, seconds, settings=ADAPTIVE, seed=0, prefetches=False, **fields):
    draw = np.random.default_rng(seed)
    at = np.cumsum(draw.exponential(SECOND / rate, int(rate * seconds))).astype(int).tolist()
    yield 0, DeviceConfigured("d", 1)
    yield 0, ModelConfigured("m/1", settings)
    profile = tuple((rows, _cost(rows)) for rows in (1, 8, 32))
    yield 0, InstanceUp("m/1#0", 1, "m/1", "d", 1, profile, prefetches=prefetches)
    for number, at_ns in enumerate(at, 1):
        yield at_ns, RequestArrived(number, "m/1", 1, 16, (), "", at_ns, **fields)


def _what_ifs(log, models=None, until_ns=NEVER_NS):
    samples = Samples(64)
    found = list(stretches(log.segments, until_ns, samples))
    learned = samples.learned(replay(log.segments, until_ns=until_ns).late_ns)
    return [WhatIf(stretch, learned, models) for stretch in found]


def _summary(what_if, run):
    return summarize(Cell(None, (run,)), what_if.capacity())


@pytest.fixture
def sections():
    """How the model of the logs was configured."""
    return SECTIONS


@pytest.fixture
def cost():
    """`cost(rows)`: nanoseconds that a batch takes, 5 ms and half a millisecond a row."""
    return _cost


@pytest.fixture
def device():
    """`device(noise=0.0, seed=0)`: a service time: the cost, times a random factor."""
    return _device


@pytest.fixture
def arrivals():
    """`arrivals(rate, seconds, ...)`: Poisson arrivals at model `m/1`, which has one instance."""
    return _arrivals


@pytest.fixture
def record(tmp_path):
    """`record(events, ...)`: plays the events and returns the log."""
    made = iter(range(100))

    def call(events, took=None, driver=None):
        path = tmp_path / f"log{next(made)}"
        path.mkdir()
        with RecordedScheduler(path, segment_ns=SECOND, models=SECTIONS) as scheduler:
            if driver is None:
                played = Driver(scheduler, took or _device(), observe=lambda now, commands: None)
            else:
                played = driver(scheduler)
            played.run(events)
        return read_log(path)

    return call


@pytest.fixture
def what_ifs():
    """`what_ifs(log, ...)`: one for each stretch of the log without a gap."""
    return _what_ifs


@pytest.fixture
def summary():
    """`summary(what_if, run)`: the run in numbers."""
    return _summary


@pytest.fixture
def summaries():
    """`summaries(log, *policies, ...)`: as recorded, replayed, and under each policy."""

    def call(log, *policies, assignments=(), seed=0):
        (what_if,) = _what_ifs(log)
        asked = variants(SECTIONS, SECTIONS, assignments, [parse_policy(p) for p in policies])
        runs = [what_if.recorded()]
        runs += [what_if.play(variant, seed) for variant in (Variant(REPLAYED), *asked)]
        return [_summary(what_if, run) for run in runs]

    return call
