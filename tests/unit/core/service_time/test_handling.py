"""What lies around a batch's own time, and a quantile of recent samples."""

from __future__ import annotations

import random

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.service_time.handling import Handling
from batcher.core.service_time.recent import FORGET_NS, SAMPLES, Recent

GAP_NS = MILLISECOND // 2


def test_the_gap_is_what_is_usual():
    handling = Handling()
    for batch in range(100):
        beyond_ns = 200 * MILLISECOND if batch % 3 == 2 else GAP_NS
        handling.observe(beyond_ns, batch * SECOND // 10, prefetched=False)
        assert handling.gap_ns <= GAP_NS
    assert handling.gap_ns == GAP_NS
    assert handling.saved_ns == 0.0


def test_one_stall_alone_says_nothing():
    handling = Handling()
    handling.observe(200 * MILLISECOND, 0, prefetched=False)
    handling.observe_replies(1, 200 * MILLISECOND, 0)
    assert handling.gap_ns == handling.reply_ns == 0.0


def test_a_prefetched_batch_saves_the_gap():
    handling = Handling()
    for batch in range(10):
        assert handling.observe(GAP_NS, batch, prefetched=False) == GAP_NS
        handling.observe(-MILLISECOND, batch, prefetched=True)
    assert handling.gap_ns == handling.saved_ns == GAP_NS
    assert handling.observe(0.0, 11, prefetched=True) == GAP_NS


def test_a_longer_gap_shows_where_all_batches_are_prefetched():
    handling = Handling()
    for batch in range(2):
        handling.observe(GAP_NS, batch, prefetched=False)
    for batch in range(10):
        handling.observe(3 * GAP_NS, batch, prefetched=True)
    assert handling.gap_ns == 3 * GAP_NS
    assert handling.saved_ns == 0.0


def test_the_round_trip_is_what_batches_in_their_turn_take_more():
    handling = Handling()
    for batch in range(10):
        # However far off the curve is.
        handling.observe_sending(2 * MILLISECOND, batch, early=False)
        assert handling.round_trip_ns == 0.0 or batch > 1
        handling.observe_sending(-MILLISECOND, batch, early=True)
    assert handling.round_trip_ns == 3 * MILLISECOND
    assert handling.early_saves_ns == handling.saved_ns == MILLISECOND


def test_batches_of_one_kind_alone_tell_no_round_trip():
    for early in (False, True):
        handling = Handling()
        for batch in range(10):
            handling.observe_sending(-MILLISECOND, batch, early=early)
        assert handling.round_trip_ns == handling.early_saves_ns == 0.0


def test_the_round_trip_is_forgotten_with_the_last_batches_in_their_turn():
    handling = Handling()
    for batch in range(10):
        handling.observe_sending(MILLISECOND, batch, early=False)
    for second in range(20):
        handling.observe_sending(-MILLISECOND, second * SECOND, early=True)
        handling.forget(second * SECOND)
        assert (handling.round_trip_ns > 0) == (0 < second <= FORGET_NS // SECOND)
    assert handling.saved_ns == 0.0


def test_the_reply_time_is_that_of_a_row_and_no_stall_changes_it():
    handling = Handling()
    for batch in range(400):
        stalls = batch % 3 == 0
        handling.observe_replies(20, (150 if stalls else 1) * MILLISECOND, batch * SECOND // 50)
        assert handling.reply_ns <= MILLISECOND / 20
    # A lasting change does.
    for batch in range(400, 400 + SAMPLES // 2 + 10):
        handling.observe_replies(20, 3 * MILLISECOND, batch * SECOND // 50)
    assert handling.reply_ns == 3 * MILLISECOND / 20


def test_all_of_it_is_forgotten_when_it_is_old():
    handling = Handling()
    for batch in range(3):
        handling.observe(GAP_NS, batch, prefetched=False)
        handling.observe(GAP_NS, batch, prefetched=True)
        handling.observe_replies(1, GAP_NS, batch)
    twin = Handling()
    twin.restore(handling.capture())
    assert (twin.gap_ns, twin.saved_ns, twin.reply_ns) == (GAP_NS, 0.0, GAP_NS)
    handling.forget(FORGET_NS)
    assert handling.gap_ns == GAP_NS
    handling.forget(FORGET_NS + 3)
    assert (handling.gap_ns, handling.saved_ns, handling.reply_ns) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("quantile", [0.5, 0.95])
def test_a_quantile_of_recent_samples(quantile):
    draw, recent, kept = random.Random(1), Recent(quantile, 1.0), []
    assert recent.value == 1.0
    for moment in range(300):
        sample = draw.choice([draw.random(), 0.5])
        recent.add(sample, moment * SECOND // 10)
        kept = [*kept, sample][-SAMPLES:]
        if moment % 37 == 0:
            recent.forget(moment * SECOND // 10)
        twin = Recent(quantile, 1.0)
        twin.restore(recent.capture())
        place = int(quantile * len(kept))
        assert recent.value == twin.value == (sorted(kept)[place - 1] if place else 1.0)
    recent.clear()
    assert recent.value == 1.0
    assert not recent
