"""Load balancers as the clients of a fleet have them. Each client has one of its own.

| setting | is |
|---|---|
| `RoundRobin` | gRPC's `round_robin`: one replica after the other, from a drawn one whenever the list changes |
| `LeastRequest` | Envoy's `LEAST_REQUEST` and gRPC's `least_request_experimental`: of two drawn replicas, which may be the same, the one with fewer unanswered requests of this client. `choices=0` looks at all (Envoy's full scan), and draws among equal ones |
| `Orca` | gRPC's `weighted_round_robin` (gRFC A58), which reads load reports (`weighted.py`) |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

from batcher.clock import SECOND
from batcher.errors import InputError


@dataclass(frozen=True, slots=True)
class RoundRobin:
    """One replica after the other."""


@dataclass(frozen=True, slots=True)
class LeastRequest:
    """The least busy one of `choices` replicas that are drawn; of all where that is 0."""

    choices: int = 2


@dataclass(frozen=True, slots=True)
class Orca:
    """By weights from load reports: requests a second over utilization. The periods are gRPC's defaults."""

    blackout_ns: int = 10 * SECOND
    """A weight counts so long after the first report."""
    expiration_ns: int = 180 * SECOND
    """A weight does not count so long after the last report."""
    update_ns: int = SECOND
    """The shares of the replicas are computed so often."""
    error_penalty: float = 1.0
    """Times the part of the requests that failed, added to the utilization."""


Balancer: TypeAlias = RoundRobin | LeastRequest | Orca

_NAMES: Final[dict[str, Balancer]] = {
    "round_robin": RoundRobin(),
    "least_request": LeastRequest(),
    "orca": Orca(),
}


def parse_balancer(text: str) -> Balancer:
    """A balancer by its name. Raises `InputError`."""
    try:
        return _NAMES[text]
    except KeyError:
        raise InputError(f"got {text!r}; allowed: {', '.join(_NAMES)}") from None


@dataclass(slots=True)
class Report:
    """Of a load report, what a balancer reads."""

    rps: float
    eps: float
    utilization: float | None


class Target(Protocol):
    """What a picker needs of a replica."""

    number: int
    outstanding: list[int]
    """By client, requests that were sent and have not ended."""
    sent: list[int]
    """By client, requests that were sent so far."""

    def advance(self, until_ns: int) -> None:
        """Play what happens before that moment."""
        ...

    def report(self, now_ns: int) -> Report | None:
        """The load report of now; None where it does not answer."""
        ...


T = TypeVar("T", bound=Target)


class Picker(Protocol[T]):
    """Chooses replicas for the requests of all clients."""

    update_ns: int | None
    """How often `update` is to be called; None for never."""
    counts: bool
    """Whether it reads `outstanding`."""

    def changed(self, known: Sequence[T], now_ns: int) -> None:
        """These replicas are ready, as far as clients know."""
        ...

    def update(self, now_ns: int) -> None:
        """Read load reports."""
        ...

    def pick(self, client: int, at_ns: int) -> T:
        """The replica for a request."""
        ...


class RoundRobinPicker(Generic[T]):
    """A position for each client."""

    update_ns: int | None = None
    counts = False

    def __init__(self, clients: int, draw: Random) -> None:
        self._draw = draw
        self._clients = clients
        self._known: Sequence[T] = ()
        self._last: list[int] = []

    def changed(self, known: Sequence[T], now_ns: int) -> None:  # noqa: ARG002 - the interface
        """Begin anywhere."""
        self._known = known
        self._last = [self._draw.randrange(max(1, len(known))) for _ in range(self._clients)]

    def update(self, now_ns: int) -> None:
        """Nothing is read."""

    def pick(self, client: int, at_ns: int) -> T:  # noqa: ARG002 - the interface
        """The next one."""
        known = self._known
        place = self._last[client] + 1
        if place == len(known):
            place = 0
        self._last[client] = place
        return known[place]


class LeastRequestPicker(Generic[T]):
    """Draws replicas and compares them."""

    update_ns: int | None = None
    counts = True

    def __init__(self, choices: int, draw: Random) -> None:
        self._choices = choices
        self._random = draw.random
        self._known: Sequence[T] = ()

    def changed(self, known: Sequence[T], now_ns: int) -> None:  # noqa: ARG002 - the interface
        """Draw from these."""
        self._known = known

    def update(self, now_ns: int) -> None:
        """Nothing is read."""

    def pick(self, client: int, at_ns: int) -> T:
        """The one with the fewest requests among those that are drawn; the first one of equal ones."""
        known, random = self._known, self._random
        count = len(known)
        if not self._choices:
            first = int(random() * count)
            drawn = [*known[first:], *known[:first]]
        else:
            drawn = [known[int(random() * count)] for _ in range(self._choices)]
        best, fewest = drawn[0], -1
        for replica in drawn:
            replica.advance(at_ns)
            unanswered = replica.outstanding[client]
            if fewest < 0 or unanswered < fewest:
                best, fewest = replica, unanswered
        best.outstanding[client] += 1
        return best
