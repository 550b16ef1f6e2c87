"""Every exported family beside what is known from the outside, in scenes that a real Prometheus watches.

`batcher_desired_ratio` has to be within 10 % of what is offered over what can be served, from 0.3 to 3, from
five seconds after each step on. All other families are held to their statements (`truth/statements`).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import machine
from truth import prometheus
from truth.scene import ModelPlan, play
from truth.statements import untruths
from truth.steps import SLOW, Steps, Stream

from batcher.telemetry.families import FAMILIES

LATEST_MS = 50.0
"""A load that was sent later than this is sent again."""

UP_AND_DOWN = (0.6, 1.8, 0.4)


def _on(plan: ModelPlan, name: str, **keys: Any) -> ModelPlan:
    return replace(plan, name=name, keys=plan.keys | {"device": "shared"} | keys)


def scenes() -> dict[str, Steps]:
    """By name."""
    sizes = replace(SLOW, batching=SLOW.batching | {"batch_sizes": [1, 4, 16]})
    padded = replace(SLOW, base_ms=40, row_ms=2, padded=(4, 16))
    twice = replace(SLOW, keys={"instances": 2})
    short = replace(SLOW, base_ms=30, row_ms=3, batching={"target_p99": "150ms"})
    return {
        "levels up": Steps((0.3, 0.5, 0.8, 0.95, 1.2, 1.5, 2.0, 3.0)),
        "levels down": Steps((3.0, 1.0, 0.3)),
        "batches of certain sizes": Steps(UP_AND_DOWN, streams=[Stream(sizes)]),
        "padded buckets": Steps(
            UP_AND_DOWN,
            streams=[Stream(padded, 0.5, columns=3), Stream(padded, 0.5, columns=10)],
        ),
        "requests of five rows": Steps(UP_AND_DOWN, streams=[Stream(rows=5)]),
        "priorities": Steps(UP_AND_DOWN, streams=[Stream(priorities=(1, 2, 3))]),
        "two instances": Steps(UP_AND_DOWN, streams=[Stream(twice)], slots=2),
        "models that share a device": Steps(
            UP_AND_DOWN,
            streams=[Stream(_on(SLOW, "first"), 0.7), Stream(_on(short, "second"), 0.3)],
        ),
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--only", choices=tuple(scenes()), help="one scene")
    parser.add_argument("--repeats", type=int, default=3, help="times that a late load is repeated")
    parser.add_argument(
        "--output", type=Path, default=machine.RESULTS / "signals.json", help="where figures go"
    )


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Play them all; returns what is kept."""
    if not prometheus.there():
        sys.exit("prometheus is not installed (.ci/packages.txt)")
    chosen = {n: each for n, each in scenes().items() if options.only in {None, n}}
    found: dict[str, Any] = {name: measure(name, each, options) for name, each in chosen.items()}
    found["families"] = len(FAMILIES)
    machine.save(options.output, found)
    return found


def measure(name: str, steps: Steps, options: argparse.Namespace) -> dict[str, Any]:
    """One scene, on a server of its own."""
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            world = play(steps.scene(), Path(folder))
        if world.late_ms <= LATEST_MS:
            break
    late = f"not judged: the load was sent {world.late_ms:.0f} ms late"
    judged = world.late_ms <= LATEST_MS
    levels = [each.figures() for each in steps.seen(world)]
    wrong = untruths(world, [family.name for family in FAMILIES])
    print(f"{name}: {len(world.requests)} requests, {len(world.scrapes)} scrapes", flush=True)
    for each in levels:
        each["ok"] = each["ok"] if judged else late
        print(
            f"  {each['true']:4.2f} was seen as {each['lowest']:.3f} to {each['highest']:.3f},"
            f" right after {each['settled_s']:.1f} s  {each['ok']}"
        )
    for family, said in wrong.items():
        print(f"  {family}: {said[0]}")
    return {
        "levels": levels,
        "requests": len(world.requests),
        "scrapes": len(world.scrapes),
        "sent_late_ms": round(world.late_ms, 1),
        "untrue": wrong,
        "checks": {"every family is true": not wrong if judged else late},
    }
