"""gRPC's `weighted_round_robin`: shares of the replicas by what their load reports say.

Source: gRFC A58 and gRPC's C-core (`weighted_round_robin.cc`, `static_stride_scheduler.cc`).

    weight = rps / (utilization + error_penalty * eps / rps)

A replica without a weight gets the mean of the others. Reports come with answers: each client reads the report of a
replica once in an update period in which it has sent that one anything, as of the end of the period.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final, Generic, TypeVar

from batcher.simulation.fleet.balancers import Orca, Report, Target

MOST: Final = 65_535
"""What the largest share is scaled to."""

MOST_RATIO: Final = 10.0
LEAST_RATIO: Final = 0.01
"""Weights are kept within these multiples of their mean, as C-core does."""

T = TypeVar("T", bound=Target)


class Weight:
    """What one client knows of one replica."""

    __slots__ = ("last_ns", "since_ns", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self.since_ns: int | None = None
        """Since when reports have come without a long gap."""
        self.last_ns: int | None = None

    def take(self, report: Report, penalty: float, now_ns: int) -> None:
        """Learn from a report; one without requests or utilization says nothing."""
        if not report.utilization or report.rps <= 0:
            return
        errors = penalty * report.eps / report.rps if report.eps > 0 else 0.0
        self.value = report.rps / (report.utilization + errors)
        self.last_ns = now_ns
        if self.since_ns is None:
            self.since_ns = now_ns

    def usable(self, settings: Orca, now_ns: int) -> float:
        """The weight; 0 where it does not count (yet, or any more)."""
        if self.last_ns is None:
            return 0.0
        if now_ns - self.last_ns >= settings.expiration_ns:
            self.since_ns = None
            return 0.0
        if self.since_ns is None or now_ns - self.since_ns < settings.blackout_ns:
            return 0.0
        return self.value


def shares(weights: Sequence[float]) -> list[int] | None:
    """Weights scaled to whole numbers up to `MOST`; None where round robin is to be used."""
    known = [weight for weight in weights if weight]
    if len(weights) < 2 or not known:
        return None
    mean = sum(known) / len(known)
    most = min(max(known), MOST_RATIO * mean)
    scale = MOST / most
    of_mean = round(scale * mean)
    least = max(1, round(of_mean * LEAST_RATIO))
    return [max(least, round(min(w, most) * scale)) if w else of_mean for w in weights]


class WeightedPicker(Generic[T]):
    """Static strides: of `MOST` rounds over all replicas, each is chosen in as many as its share is."""

    counts = False

    def __init__(self, settings: Orca, clients: int, draw: Random) -> None:
        self.update_ns: int | None = settings.update_ns
        self._settings = settings
        self._clients = clients
        self._draw = draw
        self._known: Sequence[T] = ()
        self._weights: list[dict[int, Weight]] = [{} for _ in range(clients)]
        self._read: dict[int, list[int]] = {}
        """By replica, how much each client had sent it when its report was read last."""
        self._shares: list[list[int] | None] = []
        self._last: list[int] = []
        self._rounds = [draw.getrandbits(31) for _ in range(clients)]

    def changed(self, known: Sequence[T], now_ns: int) -> None:
        """Have these, with what is known of their weights."""
        numbers = {replica.number for replica in known}
        for weights in self._weights:
            for number in [n for n in weights if n not in numbers]:
                del weights[number]
            for number in numbers - weights.keys():
                weights[number] = Weight()
        self._read = {r.number: self._read.get(r.number, [0] * self._clients) for r in known}
        self._known = known
        self._last = [self._draw.randrange(max(1, len(known))) for _ in range(self._clients)]
        self._compute(now_ns)

    def update(self, now_ns: int) -> None:
        """Read the report of each replica that was asked anything since the last time."""
        for replica in self._known:
            before = self._read[replica.number]
            asked = [c for c, sent in enumerate(replica.sent) if sent > before[c]]
            if not asked:
                continue
            self._read[replica.number] = list(replica.sent)
            report = replica.report(now_ns)
            if report is None:
                continue
            for client in asked:
                weight = self._weights[client][replica.number]
                weight.take(report, self._settings.error_penalty, now_ns)
        self._compute(now_ns)

    def _compute(self, now_ns: int) -> None:
        known, settings = self._known, self._settings
        self._shares = [
            shares([weights[replica.number].usable(settings, now_ns) for replica in known])
            for weights in self._weights
        ]

    def pick(self, client: int, at_ns: int) -> T:  # noqa: ARG002 - the interface
        """The next one in whose turn it is."""
        known, own = self._known, self._shares[client]
        count = len(known)
        if own is None:
            place = self._last[client] = (self._last[client] + 1) % count
        else:
            rounds = self._rounds[client]
            while True:
                rounds += 1
                turn, place = divmod(rounds, count)
                share = own[place]
                # Half of `MOST` apart, so that neighbors do not miss the same rounds.
                if (share * turn + place * (MOST // 2)) % MOST >= MOST - share:
                    break
            self._rounds[client] = rounds
        replica = known[place]
        replica.sent[client] += 1
        return replica
