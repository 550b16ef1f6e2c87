"""What a request costs the server's process with either transport.

A server of each, in turns on one core and with the same arrivals, below what the device can serve. What counts is
processor time, and how often a thread of the server leaves the core: latencies are those of a device that takes
time, and of a core that is not full.
"""

from __future__ import annotations

import argparse
from statistics import median
from typing import Any

import bars
import machine
import turns
from agreement import serve
from emulated import config
from poisson import arrivals_ns

from batcher.testing.server import ServerProcess

TRANSPORTS = ("builtin", "grpcio")
FIGURES = ("cpu_us", "switches", "in_time", "p99_ms")
COST_BAR = 0.6
"""The most that a request may cost with `builtin`, where it costs 1 with `grpcio`."""


def option() -> argparse.ArgumentParser:
    """That of every benchmark that starts one server."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--transport", choices=TRANSPORTS, default="builtin", help="the server's `transport`"
    )
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--rate", type=float, default=1000.0, help="requests a second")
    turns.add_options(parser, "transports", rounds=10, seconds=2.0)


async def measure(
    server: ServerProcess, seed: int, options: argparse.Namespace, cores: dict[str, int]
) -> dict[str, Any]:
    """One run."""
    due_ns = arrivals_ns(options.rate, options.seconds, seed)
    pid = server.process.pid
    cpu_s, switches = machine.cpu_seconds(pid), machine.switches(pid)
    done = await serve(server.grpc, due_ns, options, cores)
    return {
        "cpu_us": 1e6 * (machine.cpu_seconds(pid) - cpu_s) / len(due_ns),
        "switches": (machine.switches(pid) - switches) / len(due_ns),
        "in_time": done["on_time_fraction"],
        "p99_ms": done["latency_ms"]["p99"],
        "sent_late_ms": done["sent_late_ms"],
        "steal": done["steal"],
    }


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Every round of both; returns what is kept."""
    servers = {name: ServerProcess(config(name)) for name in TRANSPORTS}
    rounds = await turns.play(servers, measure, options, _line)
    found = turns.medians(rounds, FIGURES, _line)
    pairs = zip(rounds["builtin"], rounds["grpcio"], strict=True)
    cost = median(ours["cpu_us"] / theirs["cpu_us"] for ours, theirs in pairs)
    print(f"processor time by round: {cost:.3f}")
    checks = {f"a request costs at most {COST_BAR} of what it costs with grpcio": cost <= COST_BAR}
    bars.show(checks)
    asked = ("rate", "rounds", "seconds", "connections", "repeats")
    found |= {"settings": {name: getattr(options, name) for name in asked}}
    found |= {"checks": checks, "cost": cost, "rounds": rounds}
    machine.save(options.output, found)
    return found


def _line(done: dict[str, Any]) -> str:
    return (
        f"{done['cpu_us']:6.1f} us a request, {done['switches']:5.1f} switches of threads,"
        f" in time {done['in_time']:.4f}, p99 {done['p99_ms']:.1f} ms"
    )
