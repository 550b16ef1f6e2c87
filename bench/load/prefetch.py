"""How long a device waits between two batches under a backlog, with and without prefetching.

Two servers in turns on one core, with the same arrivals: one whose instances get the next full batch
before they are free, and one whose instances get it when they are. Requests have several rows, so
that it is not the server's processor time that counts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bars
import machine
import turns
from agreement import serve
from emulated import BASE_MS, CAPACITY, ROW_MS, Figures, config
from poisson import arrivals_ns

from batcher.testing.server import ServerProcess

PROGRAMS: dict[str, Sequence[str]] = {
    "prefetch": (sys.executable, "-m", "batcher"),
    "one by one": (sys.executable, str(Path(__file__).with_name("one_by_one.py"))),
}
LOAD = 1.15
"""More than can be served, so that there always is a backlog; the rest is refused."""

FIGURES = ("gap_ms", "in_time_per_second", "rows", "answered_per_second", "p99_ms")
WARMUP_S = 2.0
GAP_BAR = 0.5
"""The most that may be left of the wait between two batches."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--rows", type=int, default=4, help="rows in a request")
    turns.add_options(parser, "prefetch", rounds=3, seconds=6.0)


async def measure(
    server: ServerProcess, seed: int, options: argparse.Namespace, cores: dict[str, int]
) -> dict[str, Any]:
    """One run: milliseconds between two batches, and requests in time a second."""
    assert server.http is not None
    rate = LOAD * CAPACITY / options.rows
    warmup_ns = arrivals_ns(rate, WARMUP_S, seed + 1000)
    await serve(server.grpc, warmup_ns, options, cores, options.rows)
    before = Figures(server.http)
    due_ns = arrivals_ns(rate, options.seconds, seed)
    done = await serve(server.grpc, due_ns, options, cores, options.rows)
    after = Figures(server.http)

    def grown(name: str) -> float:
        return after(name) - before(name)

    batches = grown("batcher_batch_rows_count")
    rows = grown("batcher_batch_rows_sum") / batches
    return {
        "gap_ms": 1e3 * options.seconds / batches - BASE_MS - ROW_MS * rows,
        "in_time_per_second": done["on_time"] / options.seconds,
        "rows": rows,
        "answered_per_second": done["answered"] / options.seconds,
        "p99_ms": done["latency_ms"]["p99"],
        "sent_late_ms": done["sent_late_ms"],
        "steal": done["steal"],
    }


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Every round of both servers; returns what is kept."""
    servers = {
        name: ServerProcess(config(options.transport), program=program)
        for name, program in PROGRAMS.items()
    }
    rounds = await turns.play(servers, measure, options, _line)
    found = turns.medians(rounds, FIGURES, _line)
    prefetched, alone = found["prefetch"], found["one by one"]
    left = prefetched["gap_ms"] / alone["gap_ms"]
    more = prefetched["in_time_per_second"] / alone["in_time_per_second"]
    print(f"of the wait {left:.2f} is left; in time {more:.3f} x as many")
    checks = {f"at most {GAP_BAR} of the wait is left": left <= GAP_BAR}
    bars.show(checks)
    asked = ("rounds", "seconds", "rows", "connections", "repeats", "transport")
    kept = {name: getattr(options, name) for name in asked}
    found |= {"settings": kept, "checks": checks, "gap_left": left, "in_time_ratio": more}
    found["rounds"] = rounds
    machine.save(options.output, found)
    return found


def _line(done: dict[str, Any]) -> str:
    return (
        f"{done['gap_ms']:6.3f} ms between batches of {done['rows']:4.1f} rows,"
        f" {done['in_time_per_second']:6.1f} in time a second"
        f" of {done['answered_per_second']:.1f}, p99 {done['p99_ms']:.1f} ms"
    )
