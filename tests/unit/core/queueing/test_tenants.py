"""Tenants within their share, and over it."""

from __future__ import annotations

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.queueing.tenants import TenantShares
from batcher.core.times import LATELY_NS

CAPACITY = 1000 / SECOND
"""Rows a nanosecond: a thousand a second."""


@pytest.fixture
def shares():
    return TenantShares([("default", 1.0), ("gold", 4.0)], 50 * MILLISECOND)


def over(shares, tenant, rate, seconds=5.0, start_ns=0):
    """The part of a steady stream that is over the share."""
    gap_ns = int(SECOND / rate)
    count = int(rate * seconds)
    return (
        sum(shares.over(tenant, 1, CAPACITY, start_ns + n * gap_ns) for n in range(count)) / count
    )


def test_one_tenant_alone_has_everything(shares):
    assert over(shares, "default", 990) == 0.0


def test_without_weights_tenants_are_not_told_apart():
    assert not TenantShares([], None).several
    assert not TenantShares([("default", 2.0)], None).several


def test_a_tenant_that_floods_is_over_its_share_and_the_other_is_not(shares):
    flood = gold = 0
    for n in range(5000):
        now_ns = n * MILLISECOND
        flood += shares.over("noisy", 1, CAPACITY, now_ns)
        gold += n % 2 and shares.over("gold", 1, CAPACITY, now_ns)
    assert gold == 0
    # It gets what is left of 0.8 of the capacity beside the 500 a second of the other.
    assert flood / 5000 == pytest.approx(0.7, abs=0.05)


def test_an_unused_share_is_available_to_all(shares):
    shares.over("gold", 1, CAPACITY, 0)
    assert over(shares, "default", 900, start_ns=2 * LATELY_NS) == 0.0


def test_no_tenant_is_over_a_share_of_an_unknown_capacity(shares):
    assert not any(shares.over("default", 5, 0.0, n) for n in range(100))


def test_restored_buckets_go_on_alike(shares):
    for n in range(500):
        shares.over("x", 1, CAPACITY, n * MILLISECOND // 3)
        shares.over("gold", 1, CAPACITY, n * MILLISECOND // 3)
    twin = TenantShares([("default", 1.0), ("gold", 4.0)], 50 * MILLISECOND)
    twin.restore(shares.capture())
    for n in range(500):
        now_ns = SECOND + n * MILLISECOND
        assert twin.over("x", 2, CAPACITY, now_ns) == shares.over("x", 2, CAPACITY, now_ns)
    assert twin.capture() == shares.capture()
