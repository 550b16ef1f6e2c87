"""What a simulated fleet is: how replicas start and drain, what callers do, what is scraped, and what goes wrong.

All of it are plain frozen values that can be pickled. Times are in nanoseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import numpy as np

from batcher.clock import MICROSECOND, MILLISECOND, SECOND
from batcher.errors import InputError
from batcher.simulation.engine.deployment import Deployment
from batcher.simulation.engine.service_time import QUIET, Noise
from batcher.simulation.engine.simulation import Conditions
from batcher.simulation.fleet.balancers import Balancer, RoundRobin

MINUTE: Final = 60 * SECOND


@dataclass(frozen=True, slots=True)
class Span:
    """A time that each replica draws for itself: `mean_ns` times a factor of `noise`."""

    mean_ns: int = 0
    noise: Noise = QUIET

    def sample_ns(self, draw: np.random.Generator) -> int:
        """One draw, not below 0."""
        if not self.noise.spread:
            return self.mean_ns
        [factor] = self.noise.factors(1, draw)
        return max(0, round(self.mean_ns * factor))


@dataclass(frozen=True, slots=True)
class StartUp:
    """What passes from the decision to start a replica until it is ready for requests.

    `image` is the time until its process runs: placement, image, container. A replica whose process died and is
    started again in its place needs the other two alone.
    """

    image: Span = Span()
    load: Span = Span()
    warm_up: Span = Span()


@dataclass(frozen=True, slots=True)
class Readiness:
    """How long balancers and controllers take to learn what has become of a replica."""

    added_ns: int = SECOND
    """From ready to routed to: a readiness probe, the endpoints, the client's list and connection."""
    removed_ns: int = 2 * SECOND
    """From the start of a drain until nothing is routed to it any more. GOAWAY at the end of `Drain.delay_ns` is
    known at once."""
    lost_ns: int = 0
    """From its death until nothing is routed to it: 0 for connections that the kernel ends."""


@dataclass(frozen=True, slots=True)
class Drain:
    """How a replica ends that is stopped (`server.drain_delay`, `server.drain_timeout`)."""

    delay_ns: int = 5 * SECOND
    """It serves as before for so long."""
    timeout_ns: int = 30 * SECOND
    """After that, what is not answered within this is lost."""


@dataclass(frozen=True, slots=True)
class Clients:
    """Callers, each with a balancer of its own. A request comes from any of them with equal chance."""

    count: int = 1
    wait_ns: int = 0
    """How long a request waits where no replica is known (wait-for-ready); 0: it fails at once."""
    retries: int = 0
    """How often a request is sent again that found no replica or whose replica died (UNAVAILABLE)."""
    retry_ns: int = 10 * MILLISECOND
    """How long after."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"count: got {self.count}; allowed: from 1 on")
        for name in ("wait_ns", "retries", "retry_ns"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}: got {getattr(self, name)}; allowed: from 0 on")


@dataclass(frozen=True, slots=True)
class Processor:
    """Processor time that a server takes, for the signal `cpu`.

    Of the transport `builtin` with small requests: 75 to 270 us a request by how many share an iteration of the event
    loop (docs/benchmarks.md). Of a model that runs on the processor itself, `batch_share` is 1.
    """

    request_ns: int = 150 * MICROSECOND
    batch_ns: int = 150 * MICROSECOND
    batch_share: float = 0.0
    """Of the time that batches run, the part that a processor works on them."""
    baseline: float = 0.01
    """Cores that are busy while nothing happens."""
    requested: float = 1.0
    """Cores that the pod requests: the signal is a part of these."""


@dataclass(frozen=True, slots=True)
class Scrape:
    """How signals come from replicas to a controller."""

    interval_ns: int = 15 * SECOND
    """All replicas are read at multiples of this."""
    delay_ns: int = SECOND // 2
    """A reading is known so long after it was taken."""
    rate_ns: int = MINUTE
    """Rates (`cpu`, `duty_cycle`) are taken over so long, or since the first reading of a replica."""
    nvml_period_ns: int = SECOND
    """The sampling period of `nvml_utilization`: NVML's is between 1/6 s and 1 s, by product."""

    def __post_init__(self) -> None:
        for name in ("interval_ns", "rate_ns", "nvml_period_ns"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name}: got {getattr(self, name)}; allowed: above 0")
        if self.delay_ns < 0:
            raise InputError(f"delay_ns: got {self.delay_ns}; allowed: from 0 on")


class FaultKind(StrEnum):
    """What goes wrong with a replica."""

    DIE = "die"
    """Its process dies, and is started again in its place."""
    LEAVE = "leave"
    """It is gone, with its machine: the deployment starts another one."""
    HANG = "hang"
    """Its devices make no progress until `until_ns`; the server itself goes on."""
    FREEZE = "freeze"
    """The whole server does nothing until `until_ns`, and answers no scrape."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens to the replica of this number, if it is there then.

    Replicas are numbered from 0 in the order in which they are started.
    """

    kind: FaultKind
    replica: int
    at_ns: int
    until_ns: int = 0

    def __post_init__(self) -> None:
        lasts = self.kind in (FaultKind.HANG, FaultKind.FREEZE)
        if lasts and self.until_ns <= self.at_ns:
            raise InputError(f"{self.kind}: got until_ns {self.until_ns}; allowed: above at_ns")


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """A fleet of equal replicas, and everything around it."""

    deployment: Deployment
    """What one replica serves, on which devices."""
    policy: str = "configured"
    """As `--policy` of `batcher simulate`."""
    replicas: int = 1
    """How many are ready, and known to be, at the start."""
    conditions: Conditions = field(default_factory=Conditions)
    """Of every replica; pauses are those of all, too. The seed is the run's."""
    start_up: StartUp = StartUp()
    readiness: Readiness = Readiness()
    drain: Drain = Drain()
    clients: Clients = Clients()
    balancer: Balancer = field(default_factory=RoundRobin)
    scrape: Scrape = Scrape()
    processor: Processor = Processor()
    faults: tuple[Fault, ...] = ()


def replica_seed(seed: int, number: int, starts: int = 0) -> int:
    """The seed of a replica's devices and timers, of its n-th start; that of replica 0 is the run's own."""
    return seed + (number << 32) + (starts << 64)
