"""Rollouts under a steady load: what callers lose by how they and the servers are set."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from batcher.clock import MILLISECOND, SECOND
from fleet.callers import OPTIONS, Settings
from fleet.compare import real_times
from fleet.real import play
from fleet.replicas import Fleet
from fleet.scene import TARGET_NS, Scene

SCENE: Final = Scene((100.0,), (30.0,), replicas=3, most=6)
"""43 % of what the replicas serve."""
BEGINS_S: Final = 3.0

DEFAULTS = {name: OPTIONS[name] for name in ("grpc.use_local_subchannel_pool",)}
"""The options of gRPC as they are."""

NEITHER: Final = Settings(health_checks=False, retries=False)
GRPCIO: Final = {"transport": "grpcio"}

VARIANTS: dict[str, tuple[Settings, dict[str, Any]]] = {
    "recommended": (Settings(), {}),
    "neither health checks nor retries": (NEITHER, {}),
    "gRPC's own times": (Settings(options=DEFAULTS), {}),
    "drain_delay: 0": (Settings(), {"drain_delay": 0}),
    "drain_delay: 0, neither": (NEITHER, {"drain_delay": 0}),
    "grpcio": (Settings(), GRPCIO),
    "grpcio, neither": (NEITHER, GRPCIO),
    "grpcio, drain_delay: 0": (Settings(), GRPCIO | {"drain_delay": 0}),
}
"""How callers and servers are set, by what that is called."""


async def run() -> dict[str, Any]:
    """A rollout of each kind."""
    return {name: await _one(*variant) for name, variant in VARIANTS.items()}


async def _one(callers: Settings, server: dict[str, Any]) -> dict[str, Any]:
    done = asyncio.Event()

    async def roll(fleet: Fleet) -> None:
        for replica in list(fleet.active):
            await fleet.replace(replica)
        done.set()

    with tempfile.TemporaryDirectory() as folder:
        played = await play(
            SCENE,
            Path(folder),
            events=((BEGINS_S, roll),),
            callers=callers,
            server=server,
            scaled=False,
        )
    took_ns, lost = real_times(played)
    answered = took_ns[took_ns >= 0]
    known = [
        (each["known_ns"] - each["ready_ns"]) / SECOND
        for each in played.replicas
        if each["started_ns"] > 0 and each["known_ns"] is not None
    ]
    return {
        "requests": len(took_ns),
        "not_answered": dict(lost),
        "late": int((answered > TARGET_NS).sum()),
        "slowest_ms": round(float(answered.max()) / MILLISECOND, 1),
        "new_replica_known_s": round(fmean(known), 2) if known else None,
        "replaced": sum(each["stopped_ns"] < SCENE.until_ns for each in played.replicas),
        "whole": done.is_set(),
        "problems": played.problems,
    }
