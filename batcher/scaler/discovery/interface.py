"""What finds the replicas of a fleet, and what it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from batcher.clock import SECOND

HEARTBEAT_NS: Final = 10 * SECOND
"""A discovery calls `update` at least this often, whether or not anything has changed."""

STALE_NS: Final = 3 * HEARTBEAT_NS
"""A discovery that has not called for so long counts as failed: one call that is late is no failure."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One replica as it is listed."""

    address: str
    """Where it serves gRPC: `host:port`, `[v6]:port` or `unix:/path`. It tells replicas apart."""
    ready: bool | None = None
    """Whether the list says that it takes requests; None where the list does not say."""
    name: str = ""
    """What it is called, such as the name of its pod; empty where the list does not say."""


@dataclass(frozen=True, slots=True)
class Found:
    """One look at the list of replicas."""

    endpoints: tuple[Endpoint, ...]
    """All that are listed, each address once. Not read where `ok` is false."""
    ok: bool
    """Whether the list was read. An empty list that was read says that there is no replica."""
    error: str = ""
    """Why it was not, in words for a log line and a status page."""
    at_ns: int = 0
    """When, on the monotonic clock."""


class Discovery(Protocol):
    """Finds the replicas of one fleet."""

    async def run(self, update: Callable[[Found], None]) -> None:
        """Call `update` with each look at the list, until cancelled.

        The first call comes as soon as the list was read or could not be, later ones at each change
        and at least every `HEARTBEAT_NS`. What goes wrong is a `Found` that is not ok; what is
        raised is logged, and the method is called again a second later. Never blocks the event
        loop. Released in the end: all that it opened.
        """
