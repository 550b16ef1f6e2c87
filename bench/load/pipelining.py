"""What a device serves while it copies one batch and computes another, and while it does one at a time.

Two servers in turns on one core, with the same arrivals, more than can be served, so that batches are
full: one pipelines batches, the other has `pipelining: false`. Of the first, a batch should take what the
longer of copying and computing takes; of the other, the sum.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import bars
import machine
import turns
from agreement import serve
from emulated import Figures, Grown
from poisson import arrivals_ns

from batcher.testing.server import ServerProcess

COPY_MS, BASE_MS, ROW_MS, MOST_ROWS = 2.0, 3.0, 0.2, 32
CAPACITY = 1e3 * MOST_ROWS / (BASE_MS + ROW_MS * MOST_ROWS)
"""Rows a second where the copy costs nothing."""
LOAD = 1.3
"""More than can be served, so that there always is a backlog; the rest is refused."""
WARMUP_S, LAST_S = 2.0, 0.2
"""Seconds of the load before and after what is measured."""
BAR = 0.93
"""The least part of what the device allows by its own times; of the server that does one thing at a time,
of what the sum of both allows."""
FIGURES = ("batch_ms", "of_device", "rows", "rows_per_second", "p99_ms", "busy")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--rows", type=int, default=8, help="rows in a request")
    turns.add_options(parser, "pipelining", rounds=3, seconds=6.0)


def config(transport: str, *, pipelining: bool) -> dict[str, Any]:
    """One emulated device that copies batches."""
    return {
        "server": {"transport": transport},
        "models": [
            {
                "name": "hello",
                "executor": "emulated",
                "pipelining": pipelining,
                "options": {
                    "copy": f"{COPY_MS:g}ms",
                    "base": f"{BASE_MS:g}ms",
                    "per_row": f"{ROW_MS:g}ms",
                    "columns": 16,
                },
                "batching": {"max_batch_size": MOST_ROWS, "target_p99": "100ms"},
            }
        ],
    }


async def measure(
    server: ServerProcess, seed: int, options: argparse.Namespace, cores: dict[str, int]
) -> dict[str, Any]:
    """One run: what a batch took, and what part that is of what the device would allow."""
    assert server.http is not None
    rate = LOAD * CAPACITY / options.rows
    due_ns = arrivals_ns(rate, WARMUP_S + options.seconds, seed)
    sending = asyncio.create_task(serve(server.grpc, due_ns, options, cores, options.rows))
    # Both moments are in the middle of the load: there is a backlog all the time between them.
    await asyncio.sleep(WARMUP_S)
    before = await asyncio.to_thread(Figures, server.http)
    await asyncio.sleep(options.seconds - LAST_S)
    after = await asyncio.to_thread(Figures, server.http)
    done = await sending
    grown = Grown(before, after)
    batches = grown("batcher_batch_rows_count")
    rows = grown("batcher_batch_rows_sum") / batches
    batch_ms = 1e3 * grown.seconds / batches
    computes_ms = BASE_MS + ROW_MS * rows
    return {
        "batch_ms": batch_ms,
        "of_device": max(COPY_MS, computes_ms) / batch_ms,
        "of_sum": (COPY_MS + computes_ms) / batch_ms,
        "rows": rows,
        "busy": grown("batcher_executor_busy_seconds_total") / grown.seconds,
        "rows_per_second": grown("batcher_batch_rows_sum") / grown.seconds,
        "p99_ms": done["latency_ms"]["p99"],
        "sent_late_ms": done["sent_late_ms"],
        "steal": done["steal"],
    }


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Every round of both servers; returns what is kept."""
    servers = {
        "pipelined": ServerProcess(config(options.transport, pipelining=True)),
        "in turn": ServerProcess(config(options.transport, pipelining=False)),
    }
    rounds = await turns.play(servers, measure, options, _line)
    found = turns.medians(rounds, (*FIGURES, "of_sum"), _line)
    pipelined, alone = found["pipelined"], found["in turn"]
    more = pipelined["rows_per_second"] / alone["rows_per_second"]
    print(f"{more:.3f} x as many rows")
    checks: dict[str, bars.Held] = {
        f"pipelined, at least {BAR} of what the longer of both allows": pipelined["of_device"]
        >= BAR,
        f"in turn, at least {BAR} of what the sum of both allows": alone["of_sum"] >= BAR,
        "a device is busy for no longer than there is": max(pipelined["busy"], alone["busy"])
        <= 1.01,
    }
    bars.show(checks)
    asked = ("rounds", "seconds", "rows", "connections", "repeats", "transport")
    kept = {name: getattr(options, name) for name in asked}
    found |= {"settings": kept, "checks": checks, "rows_ratio": more, "rounds": rounds}
    machine.save(options.output, found)
    return found


def _line(done: dict[str, Any]) -> str:
    return (
        f"{done['batch_ms']:6.3f} ms for a batch of {done['rows']:4.1f} rows,"
        f" {done['of_device']:.3f} of the longer, {done['of_sum']:.3f} of the sum,"
        f" {done['rows_per_second']:6.1f} rows a second, busy {done['busy']:.3f},"
        f" p99 {done['p99_ms']:.1f} ms"
    )
