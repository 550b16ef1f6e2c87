"""Load that goes up and down in steps, and what the server makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from truth.capacity import Flow
from truth.scene import ModelPlan, Scene
from truth.statements.scale import slowest
from truth.world import SECOND, World

SLOW = ModelPlan(base_ms=60, row_ms=6, batching={"target_p99": "400ms"})
"""16 rows in 156 ms, so that three times what it can serve is no load for the machine."""

SETTLED_S = 5.0
"""A step shows in full after this."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A part of the load: requests of one model and size, at equal distances."""

    plan: ModelPlan = SLOW
    share: float = 1.0
    rows: int = 1
    columns: int = 4
    priorities: Sequence[int | None] = (None,)
    """Those of its requests, in turns."""

    def requests(
        self, load: float, slots: int, begin_s: float, seconds: float, first: int
    ) -> list[list[Any]]:
        """Those that make up its share of so much load, numbered from `first` on."""
        flow = Flow(self.plan, self.plan.width(self.columns))
        rate = load * flow.rate(self.share * slots) / self.rows
        levels = self.priorities
        return [
            [
                first + n,
                round((begin_s + n / rate) * 1e9),
                self.plan.name,
                self.rows,
                0,
                None,
                None,
                self.columns,
                levels[n % len(levels)],
            ]
            for n in range(round(rate * seconds))
        ]


@dataclass(frozen=True, slots=True)
class Steps:
    """Levels of offered over capacity, each for so long, one after the other."""

    levels: Sequence[float]
    seconds: float = 8.0
    streams: Sequence[Stream] = (Stream(),)
    slots: int = 1
    """Batches that the device runs at once."""
    config: dict[str, Any] = field(default_factory=dict)

    def scene(self) -> Scene:
        """To be played."""
        requests: list[list[Any]] = []
        for place, level in enumerate(self.levels):
            for stream in self.streams:
                begin_s, first = place * self.seconds, 1 + len(requests)
                requests += stream.requests(level, self.slots, begin_s, self.seconds, first)
        models = list({stream.plan.name: stream.plan for stream in self.streams}.values())
        lasts = self.seconds * len(self.levels)
        return Scene(models=models, requests=requests, seconds=lasts, config=self.config)

    def seen(self, world: World) -> list[Seen]:
        """What `batcher_desired_ratio` was at each level."""
        found = []
        pairs = list(world.pairs("batcher_desired_ratio"))
        for place, level in enumerate(self.levels):
            begin_ns = world.facts["began_ns"] + round(place * self.seconds * SECOND)
            end_ns = begin_ns + round(self.seconds * SECOND)
            mine = [
                ((scrape.end_ns - begin_ns) / SECOND, value)
                for scrape, value in pairs
                if begin_ns < scrape.begin_ns < end_ns
            ]
            part = min(Flow(stream.plan).uneven() for stream in self.streams)
            most = 1.1 * level * slowest(world, end_ns) / part
            off = [at_s for at_s, value in mine if not 0.9 * level <= value <= most]
            settled = [value for at_s, value in mine if at_s >= SETTLED_S]
            slow = slowest(world, end_ns)
            found.append(Seen(level, min(settled), max(settled), max(off, default=0.0), slow, part))
        return found


@dataclass(frozen=True, slots=True)
class Seen:
    """What the server said of one level, once settled, and for how long it was more than 10 % off."""

    true: float
    lowest: float
    highest: float
    settled_s: float
    slowest: float = 1.0
    """How many times as long as it should the slowest batch took meanwhile."""
    uneven: float = 1.0
    """The part of what can be served of even arrivals that can be of random ones."""

    @property
    def right(self) -> bool:
        """Whether it is within 10 % from five seconds after the step on, of a device as slow as it was."""
        within = (
            0.9 * self.true <= self.lowest
            and self.highest <= 1.1 * self.true * self.slowest / self.uneven
        )
        return within and self.settled_s <= SETTLED_S

    def figures(self) -> dict[str, Any]:
        """For a file of results."""
        return {name: round(value, 4) for name, value in asdict(self).items()} | {"ok": self.right}
