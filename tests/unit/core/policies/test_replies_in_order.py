"""Plans that know in which order the requests of a batch are answered."""

from __future__ import annotations

import numpy as np
import pytest

from batcher.clock import MICROSECOND, MILLISECOND
from batcher.core.commands import Outcome
from batcher.core.settings import Adaptive, ModelSettings, QueueLimits
from batcher.simulation.engine.deployment import Deployment, SimulatedModel
from batcher.simulation.engine.service_time import linear
from batcher.simulation.engine.simulation import OUTCOMES, Conditions, simulate
from batcher.simulation.policies.named import parse_policy
from batcher.simulation.traffic.workload import Mix, Traffic, Workload

TARGET_NS = 50 * MILLISECOND


@pytest.fixture
def overloaded(monkeypatch):
    """How many are answered, and how late the latest of them, if the first waits for so many replies."""

    def play(group, levels=(0,)):
        monkeypatch.setattr("batcher.core.service_time.estimator.REPLY_GROUP", group)
        limits = QueueLimits(priority_levels=3)
        settings = ModelSettings(32, Adaptive(limit_ns=TARGET_NS), limits, TARGET_NS)
        curve = linear(5 * MILLISECOND, MILLISECOND // 2, 32)
        model = SimulatedModel("m", settings, curve, warmup_sizes=(1, 2, 4, 8, 16, 32))
        draw = np.random.default_rng(0)
        at_ns = np.cumsum(draw.exponential(1e9 / 1800, 8000)).astype(np.int64)
        shares = tuple(1 / len(levels) for _ in levels)
        traffic = Traffic(Mix.of(("m", 1.0)), priorities=Mix(levels, shares))
        work = Workload.of(at_ns, traffic, draw)
        conditions = Conditions(reply_ns=60 * MICROSECOND)
        run = simulate(Deployment((model,), {}), parse_policy("adaptive"), work, conditions)
        answered = run.outcome == OUTCOMES.index(Outcome.OK)
        late_ns = (run.settled_ns - at_ns)[answered] - TARGET_NS
        return np.count_nonzero(answered), int(late_ns.max())

    return play


def test_more_are_in_time_where_the_first_is_answered_first(overloaded):
    together, _ = overloaded(32)
    served, late_ns = overloaded(1)
    assert served > 1.005 * together
    # The last few of some batches: a plan knows only to 1 us when a batch ends.
    assert late_ns <= 2 * MICROSECOND


def test_a_better_class_that_is_due_later_does_not_make_others_late(overloaded):
    served, late_ns = overloaded(1, levels=(1, 3))
    assert served
    assert late_ns <= 2 * MICROSECOND
