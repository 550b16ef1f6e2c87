"""A server whose core other processes keep busy: what it refuses then, beside a fixed window.

Two servers in turns on one core, with the same arrivals, at 40 % of what the device could serve. Three
processes on that core do nothing but use it, so that the loop, the dispatch of batches and the reports of
their ends all stall. The device itself does not: what is refused is refused for noise.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import bars
import machine
import turns
from agreement import serve
from emulated import CAPACITY, Figures, Grown, config
from poisson import arrivals_ns

from batcher.testing.server import ServerProcess

LOAD = 0.4
SPINNERS = 3
WARMUP_S = 2.0
MOST_REFUSED = 0.005
SPIN = "import sys, time\nend = time.monotonic() + float(sys.argv[1])\nwhile time.monotonic() < end: pass"
"""Ends by itself, should this process be killed."""

FIGURES = ("refused", "in_time", "p99_ms", "busy")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--load", type=float, default=LOAD, help="share of the device's capacity")
    parser.add_argument("--spinners", type=int, default=SPINNERS, help="processes on its core")
    turns.add_options(parser, "busy", rounds=3, seconds=15.0)


@contextmanager
def spinning(count: int, core: int, seconds: float) -> Iterator[None]:
    """Inside, so many processes keep a core busy."""
    command = [sys.executable, "-c", SPIN, str(seconds)]
    with machine.children_on(core):
        spinners = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


async def measure(
    server: ServerProcess, seed: int, options: argparse.Namespace, cores: dict[str, int]
) -> dict[str, Any]:
    """One run: what was refused and what was late of the requests sent while the core was busy."""
    assert server.http is not None
    rate = options.load * CAPACITY
    longest_s = 2 * (options.seconds + WARMUP_S) + 60
    with spinning(options.spinners, cores["server"], longest_s):
        await serve(server.grpc, arrivals_ns(rate, WARMUP_S, seed + 1000), options, cores)
        before = Figures(server.http)
        done = await serve(server.grpc, arrivals_ns(rate, options.seconds, seed), options, cores)
        grown = Grown(before, Figures(server.http))
    failed = sum(done["failed"].values())
    return {
        "refused": failed / done["requests"],
        "failed": done["failed"],
        "in_time": done["on_time"] / done["requests"],
        "p99_ms": done["latency_ms"]["p99"],
        "longest_ms": done["latency_ms"]["max"],
        "busy": grown("batcher_executor_busy_seconds_total") / grown.seconds,
        "sent_late_ms": done["sent_late_ms"],
        "steal": done["steal"],
    }


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Every round of both servers; returns what is kept."""
    fixed = config(options.transport)
    fixed["models"][0]["batching"] |= {"policy": "fixed", "max_queue_delay": "2ms"}
    del fixed["models"][0]["batching"]["target_p99"]
    servers = {
        "adaptive": ServerProcess(config(options.transport)),
        "fixed": ServerProcess(fixed),
    }
    rounds = await turns.play(servers, measure, options, _line)
    found = turns.medians(rounds, FIGURES, _line)
    worst = max(each["refused"] for each in rounds["adaptive"])
    checks = {f"at most {MOST_REFUSED:.1%} refused, in every round": worst <= MOST_REFUSED}
    bars.show(checks)
    asked = ("rounds", "seconds", "load", "spinners", "connections", "repeats", "transport")
    kept = {name: getattr(options, name) for name in asked}
    found |= {"settings": kept, "checks": checks, "rounds": rounds}
    machine.save(options.output, found)
    return found


def _line(done: dict[str, Any]) -> str:
    return (
        f"{done['refused']:7.3%} refused, {done['in_time']:7.2%} in time, p99 {done['p99_ms']:6.1f} ms,"
        f" device {done['busy']:.0%} busy"
    )
