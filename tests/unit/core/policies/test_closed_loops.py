"""Callers that send their next request when they have their answer; answers leave one by one."""

from __future__ import annotations

import numpy as np
import pytest

from batcher.clock import MILLISECOND
from batcher.core.settings import Adaptive, ModelSettings, QueueLimits
from batcher.simulation.engine.deployment import Deployment, SimulatedModel
from batcher.simulation.engine.service_time import linear
from batcher.simulation.engine.simulation import ClosedLoop, Conditions, simulate
from batcher.simulation.policies.named import parse_policy
from batcher.simulation.traffic.workload import Mix, Traffic, Workload

REQUESTS = 800
REPLY_NS = 90_000


def rate_and_p99(policy, callers, *, base=5.0, each=1.0, target=50, way=0.0):
    """Answers a millisecond and the 99th percentile in milliseconds, after a first quarter.

    A batch takes `base` and `each` a row; the next request comes `way` after an answer.
    """
    target_ns = target * MILLISECOND
    settings = ModelSettings(32, Adaptive(limit_ns=target_ns), QueueLimits(), target_ns)
    curve = linear(round(base * MILLISECOND), round(each * MILLISECOND), 32)
    model = SimulatedModel("m", settings, curve, warmup_sizes=(1, 2, 4, 8, 16, 32))
    work = Workload.of(
        np.zeros(REQUESTS, np.int64), Traffic(Mix.of(("m", 1.0))), np.random.default_rng(0)
    )
    loop = ClosedLoop(callers, work, think_ns=round(way * MILLISECOND))
    conditions = Conditions(reply_ns=REPLY_NS)
    run = simulate(Deployment((model,), {}), parse_policy(policy), loop, conditions)
    came, done = (
        times[REQUESTS // 4 :] / MILLISECOND for times in (run.workload.at_ns, run.settled_ns)
    )
    return len(came) / (done.max() - came.min()), float(np.percentile(done - came, 99))


def over_greedy(callers, **device):
    """Throughput and 99th percentile as ratios to those of greedy batches."""
    (rate, p99), (greedy_rate, greedy_p99) = (
        rate_and_p99(policy, callers, **device) for policy in ("adaptive", "greedy")
    )
    return rate / greedy_rate, p99 / greedy_p99


@pytest.mark.parametrize("callers", [2, 3, 5, 8, 12, 16])
def test_their_next_requests_share_one_batch(callers):
    rate, p99 = over_greedy(callers)
    assert rate > 1.1
    assert p99 < 0.9


@pytest.mark.parametrize("target", [50, 100])
def test_no_window_is_open_once_all_of_them_wait(target):
    _, p99 = rate_and_p99("adaptive", 12, target=target)
    alone = 5 + 12 + 12 * REPLY_NS / MILLISECOND
    assert p99 < alone + 12 * REPLY_NS / MILLISECOND + 0.5


@pytest.mark.parametrize(("callers", "target"), [(24, 50), (8, 25), (16, 25)])
def test_there_is_no_wait_for_requests_that_would_make_the_batch_late(callers, target):
    rate, p99 = over_greedy(callers, target=target)
    assert rate >= 0.97
    assert p99 <= 1.1


@pytest.mark.parametrize("way", [0.3, 1.0])
def test_a_delay_between_answer_and_request_makes_no_open_stream_of_them(way):
    rate, p99 = over_greedy(8, way=way)
    assert rate > 1.1
    assert p99 < 0.9


@pytest.mark.parametrize("callers", [1, 2, 4, 8, 16])
def test_batches_are_no_worse_where_rows_cost_little(callers):
    rate, p99 = over_greedy(callers, each=0.1)
    assert rate >= 0.99
    assert p99 <= 1.0


@pytest.mark.parametrize("callers", [2, 4, 6, 8])
def test_batches_are_better_on_a_fast_device(callers):
    rate, p99 = over_greedy(callers, base=1.0, each=0.1, target=20)
    assert rate > 1.05
    assert p99 < 0.97
