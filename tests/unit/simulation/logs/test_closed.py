"""Callers that wait for their answers are told from those that do not know of them."""

from dataclasses import replace

import numpy as np
import pytest

from batcher.simulation.compare.experiment import cells
from batcher.simulation.logs.closed import is_closed_loop, place_between_answers
from batcher.simulation.traffic.arrivals import parse_process


def played(experiment, arrivals, policy):
    requested = experiment(policy, arrivals=parse_process(arrivals), requests=1500)
    (cell,) = cells(requested, lambda _what, _steps: None, optimum=False)
    return cell.runs[0]


@pytest.mark.parametrize("policy", ["configured", "adaptive", "greedy", "none"])
@pytest.mark.parametrize(
    "arrivals",
    ["poisson:20", "poisson:150", "poisson:400", "poisson:900", "gamma:200:3", "mmpp:300"],
)
def test_open_streams_are_open(experiment, arrivals, policy):
    assert not is_closed_loop(played(experiment, arrivals, policy))


@pytest.mark.parametrize("policy", ["configured", "adaptive", "greedy"])
@pytest.mark.parametrize(
    "arrivals", ["closed:1:0ms", "closed:1:1ms", "closed:8:1ms", "closed:50:2ms"]
)
def test_callers_that_ask_again_are_closed(experiment, arrivals, policy):
    assert is_closed_loop(played(experiment, arrivals, policy))


def test_few_requests_say_nothing(experiment):
    run = played(experiment, "closed:4:0ms", "greedy")
    workload = run.workload
    few = replace(
        run,
        workload=replace(
            workload, at_ns=workload.at_ns[:50], rows=workload.rows[:50], kind=workload.kind[:50]
        ),
        settled_ns=run.settled_ns[:50],
        outcome=run.outcome[:50],
    )
    assert place_between_answers(few) is None
    assert not is_closed_loop(few)


def test_the_place_is_that_between_two_answers(experiment):
    run = played(experiment, "poisson:100", "greedy")
    count = len(run.workload)
    at_ns = np.arange(count) * 1000
    shifted = replace(
        run,
        workload=replace(run.workload, at_ns=at_ns),
        settled_ns=at_ns - 250,
        outcome=np.zeros_like(run.outcome),
    )
    assert place_between_answers(shifted) == pytest.approx(0.25)
