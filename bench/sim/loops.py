"""Callers in a closed loop on a model with several padding buckets."""

from __future__ import annotations

import argparse
import statistics
from typing import Any, Final

import figures
import lengths
import numpy as np
import world

from batcher.clock import MILLISECOND, SECOND
from batcher.core.commands import Command, Dispatch, Outcome, Settle
from batcher.core.events import InstanceUp, ModelConfigured, RequestArrived
from batcher.core.scheduler import Scheduler
from batcher.core.settings import Adaptive, FixedWindow, ModelSettings, PaddedAxis
from batcher.simulation import Driver
from batcher.simulation.policies.named import NamedPolicy, parse_policy

CALLERS: Final = (10, 20, 50, 100, 200)
BUCKETS: Final = (16, 32, 64, 256)
DEVICE: Final = "both cost"
FIRST_COME: Final = parse_policy("fixed:2ms")
LONGEST: Final = 2.0
"""How much longer than with a fixed window of 2 ms the longest wait may be."""

RETRY_NS: Final = MILLISECOND
"""After this a caller comes back that was refused without a time to wait."""


def loops(options: argparse.Namespace) -> dict[str, Any]:
    """10 to 200 callers that wait for their answers, beside a fixed window of 2 ms."""
    return {f"{callers} callers": _row(callers, options) for callers in CALLERS}


def _row(callers: int, options: argparse.Namespace) -> dict[str, Any]:
    ours, theirs = (
        [_played(policy, callers, options.requests, seed) for seed in range(options.seeds)]
        for policy in (figures.ADAPTIVE, FIRST_COME)
    )
    refused = statistics.fmean(each["refused"] for each in ours)
    ratios = {
        name: [a[name] / b[name] for a, b in zip(ours, theirs, strict=True)]
        for name in ("longest", "p99", "rate")
    }
    return {
        "refused": refused,
        "longest_ms": max(each["longest"] for each in ours),
        "longest_ratio": max(ratios["longest"]),
        "p99_ratio": statistics.fmean(ratios["p99"]),
        "throughput_ratio": statistics.fmean(ratios["rate"]),
        "ok": refused == 0 and max(ratios["longest"]) <= LONGEST,
    }


def _played(policy: NamedPolicy, callers: int, requests: int, seed: int) -> dict[str, float]:
    """One loop: the refused share, answers a second, the longest wait and its p99 in milliseconds."""
    of_request = lengths.lengths_of(requests, seed).tolist()
    scheduler = Scheduler(policy.factory)
    sent_ns: list[int] = []
    waited_ns: list[int] = []
    refused = 0

    def send(at_ns: int) -> None:
        place = len(sent_ns)
        if place < requests:
            sent_ns.append(at_ns)
            shapes = ((of_request[place],),)
            driver.post(at_ns, RequestArrived(place, "m", 1, 0, shapes, "", at_ns))

    def observe(now_ns: int, commands: list[Command]) -> None:
        nonlocal refused
        for command in commands:
            if type(command) is not Settle:
                continue
            wait_ns = 0
            if command.outcome is Outcome.OK:
                waited_ns.extend(now_ns - sent_ns[i] for i in command.ids)
            else:
                refused += len(command.ids)
                wait_ns = command.retry_after_ns or RETRY_NS
            for _ in command.ids:
                send(now_ns + wait_ns)

    def service(dispatch: Dispatch) -> int:
        return lengths.takes_ns(DEVICE, dispatch.bucket[0][0], len(dispatch.parts))

    driver = Driver(scheduler, service, observe=observe)
    asked = ModelSettings(
        lengths.MAX_ROWS,
        FixedWindow() if policy is FIRST_COME else Adaptive(),
        target_ns=lengths.TARGET_NS,
        padding=(PaddedAxis(0, 1, BUCKETS),),
    )
    profiles = tuple(
        (
            ((length,),),
            tuple((rows, lengths.takes_ns(DEVICE, length, rows)) for rows in world.WARMUP),
        )
        for length in BUCKETS
    )
    up = InstanceUp("m#0", 1, "m", "d", 1, (), profiles)
    driver.step([ModelConfigured("m", policy.settings(asked)), up], 0)
    for _ in range(callers):
        send(0)
    driver.run(())
    return {
        "refused": refused / len(sent_ns),
        "rate": len(waited_ns) * SECOND / scheduler.now_ns,
        "longest": max(waited_ns) / MILLISECOND,
        "p99": float(np.percentile(waited_ns, 99)) / MILLISECOND,
    }
