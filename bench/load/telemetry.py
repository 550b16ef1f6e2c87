"""What metrics, the load report, the live page and tracing cost, on the benchmark of a model that costs nothing.

Servers in turns on one core, under a closed loop from another:

- off      nothing is read, nothing is traced
- on       everything is read: `/metrics` each second in both formats, with Triton's names; the load report and ORCA's
           each second; viewers of the live page; statistics of a GPU, from a library that is not NVIDIA's;
           a budget
- traced   as on, and one request of a hundred is traced and sent to a collector
- before   with --before: another checkout, for what telemetry costs when it is off
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import bars
import machine
import overhead
from overhead import MODEL, Target
from payload import Payload, probe

from batcher.testing.server import ServerProcess, free_address

HERE = Path(__file__).parent
FAKE_NVML = HERE.parents[1] / "tests" / "fake_nvml" / "path"
ON_BAR = 0.95
"""The least throughput with all telemetry, where it is 1 without."""
TRACED_BAR = 0.97
"""The least with one request of a hundred traced, where it is 1 with all other telemetry."""
OFF_BAR = 0.98
"""The least with nothing read, where it is 1 before: no more than rounds differ."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--rounds", type=int, default=10, help="rounds of each server")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a round")
    parser.add_argument("--in-flight", type=int, default=256, help="requests open at once")
    parser.add_argument("--viewers", type=int, default=5, help="viewers of the live page")
    parser.add_argument("--sample", type=float, default=0.01, help="share of requests traced")
    parser.add_argument("--before", type=Path, help="another checkout, without this telemetry")
    parser.add_argument("--only", nargs="+", help="these servers alone")
    parser.add_argument(
        "--output",
        type=Path,
        default=machine.RESULTS / "telemetry.json",
        help="where the figures go",
    )
    parser.set_defaults(max_batch_size=128, max_delay="10ms")


def configs(options: argparse.Namespace, collector: str) -> dict[str, dict[str, Any]]:
    """The servers' configurations."""
    off = overhead.config(options)
    (model,) = off["models"]
    model["batching"]["target_p99"] = "1s"
    budget = {"admission": "100ms", "queue": "400ms", "execute": "300ms"}
    on = off | {
        "metrics": {"triton_names": True},
        "devices": {"cpu": {"gpu": 0, "max_in_flight": 1}},
        "models": [model | {"budget": budget}],
    }
    tracing = {"endpoint": f"http://{collector}", "sample_ratio": options.sample}
    return {"off": off, "on": on, "traced": on | {"tracing": tracing}}


@contextmanager
def child(script: str, *arguments: str) -> Iterator[None]:
    """A program beside this one that has said that it is ready."""
    command = [sys.executable, str(HERE / script), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                sys.exit(f"{script} did not start")
            yield
            if process.poll() is not None:
                sys.exit(f"{script} has ended")
        finally:
            process.terminate()


async def measure(
    target: Target, server: ServerProcess, payload: Payload, options: argparse.Namespace
) -> overhead.Round:
    """One round, with everything read but of servers that are off."""
    read = target.name in {"on", "traced"}
    asked = str(server.http), server.grpc, str(options.viewers)
    with child("watchers.py", *asked) if read else nullcontext():
        return await overhead.measure(target, payload, options.seconds, options)


def against(ours: Target, base: Target, of: str) -> float:
    """Throughput, or answers for the same processor time, over that of the base: the median of rounds."""
    pairs = zip(ours.rounds, base.rounds, strict=True)
    if of == "throughput":
        return median(mine.per_second / theirs.per_second for mine, theirs in pairs)
    return median(theirs.cpu_us / mine.cpu_us for mine, theirs in pairs)


def report(targets: dict[str, Target]) -> dict[str, Any]:
    """Print the table; return what is kept."""
    print(f"\n{'':10}{'per second':>12}{'cpu us each':>13}{'server busy':>13}{'load busy':>11}")
    for target in targets.values():
        figures = f"{target.per_second:12.0f}{target.cpu_us:13.1f}"
        print(f"{target.name:10}{figures}{target.server_busy:13.2f}{target.load_busy:11.2f}")
    found: dict[str, Any] = {"checks": {}}
    for name, base, bar in (
        ("on", "off", ON_BAR),
        ("traced", "on", TRACED_BAR),
        ("off", "before", OFF_BAR),
    ):
        if name not in targets or base not in targets:
            continue
        ours, theirs = targets[name], targets[base]
        ratios = {of: against(ours, theirs, of) for of in ("throughput", "cpu time")}
        shown = ", ".join(f"{ratio:.3f} by {of}" for of, ratio in ratios.items())
        print(f"{name} over {base}: {shown} (medians of rounds)")
        # The load shares its core with what reads: where it held a server up, throughput says nothing.
        busy = min(ours.server_busy, theirs.server_busy) >= overhead.SATURATED
        of = "throughput" if busy else "cpu time"
        found["checks"][f"{name} has {bar} of {base}, by {of}"] = ratios[of] >= bar
        found[f"{name} over {base}"] = {of: round(ratio, 4) for of, ratio in ratios.items()}
    bars.show(found["checks"])
    for target in targets.values():
        found[target.name] = {
            "per_second": round(target.per_second, 1),
            "cpu_us_each": round(target.cpu_us, 2),
            "server_busy": round(target.server_busy, 3),
            "load_busy": round(target.load_busy, 3),
            "rounds": [[round(r.per_second), round(r.cpu_us, 2)] for r in target.rounds],
        }
    return found


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Every round of each; returns what is kept."""
    server_core, load_core = machine.cores()
    machine.stay_on(load_core)
    with ExitStack() as stack:
        collector = free_address()
        documents = configs(options, collector)
        path = os.pathsep.join([str(FAKE_NVML), os.environ.get("PYTHONPATH", "")])
        servers = {
            name: ServerProcess(document, environ={"PYTHONPATH": path})
            for name, document in documents.items()
        }
        if options.before is not None:
            servers["before"] = ServerProcess(
                documents["off"],
                environ={"PYTHONPATH": str(options.before.resolve())},
                program=(sys.executable, "-P", "-m", "batcher"),  # not from this folder
            )
        if options.only:
            servers = {name: server for name, server in servers.items() if name in options.only}
        if "traced" in servers:
            stack.enter_context(child("sink.py", collector))
        with machine.children_on(server_core):
            for server in servers.values():
                stack.enter_context(server)
        targets = {
            name: Target(name, server.grpc, server.process.pid) for name, server in servers.items()
        }
        payload = await probe(next(iter(servers.values())).grpc, MODEL, options.floats)
        for target in targets.values():
            await overhead.measure(target, payload, 1.0, options)  # warm from here on
        for turn in range(options.rounds):
            # The order changes with each round, so that a drifting machine favors no server.
            names = list(targets)[turn % len(targets) :] + list(targets)[: turn % len(targets)]
            for name in names:
                done = await measure(targets[name], servers[name], payload, options)
                targets[name].rounds.append(done)
                print(
                    f"round {turn + 1}  {name:8}{done.per_second:8.0f} per second"
                    f"{done.cpu_us:8.1f} us each"
                )
                await asyncio.sleep(0)
    found = report(targets)
    asked = ("rounds", "seconds", "in_flight", "connections", "viewers", "sample", "transport")
    found["settings"] = {name: getattr(options, name) for name in asked}
    machine.save(options.output, found)
    return found
