"""Callers that wait for their answers are told from those that do not know of them."""

from dataclasses import replace

import numpy as np
import pytest

from batcher.clock import MILLISECOND
from batcher.simulation.compare.experiment import cells
from batcher.simulation.engine.deployment import Deployment
from batcher.simulation.engine.service_time import Noise
from batcher.simulation.logs.closed import is_closed_loop
from batcher.simulation.traffic.arrivals import Recorded, parse_process


@pytest.fixture
def played(experiment, model):
    """`played(arrivals, policy)`: a run on a device that takes 5 ms and 1 ms a row, give or take 5 %."""
    device = Deployment((model(noise=Noise("uniform", 0.05)),), {})

    def call(arrivals, policy="greedy", count=1500):
        process = parse_process(arrivals) if isinstance(arrivals, str) else arrivals
        asked = experiment(policy, deployment=device, arrivals=process, requests=count)
        (cell,) = cells(asked, lambda _what, _steps: None, optimum=False)
        return cell.runs[0]

    return call


@pytest.mark.parametrize("policy", ["configured", "adaptive", "greedy", "none"])
@pytest.mark.parametrize(
    "arrivals",
    ["poisson:20", "poisson:150", "poisson:400", "poisson:900", "gamma:200:3", "mmpp:300"],
)
def test_open_streams_are_open(played, arrivals, policy):
    assert not is_closed_loop(played(arrivals, policy))


@pytest.mark.parametrize("gap_ms", [5, 7, 8, 20])
def test_a_clock_is_open_even_where_it_ticks_just_after_each_answer(played, gap_ms):
    ticks = np.arange(1500) * gap_ms / 1000
    assert not is_closed_loop(played(Recorded.of(ticks)))


@pytest.mark.parametrize("policy", ["configured", "adaptive", "greedy"])
@pytest.mark.parametrize(
    "arrivals", ["closed:1:0ms", "closed:1:1ms", "closed:8:1ms", "closed:50:2ms"]
)
def test_callers_that_ask_again_are_closed(played, arrivals, policy):
    assert is_closed_loop(played(arrivals, policy))


def test_few_requests_say_nothing(played):
    assert not is_closed_loop(played("closed:4:0ms", count=50))


def test_the_order_in_which_requests_are_listed_does_not_matter(played):
    run = played("closed:8:1ms")
    backwards = replace(
        run,
        workload=replace(run.workload, at_ns=run.workload.at_ns[::-1] + MILLISECOND // 10),
        settled_ns=run.settled_ns[::-1],
        outcome=run.outcome[::-1],
    )
    assert is_closed_loop(backwards)
