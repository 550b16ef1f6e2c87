"""Which tenants are within their share.

A tenant's share is its part, by weight, of what the model can serve, among the tenants that were
seen lately: an unused share is available to all. Each tenant has a bucket that fills at its
share; while it asks for more than that, at what can be served in time beside the others. A request
that finds its bucket empty is over the share: it is served from what is left, and is the first to
go when something must.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import exp

from batcher.core.captured import Captured
from batcher.core.times import LATELY_NS

DEFAULT = "default"
"""The tenant of requests whose tenant is not named in the settings."""

DEPTH_TARGETS = 4.0
"""What a bucket holds: this many targets of its tenant's share."""

SHORTEST_RATE_NS = 100_000_000.0
"""A tenant that has just come counts as if it had asked for so long, or its first request would be a
rate without bound."""

TOLERANCE = 1.15
"""By how much a tenant may seem to ask for more than its share, because arrivals scatter."""

IN_TIME = 0.72
"""The part of what a model can serve at best that can be promised to be in time."""


class TenantShares(Captured):
    """One model's tenants. With fewer than two of them, none can be over its share."""

    __slots__ = ("_depth_ns", "_rates", "_rows", "_seen_ns", "_since_ns", "several", "weights")
    STATE = ("_rates", "_rows", "_seen_ns", "_since_ns")

    def __init__(self, tenants: Iterable[tuple[str, float]], target_ns: int | None) -> None:
        self.weights = dict(tenants)
        if self.weights:
            self.weights.setdefault(DEFAULT, 1.0)
        self.several = len(self.weights) > 1
        """Whether tenants are told apart. An attribute, since it is asked for each request."""
        self._depth_ns = DEPTH_TARGETS * (target_ns or LATELY_NS)
        self._rates: dict[str, float] = {}
        self._rows: dict[str, float] = {}
        self._seen_ns: dict[str, int] = {}
        self._since_ns: dict[str, int] = {}

    def over(self, tenant: str, rows: int, capacity: float, now_ns: int) -> bool:
        """Charge a request; returns whether its tenant is over its share.

        `capacity` is what the model can serve, in rows a nanosecond; 0 while that is unknown.
        """
        name = tenant if tenant in self.weights else DEFAULT
        before_ns = self._seen_ns.get(name)
        if before_ns is None or now_ns - before_ns > LATELY_NS:
            self._since_ns[name] = before_ns = now_ns
            self._rates[name] = 0.0
            self._rows.pop(name, None)
        self._seen_ns[name] = now_ns
        kept = exp((before_ns - now_ns) / LATELY_NS)
        self._rates[name] = self._rates[name] * kept + rows / LATELY_NS
        if capacity <= 0.0:
            return False
        rates = {
            each: self._rate(each, now_ns)
            for each, seen_ns in self._seen_ns.items()
            if now_ns - seen_ns <= LATELY_NS
        }
        weights = self.weights
        share = TOLERANCE * capacity / sum([weights[each] for each in rates])
        if len(rates) == 1:
            self._rows.pop(name, None)
            return False
        fills = share * weights[name]
        depth = fills * self._depth_ns
        if rates[name] > fills:
            fills = self._beside_the_others(rates, share, capacity) * weights[name]
        left = min(depth, self._rows.get(name, depth) + fills * (now_ns - before_ns))
        over = left < rows
        # What is over the share is served from what is left, and owes nothing.
        self._rows[name] = left if over else left - rows
        return over

    def _rate(self, tenant: str, now_ns: int) -> float:
        """Rows a nanosecond that the tenant asks for, since it came."""
        kept = exp((self._seen_ns[tenant] - now_ns) / LATELY_NS)
        # An average of a short time counts for that time only.
        known = 1.0 - exp((self._since_ns[tenant] - now_ns - SHORTEST_RATE_NS) / LATELY_NS)
        return self._rates[tenant] * kept / known

    def _beside_the_others(self, rates: dict[str, float], share: float, capacity: float) -> float:
        """Rows a nanosecond for a weight of 1 among tenants that ask for too much, after the others got theirs."""
        asked = weight = 0.0
        for each, rate in rates.items():
            if rate <= share * self.weights[each]:
                asked += rate
            else:
                weight += self.weights[each]
        return max(0.0, IN_TIME * capacity - asked) / weight

    def among(self, tenants: Iterable[tuple[str, float]], target_ns: int | None) -> TenantShares:
        """Shares among other tenants or by other weights; what is known of tenants that stay is kept."""
        shares = TenantShares(tenants, target_ns)
        for name in self.STATE:
            kept = {k: v for k, v in getattr(self, name).items() if k in shares.weights}
            setattr(shares, name, kept)
        return shares
