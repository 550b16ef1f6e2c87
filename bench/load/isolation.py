"""What it costs to run an executor in a child process: the same model with each `isolation`, in turns.

One caller, and a model that costs nothing: the time from call to answer. Several callers with large
inputs: answers a second. All figures are ratios to `thread`, of rounds that follow one another.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import bars
import grpc
import machine
from closed import LOCAL, ClosedLoop, connections
from payload import UNARY, Payload, probe

from batcher.testing.server import ServerProcess

KINDS = ("inline", "thread", "process")
SMALL, LARGE = "small", "large"
LATENCY_BAR = 1.6
"""The most that the median of a call may take with `process`, where it takes 1 with `thread`."""

THROUGHPUT_BAR = 0.8
"""The least of `thread`'s answers a second with large inputs."""


@dataclass(slots=True)
class Kind:
    """A server, and what its rounds have measured."""

    name: str
    server: ServerProcess
    payloads: dict[str, Payload] = field(default_factory=dict)
    p50_us: list[float] = field(default_factory=list)
    p99_us: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--rounds", type=int, default=10, help="rounds of all three")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a round")
    parser.add_argument("--floats", type=int, default=16, help="values of the small request")
    parser.add_argument("--large", type=int, default=262144, help="values of the large one")
    parser.add_argument("--in-flight", type=int, default=4, help="large requests open at once")
    parser.add_argument(
        "--output",
        type=Path,
        default=machine.RESULTS / "isolation.json",
        help="where the figures go",
    )


def config(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """Two models whose batches take no time."""
    columns = {SMALL: options.floats, LARGE: options.large}
    models = [
        {
            "name": name,
            "executor": "emulated",
            "isolation": kind,
            "options": {"columns": columns[name]},
            "batching": {"policy": "none"},
        }
        for name in (SMALL, LARGE)
    ]
    return {"models": models}


def one_caller(address: str, payload: Payload, seconds: float) -> list[float]:
    """The times of calls that follow one another, in microseconds."""
    took: list[float] = []
    with grpc.insecure_channel(address, options=LOCAL) as channel:
        call = channel.unary_unary(UNARY)
        call(payload.request)
        ends = time.perf_counter() + seconds
        while (began := time.perf_counter()) < ends:
            call(payload.request)
            took.append(1e6 * (time.perf_counter() - began))
    return took


async def measure(kind: Kind, options: argparse.Namespace) -> None:
    """One round of both parts."""
    address = kind.server.grpc
    took = await asyncio.to_thread(one_caller, address, kind.payloads[SMALL], options.seconds)
    kind.p50_us.append(median(took))
    kind.p99_us.append(quantiles(took, n=100)[98])
    loop = ClosedLoop(kind.payloads[LARGE], options.seconds)
    async with connections(address, options.in_flight) as channels:
        done = await loop.unary(channels, kind.server.process.pid, options.in_flight)
    if done.failed:
        raise SystemExit(f"{kind.name}: {done.failed.most_common(3)}")
    kind.per_second.append(done.per_second)


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Every round of all three; returns what is kept."""
    with ExitStack() as stack:
        kinds = [
            Kind(name, stack.enter_context(ServerProcess(config(name, options)))) for name in KINDS
        ]
        for kind in kinds:
            for name, floats in ((SMALL, options.floats), (LARGE, options.large)):
                kind.payloads[name] = await probe(kind.server.grpc, name, floats)
        for turn in range(options.rounds):
            for kind in kinds if turn % 2 == 0 else reversed(kinds):
                await measure(kind, options)
                line = f"p50 {kind.p50_us[-1]:6.0f} us, {kind.per_second[-1]:6.0f} large a second"
                print(f"round {turn + 1:2}  {kind.name:8}  {line}", flush=True)
    return report({kind.name: kind for kind in kinds}, options)


def report(kinds: dict[str, Kind], options: argparse.Namespace) -> dict[str, Any]:
    """Print the medians and the ratios; return what is kept."""
    thread = kinds["thread"]
    found: dict[str, Any] = {}
    for name, kind in kinds.items():
        found[name] = {
            "p50_us": round(median(kind.p50_us), 1),
            "p99_us": round(median(kind.p99_us), 1),
            "large_per_second": round(median(kind.per_second), 1),
            "p50_ratio": round(_ratio(kind.p50_us, thread.p50_us), 3),
            "large_ratio": round(_ratio(kind.per_second, thread.per_second), 3),
        }
        print(f"{name:8}", ", ".join(f"{key} {value}" for key, value in found[name].items()))
    process = found["process"]
    checks: dict[str, bars.Held] = {
        f"p50 with process is at most {LATENCY_BAR} times that with thread": process["p50_ratio"]
        <= LATENCY_BAR,
        f"large inputs: at least {THROUGHPUT_BAR} of thread's answers": process["large_ratio"]
        >= THROUGHPUT_BAR,
    }
    bars.show(checks)
    asked = ("rounds", "seconds", "floats", "large", "in_flight")
    found |= {"settings": {name: getattr(options, name) for name in asked}, "checks": checks}
    machine.save(options.output, found)
    return found


def _ratio(ours: list[float], theirs: list[float]) -> float:
    """The median of the ratios of rounds that followed one another."""
    return median(mine / other for mine, other in zip(ours, theirs, strict=True))
