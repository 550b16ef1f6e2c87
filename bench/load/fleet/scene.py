"""What is served, what is asked of it, and what decides how many replicas there are: the same for both fleets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from batcher.autoscaling import (
    Decision,
    ExternalAverage,
    Hpa,
    HpaSettings,
    Phase,
    Pod,
    default_scale_down,
)
from batcher.clock import MILLISECOND, SECOND
from batcher.simulation.fleet import FleetView, ReplicaView, Signal

MODEL = "ranker"
BASE_MS, PER_ROW_MS, ROWS, COLUMNS = 40, 8, 8, 16
CAPACITY = 1000 * ROWS / (BASE_MS + PER_ROW_MS * ROWS)
"""Requests a second that one replica serves in its largest batches: 77."""
TARGET_NS = 200 * MILLISECOND
TARGET_RATIO = 0.8
"""The load that a replica is to have, of what it can serve inside the target."""
DRAIN_DELAY_NS = 5 * SECOND
"""The default of `server.drain_delay`."""
CONNECTION_AGE = "5s"
"""`server.max_connection_age`: as clients ask for addresses again when a connection ends, it is for so long at most
that they do not know of a new replica. With minutes instead they would come too late for a load that jumps."""
SYNC_NS, STABILIZATION_NS = SECOND, 20 * SECOND
AVERAGE = "0s"
"""`average` of the scaler, and what the simulated fleet's readings are: the last ones. The autoscaler looks each second and
so misses nothing in between; a mean of 15 s would only have it follow steps later."""
DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class Scene:
    """A load that steps, and a fleet that follows it."""

    rates: tuple[float, ...]
    """Requests a second of each phase."""
    seconds: tuple[float, ...]
    """How long each phase is."""
    replicas: int
    """Ready at the start."""
    most: int
    seed: int = 0

    @property
    def until_ns(self) -> int:
        """The end of the load."""
        return round(sum(self.seconds) * SECOND)

    @property
    def steps_ns(self) -> list[int]:
        """When the rate changes."""
        return [round(at * SECOND) for at in np.cumsum(self.seconds)[:-1]]

    def due_ns(self) -> list[int]:
        """When each request is due: a Poisson process in each phase."""
        random, due, begins = np.random.default_rng(self.seed), [], 0.0
        for rate, seconds in zip(self.rates, self.seconds, strict=True):
            gaps = random.exponential(1 / rate, size=int(rate * seconds * 1.3) + 100)
            moments = np.cumsum(gaps)
            due.extend((begins + moments[moments < seconds]).tolist())
            begins += seconds
        return [round(at * SECOND) for at in due]


def config() -> dict[str, Any]:
    """The configuration of a replica, without its listeners."""
    options = {"base": f"{BASE_MS}ms", "per_row": f"{PER_ROW_MS}ms", "columns": COLUMNS}
    batching = {"max_batch_size": ROWS, "target_p99": f"{TARGET_NS // MILLISECOND}ms"}
    model = {"name": MODEL, "executor": "emulated", "options": options, "batching": batching}
    server = {"drain_delay": f"{DRAIN_DELAY_NS // SECOND}s", "max_connection_age": CONNECTION_AGE}
    return {"server": server, "models": [model]}


class Autoscaler:
    """The HorizontalPodAutoscaler of a fleet of either kind."""

    sync_ns = SYNC_NS
    signals = (Signal.DESIRED_RATIO,)

    def __init__(self, scene: Scene) -> None:
        settings = HpaSettings(
            max_replicas=scene.most,
            sync_ns=SYNC_NS,
            scale_down=default_scale_down(STABILIZATION_NS),
        )
        self._hpa = Hpa(settings)

    def decide(
        self, now_ns: int, current: int, pods: Sequence[Pod], load: float | None
    ) -> Decision:
        """`load` is that of the whole fleet, in replicas; None: it could not be had."""
        metric = ExternalAverage(TARGET_RATIO, load)
        return self._hpa.sync(now_ns, current, pods, (metric,))

    def sync(self, view: FleetView) -> Decision:
        """Decide for a simulated fleet."""
        return self.decide(
            view.now_ns, view.desired, pods_of(view.replicas), load_of(view.replicas)
        )


def pods_of(replicas: Sequence[ReplicaView]) -> list[Pod]:
    """What the autoscaler sees of them."""
    return [
        Pod(
            f"ranker-{each.number}",
            Phase.RUNNING,
            ready=each.ready_ns is not None,
            started_ns=each.started_ns,
            ready_changed_ns=each.started_ns if each.ready_ns is None else each.ready_ns,
        )
        for each in replicas
    ]


def load_of(replicas: Sequence[ReplicaView]) -> float | None:
    """The load of a fleet in replicas, as `batcher scaler` has it with `AVERAGE`.

    One that is ready and does not answer counts as the others do on average, one that starts as 0.
    """
    known = [
        each.sample.values[Signal.DESIRED_RATIO]
        for each in replicas
        if each.sample is not None and Signal.DESIRED_RATIO in each.sample.values
    ]
    if not known:
        return None
    unknown = sum(each.sample is None and each.ready_ns is not None for each in replicas)
    return sum(known) * (1 + unknown / len(known))
