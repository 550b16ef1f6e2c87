from dataclasses import replace

import pytest

from batcher.clock import SECOND
from batcher.scaler.activity import Facts, activity

IDLE_NS = 300 * SECOND
NOW_NS = 10_000 * SECOND
IDLE = Facts(
    listed=True,
    listing_error="",
    replicas=2,
    unsure="",
    asked_ns=NOW_NS - IDLE_NS,
    woken_until_ns=0,
)


def is_active(**changes):
    return activity(replace(IDLE, **changes), IDLE_NS, NOW_NS).active


def test_a_fleet_of_which_everything_is_known_is_idle():
    assert is_active() is False


def test_an_empty_fleet_of_which_nothing_was_asked_is_idle():
    assert is_active(replicas=0, asked_ns=None) is False


@pytest.mark.parametrize(
    "change",
    [
        {"asked_ns": NOW_NS - IDLE_NS + 1},
        {"unsure": "10.0.0.7:8001"},
        {"listed": False, "listing_error": "SERVFAIL"},
        {"woken_until_ns": NOW_NS + 1},
        {"replicas": 0, "asked_ns": NOW_NS - 1},
        {"replicas": 0, "listed": None, "woken_until_ns": NOW_NS + 1},
    ],
)
def test_one_doubt_keeps_it_active(change):
    assert is_active(**change) is True


@pytest.mark.parametrize(
    "change",
    [
        {"listed": None, "replicas": 0},
        {"listed": False, "replicas": 0, "listing_error": "SERVFAIL"},
    ],
)
def test_a_fleet_that_may_be_at_zero_is_neither_started_nor_stopped(change):
    assert is_active(**change) is None


def test_a_wake_ends():
    assert is_active(woken_until_ns=NOW_NS) is False
