"""The fleet for real: servers as processes, gRPC's client before them, and the autoscaler that starts and stops them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients import Record
from poisson import drive

from batcher.clock import SECOND
from batcher.simulation.fleet import ReplicaView
from fleet.callers import Callers, Settings
from fleet.dns import NameServer
from fleet.replicas import NAME, Fleet, Replica
from fleet.scaler import Scaler
from fleet.scene import Autoscaler, Scene, config, pods_of


@dataclass(frozen=True, slots=True)
class RealStep:
    """One sync of the autoscaler; the moment is from the start of the load."""

    at_ns: int
    before: int
    desired: int
    ready: int
    starting: int
    draining: int
    load: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class RealRun:
    """What became of the requests and of the replicas; moments are from the start of the load."""

    due_ns: list[int]
    record: Record
    steps: list[RealStep]
    replicas: list[dict[str, Any]]
    problems: list[str]
    scaler: dict[str, Any]
    """Of the scaler: its errors, and its slowest answer."""


THREADS = 64

Event = tuple[float, Callable[[Fleet], Awaitable[None] | None]]
"""Seconds from the start of the load, and what befalls the fleet then."""


async def play(
    scene: Scene,
    folder: Path,
    *,
    channels: int = 1,
    events: tuple[Event, ...] = (),
    callers: Settings | None = None,
    server: Mapping[str, Any] | None = None,
    scaled: bool = True,
) -> RealRun:
    """Play the scene, and end every server. `server` are other settings of the replicas.

    With `scaled` the autoscaler decides how many replicas there are.
    """
    # A thread waits for each process; asyncio has four more than there are cores.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
    names = NameServer()
    await names.start()
    document = config()
    document["server"] |= server or {}
    fleet = Fleet(folder, document, names)
    record, due_ns = Record(), scene.due_ns()
    steps: list[RealStep] = []
    load, stack = Callers(record, callers), AsyncExitStack()
    scaler = Scaler(folder, NAME, int(fleet.port), names.host)
    try:
        await fleet.begin(scene.replicas)
        await load.open(fleet.target, channels)
        tasks = [asyncio.create_task(_look(fleet, names))]
        if scaled:
            await stack.enter_async_context(scaler)
            tasks += [asyncio.create_task(control(scene, fleet, scaler, steps, record))]
        tasks += [asyncio.create_task(_befall(fleet, record, event)) for event in events]
        await drive(load, due_ns, record)
        left_s = (record.began_ns + scene.until_ns - time.monotonic_ns()) / SECOND
        await asyncio.sleep(max(0.0, left_s))
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended
    finally:
        await stack.aclose()
        await load.finish()
        await fleet.end()
        names.close()
    replicas = [_told(replica, record.began_ns) for replica in fleet.all]
    told = {"errors": scaler.errors, "slowest_answer_s": round(scaler.slowest_s, 4)}
    return RealRun(due_ns, record, steps, replicas, fleet.problems, told)


async def control(
    scene: Scene,
    fleet: Fleet,
    scaler: Scaler,
    steps: list[RealStep],
    record: Record,
) -> None:
    """Have the autoscaler decide at its period, and carry out what it decides."""
    autoscaler, desired = Autoscaler(scene), scene.replicas
    next_ns = time.monotonic_ns()
    while True:
        next_ns += autoscaler.sync_ns
        await asyncio.sleep(max(0.0, (next_ns - time.monotonic_ns()) / SECOND))
        load, now_ns = await scaler.load(), time.monotonic_ns()
        views = [
            ReplicaView(each.number, each.started_ns, each.ready_ns, None) for each in fleet.active
        ]
        decision = autoscaler.decide(now_ns, desired, pods_of(views), load)
        before, desired = desired, decision.desired
        ready = sum(each.ready_ns is not None for each in views)
        draining = len(fleet.draining)
        at_ns = now_ns - record.began_ns
        starting = len(views) - ready
        reason = decision.reason
        steps.append(RealStep(at_ns, before, desired, ready, starting, draining, load, reason))
        fleet.scale(desired)


async def _look(fleet: Fleet, names: NameServer) -> None:
    """Note when callers are told of replicas."""
    while True:
        fleet.first_told(names.told_ns.get)
        await asyncio.sleep(0.2)


async def _befall(fleet: Fleet, record: Record, event: Event) -> None:
    at_s, befall = event
    await asyncio.sleep(0.2)  # until the load has begun
    await asyncio.sleep(max(0.0, record.began_ns / SECOND + at_s - time.monotonic()))
    done = befall(fleet)
    if done is not None:
        await done


def _told(replica: Replica, began_ns: int) -> dict[str, Any]:
    moments = {
        name: None if (at_ns := getattr(replica, f"{name}_ns")) is None else at_ns - began_ns
        for name in ("started", "ready", "known", "stopped", "ended")
    }
    rest = {"number": replica.number, "restarts": replica.restarts, "exits": replica.exits}
    return rest | {f"{name}_ns": at_ns for name, at_ns in moments.items()}
