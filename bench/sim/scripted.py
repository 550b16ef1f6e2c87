"""A scene of `outcomes`: what arrives, and what happens to instances and settings meanwhile.

Everything is drawn from Python's own generator, seeded by the scene's name: equal on every machine.
Moments and gaps are whole microseconds, so that the last bit of a logarithm decides nothing.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any, Final, TypeAlias

import world

from batcher.clock import MICROSECOND
from batcher.core.batch_sizes import filled_rows
from batcher.core.events import (
    CancelCause,
    DeviceConfigured,
    Event,
    InstanceDown,
    InstanceDraining,
    InstanceUp,
    ModelConfigured,
    ModelRemoved,
    RequestArrived,
    RequestCancelled,
)
from batcher.core.settings import Adaptive, ModelSettings, PaddedAxis, PolicySettings, QueueLimits
from batcher.simulation.engine.service_time import Curve, stepped

REQUESTS: Final = 1_000
PROFILE: Final = world.PROFILES["linear50"]


class Fault(Enum):
    """What a request does to its batch."""

    NONE = auto()
    DEVICE = auto()
    INPUT = auto()
    UNKNOWN = auto()
    """The batch fails as a whole, for this cause."""
    ONCE = auto()
    """The batch fails as a whole, but not when the request is executed again."""
    NAMED = auto()
    """The instance names the request; the others are done."""


@dataclass(slots=True)
class Request:
    """One request. Times that end in `after_ns` count from its arrival."""

    at_ns: int
    model: str = "m"
    rows: int = 1
    nbytes: int = 0
    length: int = 0
    """Along the padded axis; 0 where there is none."""
    key: str = ""
    priority: int = 0
    tenant: str = ""
    target_after_ns: int | None = None
    deadline_after_ns: int | None = None
    queue_after_ns: int | None = None
    cancel_after_ns: int | None = None
    fault: Fault = Fault.NONE


@dataclass
class Scene:
    """One simulation; what is at 0 in `changes` comes before the first request."""

    seed: str
    requests: list[Request] = field(default_factory=list)
    changes: list[tuple[int, Event]] = field(default_factory=list)
    curves: dict[str, Curve] = field(default_factory=dict)
    """What a batch takes, by model."""
    device_of: dict[str, str] = field(default_factory=dict)
    """By instance."""
    noise: float = 0.0
    slow: tuple[tuple[int, int, float], ...] = ()
    """When batches take how many times as long."""
    crowding: float = 0.0
    """What each batch beside it on the device adds to a batch's time, as a share of that."""
    outages: tuple[tuple[int, int, Fault], ...] = ()
    """When batches fail that end then, and with what cause."""
    room_rows: int = 0
    """The most rows that the device has memory for; 0 for any."""
    in_parts: bool = False
    """Whether half of a batch is reported before the rest."""
    gap_ns: int = 0
    """The time for a batch to reach an instance and for its report to return; above 0 instances prefetch."""
    copy_ns: int = 0
    """The time to copy a batch to its device; above 0 batches are pipelined, which has to be learned."""
    reply_ns: int = 0
    late_ns: int = 0
    """Timers are late by up to this."""
    pauses: tuple[tuple[int, int], ...] = ()
    callers: int = 0
    """So many callers send the requests, each when its last one has ended; 0: at their moments."""
    think_ns: int = 0

    def takes_ns(self, model: str, rows: int, length: int) -> int:
        """What a batch takes: with a padded axis, in proportion to a constant and its length."""
        curve = self.curves[model]
        took_ns = curve[rows]
        return took_ns * (64 + length) // 320 if length else took_ns

    def needs_rows(self, model: str, rows: int) -> int:
        """The rows that a batch takes memory for: those of the size that it runs with."""
        settings = self._settings(model)
        return filled_rows(rows, settings.batch_sizes) if settings else rows

    def configure(self, at_ns: int, settings: ModelSettings, model: str = "m") -> None:
        """Give a model its settings, from a moment on. A limit of 0 becomes the target."""
        policy = settings.policy
        if isinstance(policy, Adaptive) and policy.limit_ns == 0:
            settings = replace(settings, policy=replace(policy, limit_ns=settings.target_ns))
        self.changes.append((at_ns, ModelConfigured(model, settings)))

    def up(
        self,
        at_ns: int = 0,
        number: int = 0,
        model: str = "m",
        device: str = "d",
        incarnation: int = 1,
        *,
        at_once: int = 1,
        cold: bool = False,
    ) -> None:
        """An instance comes up, and says what batches took at its warm-up."""
        name = f"{model}#{number}"
        self.device_of[name] = device
        settings = self._settings(model)
        warmup = (settings and settings.batch_sizes) or world.WARMUP
        sizes = [rows for rows in warmup if rows < len(self.curves[model])]
        padded = settings.padding[0].buckets if settings and settings.padding else ()
        profile = tuple((rows, self.curves[model][rows]) for rows in sizes)
        buckets = tuple(
            (((length,),), tuple((rows, self.takes_ns(model, rows, length)) for rows in sizes))
            for length in padded
        )
        event = InstanceUp(
            instance=name,
            incarnation=incarnation,
            model=model,
            device=device,
            max_in_flight=at_once,
            profile=() if cold or padded else profile,
            buckets=() if cold else buckets,
            prefetches=self.gap_ns > 0 or self.copy_ns > 0,
            overlaps=self.copy_ns > 0,
        )
        self.changes.append((at_ns, event))

    def _settings(self, model: str) -> ModelSettings | None:
        """The first that the model has, if any."""
        for _, event in self.changes:
            if isinstance(event, ModelConfigured) and event.model == model:
                return event.settings
        return None

    def down(self, at_ns: int, number: int = 0, incarnation: int = 1, model: str = "m") -> None:
        """An instance is lost."""
        self.changes.append((at_ns, InstanceDown(f"{model}#{number}", incarnation)))

    def drain(self, at_ns: int, number: int = 0, incarnation: int = 1, model: str = "m") -> None:
        """An instance gets no further batch."""
        self.changes.append((at_ns, InstanceDraining(f"{model}#{number}", incarnation)))

    def limit_device(self, limit: int | None, device: str = "d", at_ns: int = 0) -> None:
        """Bound the batches on a device."""
        self.changes.append((at_ns, DeviceConfigured(device, limit)))

    def remove(self, at_ns: int, model: str = "m") -> None:
        """A model is no longer served."""
        self.changes.append((at_ns, ModelRemoved(model)))


def arrival(request_id: int, request: Request, at_ns: int) -> Event:
    """The event of a request's arrival."""

    def moment_ns(after_ns: int | None) -> int | None:
        return None if after_ns is None else at_ns + after_ns

    return RequestArrived(
        id=request_id,
        model=request.model,
        rows=request.rows,
        nbytes=request.nbytes,
        shapes=((request.length,),) if request.length else (),
        batch_key=request.key,
        arrival_ns=at_ns,
        due_ns=moment_ns(request.target_after_ns),
        deadline_ns=moment_ns(request.deadline_after_ns),
        priority=request.priority,
        tenant=request.tenant,
        queue_until_ns=moment_ns(request.queue_after_ns),
    )


def cancellation(request_id: int, request: Request) -> Event:
    """The event that its caller cancels it, or that its deadline has come."""
    at_deadline = request.cancel_after_ns == request.deadline_after_ns
    cause = CancelCause.DEADLINE if at_deadline else CancelCause.CANCELLED
    return RequestCancelled(request_id, cause)


Vary: TypeAlias = Callable[[random.Random, Request], None]


def poisson(draw: random.Random, rate: float, count: int, start_ns: int = 0) -> list[int]:
    """Moments of independent arrivals, so many a second."""
    found, at_us = [], start_ns // MICROSECOND
    for _ in range(count):
        at_us += round(-math.log(1.0 - draw.random()) * 1e6 / rate)
        found.append(at_us * MICROSECOND)
    return found


def bursts(draw: random.Random, rate: float, count: int) -> list[int]:
    """Arrivals of changing rate: spells of some 50, in turns four times as fast and as slow as the last."""
    found: list[int] = []
    fast = False
    while len(found) < count:
        fast = not fast
        spell = 20 + draw.randrange(60)
        found += poisson(draw, rate * (2.5 if fast else 0.625), spell, found[-1] if found else 0)
    return found[:count]


def one_model(
    name: str,
    policy: PolicySettings,
    load: float,
    vary: Vary | None = None,
    *,
    profile: world.Profile = PROFILE,
    target: bool = True,
    limits: QueueLimits | None = None,
    padding: tuple[PaddedAxis, ...] = (),
    sizes: tuple[int, ...] = (),
    arrivals: Callable[[random.Random, float, int], list[int]] = poisson,
    instances: int = 1,
    at_once: int = 1,
    cold: bool = False,
    count: int = REQUESTS,
    rows: float = 1.0,
    **shell: Any,
) -> Scene:
    """One model on one device for each instance, at a share of what it can serve.

    `rows` is the mean that `vary` gives requests, `sizes` are the only ones that batches run with, and
    `shell` are fields of `Scene`.
    """
    scene = Scene(name, curves={"m": stepped(profile.curve, sizes)}, **shell)
    draw = random.Random(name)
    rate = load * profile.rate * instances * at_once / rows
    scene.requests = [Request(at_ns) for at_ns in arrivals(draw, rate, count)]
    if vary is not None:
        for request in scene.requests:
            vary(draw, request)
    settings = ModelSettings(
        len(profile.curve) - 1,
        policy,
        limits or QueueLimits(),
        profile.target_ns if target else None,
        padding,
        sizes,
    )
    scene.configure(0, settings)
    for number in range(instances):
        scene.up(0, number, device=f"d{number}", at_once=at_once, cold=cold)
    return scene
