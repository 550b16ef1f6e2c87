"""`Telemetry`: what was counted and what is true now, as one Prometheus collector."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from batcher.clock import Clock, monotonic_ns
from batcher.core.observation import Observation
from batcher.telemetry.counted import CountedModels
from batcher.telemetry.ended import EndHooks
from batcher.telemetry.export import empty
from batcher.telemetry.families import FAMILIES, OPTIONAL
from batcher.telemetry.parts import (
    BatchesPart,
    HealthPoints,
    ModelsPart,
    Part,
    ProcessPart,
    QueuesPart,
    RequestsPart,
    ScalePart,
    SequencesPart,
)

log = logging.getLogger(__name__)

_NOTHING = Observation(now_ns=0, models=(), instances=())
_PLACES = {family.name: place for place, family in enumerate((*FAMILIES, *OPTIONAL))}


class Telemetry(CountedModels, Collector):
    """Owns every metric of the server and registers itself with `registry`.

    It has the counts of every model; `process` and `requests` count what belongs to none. Further
    families come with `add`. Recording and scraping happen on the event loop's thread.
    """

    def __init__(self, registry: CollectorRegistry, *, clock: Clock = monotonic_ns) -> None:
        super().__init__(clock)
        self.ended = EndHooks()
        """Who is told of each request that has ended: `ended.add(hook)`."""
        self.process = ProcessPart(self._health_now)
        self.requests = RequestsPart(self)
        self._observe: Callable[[], Observation] = lambda: _NOTHING
        self._health: Callable[[], HealthPoints] = HealthPoints
        self._seen: HealthPoints | None = None
        """The health that this scrape has read: asking takes long enough to do it once."""
        self._parts: list[Part] = []
        self._failing: set[int] = set()
        """`id` of the parts that raised at the last scrape: each is logged once, until it works again."""
        for part in (
            self.process,
            QueuesPart(self),
            ScalePart(self, clock),
            self.requests,
            BatchesPart(self, clock),
            ModelsPart(self, self._health_now),
            SequencesPart(self),
        ):
            self.add(part)
        registry.register(self)

    def watch(self, observe: Callable[[], Observation]) -> None:
        """Ask `observe` for the scheduler's live state at every scrape."""
        self._observe = observe

    def watch_health(self, health: Callable[[], HealthPoints]) -> None:
        """Ask `health` for the state of the server and of each model at every scrape."""
        self._health = health

    def add(self, part: Part) -> None:
        """Export the families of `part` from now on, in the place that they have in `FAMILIES`, then `OPTIONAL`.

        Raises ValueError for a family that is not there, or is exported already.
        """
        exported = {family.name for each in self._parts for family in each.families}
        for family in part.families:
            if family.name not in _PLACES:
                raise ValueError(f"{family.name} is not in FAMILIES or OPTIONAL")
            if family.name in exported:
                raise ValueError(f"{family.name} is exported already")
        self._parts.append(part)
        self._parts.sort(key=_place)

    def describe(self) -> Iterator[Metric]:
        """Every family, without samples: what the registry checks for clashes."""
        return (empty(family) for family in FAMILIES)

    def collect(self) -> Iterator[Metric]:
        """Every family with its samples of this moment, in the order of `FAMILIES`.

        A part that raises loses what it had not given yet. Where the scheduler cannot be asked, all
        that only it knows is absent.
        """
        self._seen = None
        try:
            observation = self._observe()
        except Exception:
            log.exception("the scheduler's state could not be read; its metrics are missing")
            observation = _NOTHING
        for part in tuple(self._parts):
            try:
                yield from part.collect(observation)
            except Exception:
                if id(part) not in self._failing:
                    name = type(part).__name__
                    log.exception("internal error in %s; its metrics are missing", name)
                self._failing.add(id(part))
            else:
                self._failing.discard(id(part))

    def _health_now(self) -> HealthPoints:
        if self._seen is None:
            self._seen = self._health()
        return self._seen


def _place(part: Part) -> int:
    return min(_PLACES[family.name] for family in part.families)
