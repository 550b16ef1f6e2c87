"""Mixed load for minutes, and what grows.

Workers make calls of every kind, cancel them, reset streams halfway and break connections (`mixed`), while
a caller that behaves asks at a steady rate. Its latency, the server's memory and its descriptors are
compared between the first tenth of the time, after a warm-up of as much, and the last.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import bars
import machine
from attack import TARGET_MS, config, seen
from clients import Calls, Record
from payload import probe
from poisson import arrivals_ns, drive
from sending import Target
from spells import Spells
from watch import Attackers, Watch

from batcher.clock import MILLISECOND, SECOND
from batcher.testing.server import ServerProcess

GROWTH_BAR_MIB = 16.0
"""What the least memory of the last tenth may have beyond that of the first: an allocator's pieces."""

DESCRIPTORS_BAR = 16
"""Each worker has one connection, more or less, and probes come and go."""

P99_BAR = 1.5
PARTS = 11
"""A warm-up, and ten tenths."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--seconds", type=float, default=120.0, help="length, without the warm-up")
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second of the caller")
    parser.add_argument("--seed", type=int, default=0, help="of the caller's arrivals")
    parser.add_argument(
        "--output", type=Path, default=machine.RESULTS / "soak.json", help="where the figures go"
    )


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """One run; returns what is kept."""
    server_core, load_core = machine.cores()
    machine.stay_on(load_core)
    gc.freeze()
    seconds = options.seconds * PARTS / (PARTS - 1)
    due_ns = arrivals_ns(options.rate, seconds, options.seed)
    record = Record()
    cores = {"server": server_core, "load": load_core}
    with ExitStack() as stack:
        with machine.children_on(server_core):
            server = stack.enter_context(ServerProcess(config(options.transport)))
        assert server.http is not None
        load = Calls(await probe(server.grpc, "hello", 16), record, None)
        target = Target(server.grpc, server.http, seconds)
        slow = stack.enter_context(Spells(cores))
        async with Attackers("mixed", target) as workers, Watch(server) as watch:
            await load.open(server.grpc, 2)
            mixed = asyncio.create_task(workers.go())
            await drive(load, due_ns, record)
            outcomes = await mixed
    calm = slow.calm(record.began_ns, due_ns, round(TARGET_MS * MILLISECOND))
    part_ns = round(seconds * SECOND / PARTS)
    starts = [record.began_ns + number * part_ns for number in range(1, PARTS)]
    tenths = [
        asdict(seen(record, due_ns, calm, slow, watch, (start, start + part_ns)))
        for start in starts
    ]
    for number, tenth in enumerate(tenths):
        print(f"  {number + 1:2} {line(tenth)}")
    print("  workers:", ", ".join(f"{what} {count}" for what, count in sorted(outcomes.items())))
    checks = judged(tenths[0], tenths[-1], outcomes)
    bars.show(checks)
    asked = ("seconds", "rate", "seed", "transport")
    kept: dict[str, Any] = {name: getattr(options, name) for name in asked}
    document = {"settings": kept, "checks": checks, "tenths": tenths, "workers": outcomes}
    machine.save(options.output, document)
    return document


def judged(
    first: dict[str, Any], last: dict[str, Any], outcomes: dict[str, int]
) -> dict[str, bars.Held]:
    """The bars, from the first tenth and the last, and how the workers' calls ended."""
    checks: dict[str, bars.Held] = {
        f"memory grows by at most {GROWTH_BAR_MIB:g} MiB": (
            last["rss_floor_mib"] - first["rss_floor_mib"] <= GROWTH_BAR_MIB
        ),
        f"descriptors grow by at most {DESCRIPTORS_BAR}": (
            last["descriptors"] - first["descriptors"] <= DESCRIPTORS_BAR
        ),
        "every call is answered": not outcomes.get("no answer"),
        f"the last p99 is within {P99_BAR:g} times the first": (
            last["p99_ms"] <= P99_BAR * first["p99_ms"]
        ),
    }
    return checks


def line(tenth: dict[str, Any]) -> str:
    """One line for a person to read."""
    return (
        f"{tenth['rss_floor_mib']:7.1f} to {tenth['rss_mib']:7.1f} MiB, {tenth['descriptors']:3} descriptors,"
        f" probe {tenth['probe_ms']:6.1f} ms, p50 {tenth['p50_ms']:5.1f} p99 {tenth['p99_ms']:7.1f} ms,"
        f" failed {sum(tenth['failed'].values())} of {tenth['requests']}"
    )
