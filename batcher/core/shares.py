"""Which tenants are within their share.

Each tenant has a bucket of rows that fills at its part of what the model can serve and holds a few
targets' worth. A request that finds its bucket empty is over the share: it is served from what the
others leave, and is the first to go when something must. The part is by weight, among the tenants
that were seen lately, so that a share nobody uses is everybody's.
"""

from __future__ import annotations

from collections.abc import Iterable

DEFAULT = "default"
"""The tenant of everybody who is not named in the settings."""

DEPTH_TARGETS = 5.0
"""What a bucket holds: this many targets of the tenant's share."""

LEAST_DEPTH_NS = 100_000_000
"""It holds at least this much time of it."""

SEEN_NS = 1_000_000_000
"""A tenant that sent nothing for so long has no part."""


class Shares:
    """One model's tenants. With fewer than two of them nobody can be over a share."""

    __slots__ = ("_depth_ns", "_rows", "_seen_ns", "weights")

    def __init__(self, tenants: Iterable[tuple[str, float]], target_ns: int | None) -> None:
        self.weights = dict(tenants)
        if self.weights:
            self.weights.setdefault(DEFAULT, 1.0)
        self._depth_ns = max(LEAST_DEPTH_NS, DEPTH_TARGETS * (target_ns or SEEN_NS / DEPTH_TARGETS))
        self._rows: dict[str, float] = {}
        self._seen_ns: dict[str, int] = {}

    def __bool__(self) -> bool:
        return len(self.weights) > 1

    def over(self, tenant: str, rows: int, capacity: float, now_ns: int) -> bool:
        """Charge a request; returns whether its tenant is over its share.

        `capacity` is what the model can serve, in rows a nanosecond; 0 while that is unknown.
        """
        name = tenant if tenant in self.weights else DEFAULT
        seen_ns = self._seen_ns
        before_ns = seen_ns.get(name)
        seen_ns[name] = now_ns
        weights = self.weights
        present = sum([weights[t] for t, at in seen_ns.items() if now_ns - at <= SEEN_NS])
        rate = capacity * weights[name] / present
        depth = rate * self._depth_ns
        if before_ns is None:
            left = depth
        else:
            left = min(depth, self._rows[name] + rate * (now_ns - before_ns))
        over = depth > 0.0 and left < rows
        # What is over the share is served from what is left, and owes nothing.
        self._rows[name] = left if over else left - rows
        return over

    def capture(self) -> tuple[tuple[str, float, int], ...]:
        """The buckets as a plain value, for `restore`."""
        return tuple((t, self._rows[t], self._seen_ns[t]) for t in self._seen_ns)

    def restore(self, state: Iterable[tuple[str, float, int]]) -> None:
        """Go on with buckets that were captured."""
        for tenant, rows, seen_ns in state:
            self._rows[tenant] = rows
            self._seen_ns[tenant] = seen_ns
