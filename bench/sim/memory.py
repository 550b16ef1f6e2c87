"""What it costs when the device has no memory for large batches, for two seconds or for good."""

from __future__ import annotations

import argparse
from itertools import product
from typing import Any

import faults
import world

from batcher.clock import SECOND
from batcher.core.commands import Dispatch, Outcome
from batcher.core.events import FailureCause
from batcher.core.settings import Adaptive

LOADS = (0.8, 0.9)
BEGINS_NS = 4 * SECOND
SPELLS = {"two seconds": 6 * SECOND, "for good": 10**6 * SECOND}
MOST_FAILED_A_SECOND = 0.2
"""Batches in vain, of a device that never has the memory: a try in 1, 2, 4, ... 64 s, and those that lower
the ceiling first."""


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """The device has memory for half of the largest batch only.

    No request fails, and nothing is bisected. Beside it, what the same device costs where its executor
    does not say that memory is the cause.
    """
    profile = world.PROFILES["linear50"]
    room = (len(profile.curve) - 1) // 2
    requests = min(options.requests, 20_000)
    found: dict[str, Any] = {}
    for load, (spell, ends_ns) in product(LOADS, SPELLS.items()):
        arrivals = faults.stream(profile, load, requests, 0)
        row: dict[str, Any] = {}
        for cause in (FailureCause.MEMORY, FailureCause.UNKNOWN):

            def fault(
                dispatch: Dispatch,
                now_ns: int,
                ends_ns: int = ends_ns,
                cause: FailureCause = cause,
            ) -> FailureCause | None:
                rows = sum(part.stop - part.start for part in dispatch.parts)
                return cause if BEGINS_NS <= now_ns < ends_ns and rows > room else None

            run = faults.play(profile, Adaptive(), arrivals, fault, target_ns=profile.target_ns)
            answered = [i for i, how in run.outcome.items() if how is Outcome.OK]
            in_time = sum(run.ended_ns[i] - run.came_ns[i] <= profile.target_ns for i in answered)
            seconds = (arrivals[-1][0] - BEGINS_NS) / SECOND
            row[cause.value] = {
                "in_time": in_time / requests,
                "answered": len(answered) / requests,
                "failed": sum(how is Outcome.FAILED for how in run.outcome.values()),
                "failed_batches": len(run.root),
                "failed_batches_a_second": len(run.root) / seconds,
            }
        ours = row["memory"]
        row["ok"] = (
            ours["failed"] == 0
            and ours["failed_batches_a_second"] <= MOST_FAILED_A_SECOND + 3 / seconds
        )
        found[f"{spell}, load {load}"] = row
    return found
