"""Measure the event log: `python bench/replay speed`, `overhead`, `whatif`."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

BENCH = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(BENCH / "load"), str(BENCH)]

import bars  # noqa: E402
import machine  # noqa: E402
import overhead  # noqa: E402
import poisson  # noqa: E402
import quiet  # noqa: E402
import transports  # noqa: E402
from clients import Calls, Record  # noqa: E402
from payload import probe  # noqa: E402

from batcher.clock import MILLISECOND, SECOND  # noqa: E402
from batcher.core.queueing.request import NEVER_NS  # noqa: E402
from batcher.core.settings import Adaptive, ModelSettings  # noqa: E402
from batcher.journal import Segment, read_log  # noqa: E402
from batcher.simulation.compare.experiment import Cell  # noqa: E402
from batcher.simulation.compare.report import summarize  # noqa: E402
from batcher.simulation.engine.deployment import Deployment, SimulatedModel  # noqa: E402
from batcher.simulation.engine.driver import Driver  # noqa: E402
from batcher.simulation.engine.service_time import Devices, linear  # noqa: E402
from batcher.simulation.logs.replay import replay  # noqa: E402
from batcher.simulation.logs.stretch import Samples, stretches  # noqa: E402
from batcher.simulation.logs.variants import variants  # noqa: E402
from batcher.simulation.logs.whatif import REPLAYED, Variant, WhatIf  # noqa: E402
from batcher.simulation.policies.named import parse_policy  # noqa: E402
from batcher.simulation.traffic.workload import Mix, Traffic, Workload  # noqa: E402
from batcher.testing.recording import RecordedScheduler  # noqa: E402
from batcher.testing.server import ServerProcess  # noqa: E402

MODEL = "hello/1"

SPEED_BAR_S = 2.0
"""A minute at 1,000 requests a second is replayed in less, from each of its segments on."""

COST_BAR = 0.03
"""The most processor time that recording adds to a request's."""

CALM = 25
"""The percentile of a target's rounds that is what an answer costs when nothing disturbs it."""

P99_BAR = 0.15
"""How far the p99 of a what-if may be from the real one, as a share of that."""

MOVED = 0.25
"""The p99 must change by this in one of the cases, because predicting no change is too easy."""


def record_minute(folder: Path, rate: float, seconds: float, seed: int) -> float:
    """A Poisson stream in virtual time, recorded in segments of 10 s; returns what it took."""
    draw = np.random.default_rng(seed)
    at_ns = np.cumsum(draw.exponential(SECOND / rate, int(rate * seconds))).astype(np.int64)
    settings = ModelSettings(32, Adaptive(limit_ns=1_000_000_000), target_ns=50 * MILLISECOND)
    model = SimulatedModel(MODEL, settings, linear(5 * MILLISECOND, MILLISECOND // 2, 32))
    deployment = Deployment((model,), {"device": 1})
    workload = Workload.of(at_ns, Traffic(Mix((MODEL,), (1.0,))), draw)
    began = time.monotonic()
    with RecordedScheduler(folder, segment_ns=10 * SECOND) as scheduler:
        devices = Devices(
            curves={MODEL: model.curve},
            device_of={f"{MODEL}#0": "device"},
            exclusive=frozenset(),
            noise={},
            slowdowns=(),
            draw=draw,
            clock=lambda: scheduler.now_ns,
        )
        driver = Driver(scheduler, devices, observe=lambda _now, _commands: None)
        driver.step(list(deployment.events()), 0)
        driver.run(workload.events())
    return time.monotonic() - began


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Replay of a recorded minute, from each of its segments on."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recorded_s = record_minute(folder, options.rate, options.seconds, options.seed)
        began = time.monotonic()
        segments = read_log(folder).segments
        index_s = time.monotonic() - began
        rows = []
        for place in range(len(segments)):
            best = min(_replayed(segments[place:]) for _ in range(options.rounds))
            rows.append({"segment": place, "seconds": round(best, 3)})
            held = bars.mark(best < SPEED_BAR_S)
            print(f"from segment {place}: {best:.3f} s, identical  {held}")
        size = sum(file.stat().st_size for file in folder.iterdir())
        command = time.monotonic()
        code = asyncio.run(_command(folder))
        command_s = time.monotonic() - command
    print(f"`batcher replay` of all, start included: {command_s:.2f} s, exit code {code}")
    checks = {
        f"from each segment on in less than {SPEED_BAR_S:g} s": all(
            row["seconds"] < SPEED_BAR_S for row in rows
        ),
        "`batcher replay` says that all is identical": code == 0,
    }
    bars.show(checks)
    return {
        "checks": checks,
        "requests": sum(each.requests for each in segments),
        "bytes_a_request": round(size / sum(each.requests for each in segments), 1),
        "recorded_seconds": round(recorded_s, 3),
        "index_seconds": round(index_s, 3),
        "command_seconds": round(command_s, 3),
        "replay_from": rows,
    }


def _replayed(segments: Sequence[Segment]) -> float:
    began = time.monotonic()
    found = replay(segments)
    if found.first is not None or found.faults:
        sys.exit(f"not identical: {found.first} {found.faults}")
    return time.monotonic() - began


async def _command(folder: Path) -> int:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "batcher", "replay", str(folder)),
        stdout=asyncio.subprocess.DEVNULL,
    )
    return await process.wait()


def cost(options: argparse.Namespace) -> dict[str, Any]:
    """Processor time of an answer with and without the journal, in turns on one core."""
    return asyncio.run(_cost(options))


async def _cost(options: argparse.Namespace) -> dict[str, Any]:
    server_core, load_core = machine.cores()
    machine.stay_on(load_core)
    plain = overhead.config(options)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        recorded = plain | {"journal": {"folder": str(folder / "journal")}}
        if options.flight_recorder:
            recorded["flight_recorder"] = {"folder": str(folder / "incidents")}
        targets = []
        with machine.children_on(server_core):
            # Two that are alike say how much of a difference is chance.
            for name, config in (("plain", plain), ("again", plain), ("recorded", recorded)):
                server = stack.enter_context(ServerProcess(config))
                targets.append(overhead.Target(name, server.grpc, server.process.pid))
        payload = await probe(targets[0].address, overhead.MODEL, options.floats)
        for target in targets:
            await overhead.measure(target, payload, 1.0, options)
        for turn in range(options.rounds):
            for target in targets if turn % 2 == 0 else reversed(targets):
                before_ns = _cpu_ns(target.pid)
                done = await overhead.measure(target, payload, options.seconds, options)
                done.server_cpu = (_cpu_ns(target.pid) - before_ns) / SECOND
                target.rounds.append(done)
    ratios, chance = (_ratios(targets[0], other) for other in (targets[2], targets[1]))
    plain_us, again_us, recorded_us = (_calm_us(target) for target in targets)
    cost, nothing = (each_us / plain_us - 1 for each_us in (recorded_us, again_us))
    for target in targets:
        print(f"{target.name:9} {target.cpu_us:7.2f} us an answer, {target.per_second:6.0f}/s")
    for name, share, each in (("recording", cost, ratios), ("nothing", nothing, chance)):
        print(
            f"{name} costs {share:.1%} in calm rounds, round by round {median(each):.1%}"
            f" ({min(each):.1%} to {max(each):.1%})"
        )
    checks = {f"recording costs at most {COST_BAR:.0%} more": median(ratios) <= COST_BAR}
    bars.show(checks)
    return {
        "checks": checks,
        "cost": round(median(ratios), 4),
        "cost_of_nothing": round(median(chance), 4),
        "cost_in_calm_rounds": round(cost, 4),
        "cost_of_nothing_in_calm_rounds": round(nothing, 4),
        "cost_of_rounds": [round(ratio, 4) for ratio in ratios],
        **{target.name: {"cpu_us_each": round(target.cpu_us, 2)} for target in targets},
        "per_second": {target.name: round(target.per_second, 1) for target in targets},
        "in_flight": options.in_flight,
        "streams": options.streams,
    }


def _cpu_ns(pid: int) -> int:
    """Processor time of all threads of a process, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir())


def _calm_us(target: overhead.Target) -> float:
    """What an answer costs in calm rounds: a round that something disturbs costs more, not less."""
    return float(np.percentile([each.cpu_us for each in target.rounds], CALM))


def _ratios(one: overhead.Target, other: overhead.Target) -> list[float]:
    """By how much the other needs more, round by round."""
    pairs = zip(one.rounds, other.rounds, strict=True)
    return [theirs.cpu_us / ours.cpu_us - 1 for ours, theirs in pairs]


def whatif(options: argparse.Namespace) -> dict[str, Any]:
    """What-ifs from one real run, each against another real run under those settings."""
    return asyncio.run(_whatif(options))


async def _whatif(options: argparse.Namespace) -> dict[str, Any]:
    server_core, load_core = machine.cores()
    cores = {"server": server_core, "load": load_core}
    machine.stay_on(load_core)
    with tempfile.TemporaryDirectory() as name:
        runs = {
            target: await quiet.until_quiet(
                partial(_real, options, target, Path(name), cores), options.repeats
            )
            for target in (options.target, *options.other)
        }
        found = {
            f"{options.target} to {other}": _case(
                runs[options.target][-1], runs[other][-1], other, options.seed
            )
            for other in options.other
        }
    checks = {f"p99 moves by {MOVED:.0%} in one case at least": _moved(list(found.values()))}
    bars.show(checks)
    repeats = {target: len(tries) - 1 for target, tries in runs.items()}
    return {"checks": checks, "repeats": repeats, **found}


def _moved(cases: Sequence[dict[str, Any]]) -> bars.Held:
    """Whether the p99 of a judged case moved; else why that cannot be judged."""
    late = [case["ok"] for case in cases if isinstance(case["ok"], str)]
    told = [abs(case["p99_moved"]) for case in cases if not isinstance(case["ok"], str)]
    held = max(told, default=0.0) >= MOVED
    return late[0] if late and not held else held


def _case(first: dict[str, Any], second: dict[str, Any], other: str, seed: int) -> dict[str, Any]:
    """What a log predicts for other settings, beside a real run under them."""
    recorded = _summaries(first["log"], other, seed)
    (real,) = _summaries(second["log"], None, seed)
    for summary in (*recorded, real):
        counts = summary.counts
        print(
            f"{summary.policy:30} p50 {counts.p50_ms:6.2f}  p95 {counts.p95_ms:6.2f}"
            f"  p99 {counts.p99_ms:6.2f} ms  on time {counts.on_time / counts.requests:7.2%}"
            f"  batches {summary.batches}  rows {summary.mean_batch:.2f}"
        )
    off = recorded[2].counts.p99_ms / real.counts.p99_ms - 1
    moved = real.counts.p99_ms / recorded[0].counts.p99_ms - 1
    late = quiet.not_judged(first) or quiet.not_judged(second)
    held = late or abs(off) <= P99_BAR
    print(
        f"p99 of the what-if against the real run: {off:+.1%}, where it moved by {moved:+.1%}"
        f"  {bars.mark(held)}"
    )
    return {
        "ok": held,
        "p99_off": round(off, 4),
        "p99_moved": round(moved, 4),
        "sent_late_p99_ms": [run["sent_late_ms"]["p99"] for run in (first, second)],
        "steal": [run["steal"] for run in (first, second)],
        "recorded": recorded[0].as_json(),
        "replayed": recorded[1].as_json(),
        "what_if": recorded[2].as_json(),
        "real": real.as_json(),
    }


async def _real(
    options: argparse.Namespace, target: str, parent: Path, cores: dict[str, int]
) -> dict[str, Any]:
    """A run of a server with that target: its log, in a new folder, and when the load was sent."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    model = {
        "name": "hello",
        "executor": "emulated",
        "options": {"base": "5ms", "per_row": "0.5ms", "columns": 16, "jitter": options.jitter},
        "batching": {"target_p99": target},
    }
    document = {"models": [model], "journal": {"folder": str(folder)}}
    due_ns = poisson.arrivals_ns(options.rate, options.seconds, options.seed)
    with ExitStack() as stack:
        with machine.children_on(cores["server"]):
            server = stack.enter_context(ServerProcess(document))
        payload = await probe(server.grpc, "hello", 16)
        record = Record()
        load = Calls(payload, record, None)
        await load.open(server.grpc, 4)
        with machine.Steal(cores) as steal:
            await poisson.drive(load, due_ns, record)
    sent_late_ms = poisson.percentiles(np.array(record.sent_late_ns) / MILLISECOND)
    return {"log": folder, "sent_late_ms": sent_late_ms, "steal": steal.shares}


def _summaries(folder: Path, other: str | None, seed: int) -> list[Any]:
    """Recorded, replayed, and with another target."""
    segments = read_log(folder).segments
    samples = Samples(32)
    (stretch,) = stretches(segments, NEVER_NS, samples)
    found = replay(segments)
    if found.first is not None:
        sys.exit(f"not identical: {found.first}")
    plot = WhatIf(stretch, samples.learned(found.late_ns), None)
    runs = [plot.recorded()]
    if other is not None:
        sections = segments[0].opening.models
        changes = [f"batching.target_p99={other}"]
        tried = variants(sections, sections, changes, [parse_policy("configured")])
        runs += [plot.play(each, seed) for each in (Variant(REPLAYED), *tried)]
    return [summarize(Cell(None, (run,)), plot.capacity()) for run in runs]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python bench/replay", description=__doc__)
    scenes = top.add_subparsers(dest="scene", required=True)
    each = scenes.add_parser("speed", help=speed.__doc__)
    each.add_argument("--rate", type=float, default=1000.0)
    each.add_argument("--seconds", type=float, default=60.0)
    each.add_argument("--rounds", type=int, default=3)
    each.set_defaults(run=speed)
    each = scenes.add_parser("overhead", parents=[transports.option()], help=cost.__doc__)
    each.add_argument("--rounds", type=int, default=40)
    each.add_argument("--seconds", type=float, default=0.5)
    each.add_argument("--in-flight", type=int, default=64)
    each.add_argument("--connections", type=int, default=4)
    each.add_argument("--streams", type=int, default=0)
    each.add_argument("--floats", type=int, default=16)
    each.add_argument("--max-batch-size", type=int, default=32)
    each.add_argument("--max-delay", default="5ms")
    each.add_argument("--flight-recorder", action="store_true")
    each.set_defaults(run=cost)
    each = scenes.add_parser("whatif", parents=[quiet.options()], help=whatif.__doc__)
    each.add_argument("--rate", type=float, default=1200.0)
    each.add_argument("--seconds", type=float, default=15.0)
    each.add_argument("--target", default="50ms")
    each.add_argument(
        "--other", nargs="+", default=["40ms", "25ms"], help="one real run and one what-if for each"
    )
    each.add_argument("--jitter", type=float, default=0.0)
    each.set_defaults(run=whatif)
    for each in scenes.choices.values():
        each.add_argument("--seed", type=int, default=0)
        each.add_argument("--output", type=Path, help="where the figures go")
    return top


def main() -> int:
    """Measure, print, write; 1 where a bar was missed or could not be judged."""
    options = parser().parse_args()
    figures = options.run(options)
    output = options.output or machine.RESULTS / f"replay-{options.scene}.json"
    machine.save(output, figures)
    return bars.exit_code(figures)


if __name__ == "__main__":
    sys.exit(main())
