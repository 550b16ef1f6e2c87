"""What is counted of a model's tenants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from batcher.core.commands import Outcome
from batcher.core.queueing.tenants import DEFAULT

OTHER: Final = "other"
"""What all tenants are called together that are not named in the settings. No tenant may be named so."""


class TenantCounts:
    """Requests of one model that have ended, by tenant and outcome.

    Tenants are told apart that the settings name; a name that a caller made up is never kept.
    """

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[str, dict[Outcome, int]] = {}

    def names(self, tenants: Iterable[str]) -> None:
        """Tell these apart from now on; without any, count nothing. Those that stay keep their counts."""
        names = [name for name in tenants if name != DEFAULT]
        known = (*names, OTHER) if names else ()
        self._counts = {name: self._counts.get(name) or dict.fromkeys(Outcome, 0) for name in known}

    def __bool__(self) -> bool:
        """Whether any tenants are told apart."""
        return bool(self._counts)

    def count(self, tenant: str, outcome: Outcome, requests: int = 1) -> None:
        """Count requests of a tenant, by the name that callers gave."""
        counts = self._counts.get(tenant) or self._counts[OTHER]
        counts[outcome] += requests

    def points(self) -> Iterable[tuple[str, Outcome, int]]:
        """Each tenant's requests by outcome."""
        for tenant, counts in self._counts.items():
            for outcome, requests in counts.items():
                yield tenant, outcome, requests
