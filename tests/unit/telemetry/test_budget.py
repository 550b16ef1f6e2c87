"""Which hop a late answer is blamed on, one by one and in bulk."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.clock import MILLISECOND
from batcher.core.commands import Outcome, Reason
from batcher.telemetry.budget import HOPS, Budget, BudgetCounts, Hop, hops_of

TIMES = st.integers(0, 1_000)
SHARES = st.dictionaries(st.sampled_from(HOPS), st.integers(0, 100))


@pytest.mark.parametrize(
    ("shares", "spent", "hop"),
    [
        ({}, (0, 10, 40, 30, 20), None),  # exactly the target is in time
        ({}, (0, 10, 40, 50, 20), Hop.EXECUTE),
        ({}, (900, 10, 40, 30, 20), None),  # a claim counts where it was asked for
        ({Hop.UPSTREAM: 10}, (900, 10, 40, 30, 20), Hop.UPSTREAM),
        ({Hop.QUEUE: 5}, (0, 10, 40, 50, 20), Hop.QUEUE),
        ({Hop.EXECUTE: 90}, (0, 11, 4, 95, 2), Hop.ADMISSION),  # 3 are left for each other hop
    ],
)
def test_the_hop_furthest_over_its_share_is_to_blame(shares, spent, hop):
    assert Budget(100, shares).late_hop(spent) == hop


@given(SHARES, st.lists(st.tuples(TIMES, *[TIMES] * 6), max_size=20), st.integers(500, 2_000))
def test_what_is_counted_in_bulk_is_the_same(shares, answers, target_ns):
    counts = BudgetCounts()
    counts.split(shares)
    claims = np.array([claim for claim, *_ in answers], np.int64)
    stages = np.array([spent for _, *spent in answers], np.int64).reshape(-1, 6)
    counts.count(stages, claims, np.full(len(answers), target_ns, np.int64))
    hops = [hops_of(spent, claim) for claim, *spent in answers]
    late = [Budget(target_ns, shares).late_hop(each) for each in hops]
    assert counts.late == {hop: late.count(hop) for hop in Hop}
    assert counts.exceeded == {
        hop: sum(each[HOPS.index(hop)] > share for each in hops) for hop, share in shares.items()
    }


@given(SHARES, st.tuples(TIMES, *[TIMES] * 4), st.integers(500, 2_000))
def test_every_late_answer_has_a_hop(shares, spent, target_ns):
    own = spent[1:] if Hop.UPSTREAM not in shares else spent
    assert (Budget(target_ns, shares).late_hop(spent) is not None) == (sum(own) > target_ns)


def test_answers_count_by_hop_in_the_metrics(model, stamps, value):
    model.splits_target({Hop.QUEUE: 2 * MILLISECOND, Hop.EXECUTE: 5 * MILLISECOND})
    for due in (30, 31, None):
        due_ns = None if due is None else due * MILLISECOND
        model.request_ended(Outcome.OK, Reason.NONE, 1, stamps(10, 11, 13, 16, 20, 25, 31), due_ns)
    late = {hop: value("batcher_late_answers_total", hop=hop) for hop in Hop}
    assert late == {**dict.fromkeys(Hop, 0), Hop.REPLY: 1}
    assert value("batcher_latency_target_missed_total") == 1
    assert value("batcher_budget_exceeded_total", hop="queue") == 3
    assert value("batcher_budget_exceeded_total", hop="execute") == 0
    assert value("batcher_budget_exceeded_total", hop="reply") is None
