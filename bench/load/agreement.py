"""The server beside the simulator: the same arrivals, over real gRPC and in virtual time.

What batches take is measured first, with `batcher profile` on the server's core; the server's own
part of a batch and of an answer is read from its metrics in three warm-ups: with single requests,
at half load, and with more than it can serve, which the simulator is to take as long for. Then
requests are sent at several rates, and what `batcher simulate` runs replays their moments; all of
that once for each seed.

A machine that others use has spells in which a core is many times slower. Requests that met none
are told apart by a probe (`spells`), and held to the bars; the figures of all stand beside them.
What a spell leaves behind, above all a backlog that a loaded device is long in working off, the
others meet too. So the simulated server stands still while the core of the real one was slow.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import machine
import numpy as np
import quiet
import spells
from bars import mark
from clients import Calls, Record
from payload import probe
from poisson import Mask, arrivals_ns, drive, percentiles, summary
from prometheus_client.parser import text_string_to_metric_families

from batcher.clock import MILLISECOND, SECOND
from batcher.config import load_config
from batcher.core.commands import Outcome
from batcher.simulation.engine.scenario import Costs, deployment_of, models_of
from batcher.simulation.engine.service_time import parse_lateness
from batcher.simulation.engine.simulation import OUTCOMES, Conditions, Run, generator, simulate
from batcher.simulation.policies.named import parse_policy
from batcher.simulation.traffic.workload import Traffic, Workload
from batcher.testing.server import ServerProcess

BASE_MS, ROW_MS, MOST_ROWS, TARGET_MS = 5.0, 0.5, 32, 50.0
CAPACITY = MOST_ROWS / (BASE_MS + ROW_MS * MOST_ROWS) * 1e3
LATENESS = "80us"
"""How late the server's timer fires."""

P99_BAR, REFUSED_BAR = 0.15, 0.01
"""How far the simulator may be off: a share of the p99, and a part of all requests."""

Stalls: TypeAlias = Mapping[str, list[spells.Spell]]
"""When the `server`'s core is taken to have stood still, and when `any` core was."""

ON_TIME_RATE, ON_TIME_BAR = 1350, 0.99
OVERLOAD_RATE, GOODPUT_BAR = 1800, 1420
LOADS = (0.5, 0.8, 0.95)
COUNTED = argparse.Namespace(warmup=0, target=TARGET_MS * MILLISECOND)
WARMUPS = ((20.0, 6.0), (0.5 * CAPACITY, 6.0), (1.05 * CAPACITY, 13.0))
"""Rates, and for how many seconds. Single requests; batches on an idle instance; enough that the
device is never idle, and hardly more: a longer backlog takes longer to plan. There, one
batch more or less in ten seconds is 0.05 ms of each."""

OVERHEADS_MS, FITTINGS = (-1.0, 4.0), 10
"""Where the server's own part of a batch is looked for, and in how many halvings."""


def config(transport: str) -> dict[str, Any]:
    """One emulated device, as in the bars."""
    return {
        "server": {"transport": transport},
        "models": [
            {
                "name": "hello",
                "executor": "emulated",
                "options": {"base": f"{BASE_MS}ms", "per_row": f"{ROW_MS}ms", "columns": 16},
                "batching": {"max_batch_size": MOST_ROWS, "target_p99": f"{TARGET_MS:g}ms"},
            }
        ],
    }


class Figures:
    """The server's metrics at one moment."""

    def __init__(self, http: str) -> None:
        self.at_s = time.monotonic()
        with urllib.request.urlopen(f"http://{http}/metrics") as answer:
            self._families = list(text_string_to_metric_families(answer.read().decode()))

    def __call__(self, name: str, stage: str | None = None) -> float:
        """A family's sum over its series."""
        return sum(
            sample.value
            for family in self._families
            for sample in family.samples
            if sample.name == name and sample.labels.get("stage") == stage
        )


class Grown:
    """By how much figures have grown between two moments."""

    def __init__(self, before: Figures, after: Figures) -> None:
        self._before, self._after = before, after
        self.seconds = after.at_s - before.at_s

    def __call__(self, name: str, stage: str | None = None) -> float:
        """A family's sum over its series."""
        return self._after(name, stage) - self._before(name, stage)

    def stage_ms(self, stage: str) -> float:
        """What a request spent in a stage, on average."""
        name = "batcher_stage_duration_seconds"
        return 1e3 * self(f"{name}_sum", stage) / self(f"{name}_count", stage)


class Warmup:
    """Requests, and by how much the server's figures have grown in the middle of them."""

    def __init__(
        self, grown: Grown, due_ns: list[int], window_ns: tuple[int, int], stalls: Stalls
    ) -> None:
        self.grown, self.due_ns, self.stalls = grown, due_ns, stalls
        self.from_ns, self.until_ns = window_ns
        """When that was, counted as `due_ns` is."""


class Simulator:
    """What `batcher simulate` runs of the same configuration, with service times of this machine."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        file = folder / "config.yaml"
        file.write_text(json.dumps(config))
        profile = folder / "profile.json"
        _batcher("profile", str(file), "-o", str(profile))
        sizes = json.loads(profile.read_text())["models"][0]["sizes"]
        self._config = load_config(file)
        self._idle_ms = {int(rows): size["p50"] for rows, size in sizes.items()}
        self.overhead_ms = self.batch_gap_ms = self.reply_ms = 0.0

    def learn(self, single: Grown, half: Grown, full: Warmup) -> None:
        """Take from a server's metrics under three loads what the profile does not show.

        With more than it can serve its device is never idle: what a batch takes longer then than
        the profile says is the server's, and the machine's in its spells. The simulated server has
        the same spells; so the server's is what makes its batches as long. At half load batches go
        to an instance that is idle, on the way there and back beside the requests of others. The
        profile contains such a way, on a quiet server: single requests show which. And each answer
        takes a little on its way out, one after the other.
        """
        batches = full.grown("batcher_batch_rows_count")
        rows = full.grown("batcher_batch_rows_sum") / batches
        longer_ms = self._longer_ms(1e3 * full.grown.seconds / batches, rows)
        # Half of a batch's answers leave before the one in the middle.
        self.reply_ms = full.grown.stage_ms("reply") * 2 / (rows + 1)
        way_ms = half.stage_ms("gather") + half.stage_ms("scatter")
        contained_ms = self._idle_ms[1] - single.stage_ms("execute")
        least_ms, most_ms = OVERHEADS_MS
        for _ in range(FITTINGS):
            self.overhead_ms = (least_ms + most_ms) / 2
            self.batch_gap_ms = max(0.0, way_ms - contained_ms - self.overhead_ms)
            run = self.replay(full.due_ns, full.stalls)
            inside = (full.from_ns <= run.settled_ns) & (run.settled_ns < full.until_ns)
            ended = run.batch_rows[inside & (run.outcome == OUTCOMES.index(Outcome.OK))]
            # Each of a batch's rows is a part of it.
            simulated = float((1 / ended).sum())
            batch_ms = (full.until_ns - full.from_ns) / MILLISECOND / max(simulated, 1.0)
            rows = len(ended) / max(simulated, 1.0)
            if len(ended) and self._longer_ms(batch_ms, rows) < longer_ms:
                least_ms = self.overhead_ms
            else:
                most_ms = self.overhead_ms

    @property
    def learned(self) -> dict[str, float]:
        """What `learn` found, in milliseconds."""
        return {
            "overhead_ms": self.overhead_ms,
            "batch_gap_ms": self.batch_gap_ms,
            "reply_ms": self.reply_ms,
        }

    def _longer_ms(self, batch_ms: float, rows: float) -> float:
        """What a batch of so many rows takes beyond the profile."""
        sizes = sorted(self._idle_ms)
        return batch_ms - float(np.interp(rows, sizes, [self._idle_ms[size] for size in sizes]))

    def replay(self, due_ns: list[int], stalls: Stalls) -> Run:
        """What it makes of these arrivals, one of the places of the run each.

        `stalls` are when the core of the `server` was slow, and when `any` was: the server stands
        still in the former, and what is due in the latter comes when it is over.
        """
        models = models_of(self._config, None)
        took = {
            rows: round((took_ms + self.overhead_ms) * MILLISECOND)
            for rows, took_ms in self._idle_ms.items()
        }
        conditions = Conditions(
            lateness=parse_lateness(LATENESS),
            reply_ns=round(self.reply_ms * MILLISECOND),
            batch_gap_ns=round(self.batch_gap_ms * MILLISECOND),
            pauses=tuple(stalls["server"]),
        )
        comes_ns = np.array(due_ns)
        for begin, end in stalls["any"]:
            comes_ns[(begin <= comes_ns) & (comes_ns < end)] = end
        arrivals = Workload.of(comes_ns, Traffic(models), generator(0, "traffic"))
        deployment = deployment_of(self._config, models, Costs({"": took}))
        return simulate(deployment, parse_policy("configured"), arrivals, conditions)


def simulated_figures(run: Run, due_ns: list[int], among: Mask) -> dict[str, Any]:
    """The simulated figures of some requests, named as those of a real run are."""
    answered = among & (run.outcome == OUTCOMES.index(Outcome.OK))
    latency_ms = (run.settled_ns - np.array(due_ns))[answered] / MILLISECOND
    return {
        "requests": int(np.count_nonzero(among)),
        "answered": len(latency_ms),
        "on_time": int(np.count_nonzero(latency_ms <= TARGET_MS)),
        "latency_ms": percentiles(latency_ms),
    }


def _batcher(*arguments: str) -> str:
    command = [sys.executable, "-m", "batcher", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--seeds", type=int, default=3, help="runs of each rate")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a run")
    parser.add_argument(
        "--output",
        type=Path,
        default=machine.RESULTS / "agreement.json",
        help="where the figures go",
    )


async def serve(
    address: str,
    due_ns: list[int],
    options: argparse.Namespace,
    cores: dict[str, int],
    rows: int = 1,
) -> dict[str, Any]:
    """One open-loop run on a server that is warm, with so many rows in each request."""
    record, stolen = await _offered(address, due_ns, options, cores, rows)
    return summary(record, due_ns, COUNTED) | {"steal": stolen}


async def watched(
    address: str, due_ns: list[int], options: argparse.Namespace, cores: dict[str, int]
) -> dict[str, Any]:
    """The same of the requests that met no slow spell of a core; beside it, that of all."""
    with spells.Spells(cores) as slow:
        record, stolen = await _offered(address, due_ns, options, cores, rows=1)
    calm = slow.calm(record.began_ns, due_ns, COUNTED.target)
    return summary(record, due_ns, COUNTED, calm) | {
        "calm": calm,
        "calm_share": float(calm.mean()),
        "of_all": summary(record, due_ns, COUNTED),
        "slow": slow.shares,
        "stalls": _stalls(slow, record),
        "steal": stolen,
    }


def _stalls(slow: spells.Spells, record: Record) -> Stalls:
    return {
        "server": slow.stalls(record.began_ns, "server"),
        "any": slow.stalls(record.began_ns, "server", "load"),
    }


async def _offered(
    address: str,
    due_ns: list[int],
    options: argparse.Namespace,
    cores: dict[str, int],
    rows: int,
) -> tuple[Record, dict[str, float]]:
    payload = await probe(address, "hello", 16, rows)
    record = Record()
    load = Calls(payload, record, None)
    gc.collect()
    gc.freeze()
    gc.disable()
    await load.open(address, options.connections)
    with machine.Steal(cores) as steal:
        await drive(load, due_ns, record)
    gc.enable()
    return record, steal.shares


async def _under(
    server: ServerProcess,
    rate: float,
    seconds: float,
    options: argparse.Namespace,
    cores: dict[str, int],
) -> Warmup:
    """Some time with so many requests a second, but for the first two seconds and the last."""
    assert server.http is not None
    due_ns = arrivals_ns(rate, seconds, 99)
    with spells.Spells(cores) as slow:
        load = asyncio.create_task(_offered(server.grpc, due_ns, options, cores, rows=1))
        await asyncio.sleep(2.0)
        before = await asyncio.to_thread(Figures, server.http)
        await asyncio.sleep(seconds - 3.0)
        after = await asyncio.to_thread(Figures, server.http)
        record, _ = await load
    window_ns = (
        round(before.at_s * SECOND) - record.began_ns,
        round(after.at_s * SECOND) - record.began_ns,
    )
    return Warmup(Grown(before, after), due_ns, window_ns, _stalls(slow, record))


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Every rate, `--seeds` times, in turns; returns what is kept."""
    server_core, load_core = machine.cores()
    cores = {"server": server_core, "load": load_core}
    rates = [*(load * CAPACITY for load in LOADS), ON_TIME_RATE, OVERLOAD_RATE]
    found: dict[float, list[dict[str, Any]]] = {rate: [] for rate in rates}
    learned: list[dict[str, float]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with machine.children_on(server_core):
            simulator = Simulator(folder, config(options.transport))
            server = stack.enter_context(ServerProcess(config(options.transport)))
        machine.stay_on(load_core)
        for seed in range(options.seeds):
            # A machine that others use is not the same for minutes.
            single, half, full = [
                await _under(server, rate, seconds, options, cores) for rate, seconds in WARMUPS
            ]
            simulator.learn(single.grown, half.grown, full)
            learned.append(simulator.learned)
            print(
                f"seed {seed}, a batch takes {simulator.overhead_ms:.3f} ms more than in the profile,"
                f" on an idle instance another {simulator.batch_gap_ms:.3f} ms,"
                f" an answer {simulator.reply_ms:.4f} ms on its way out"
            )
            for rate in rates:
                due_ns = arrivals_ns(rate, options.seconds, seed)
                runs = await quiet.until_quiet(
                    partial(watched, server.grpc, due_ns, options, cores), options.repeats
                )
                simulated = simulator.replay(due_ns, runs[-1]["stalls"])
                figures = beside(runs[-1], simulated, due_ns)
                found[rate].append(figures | {"repeats": len(runs) - 1})
                print(f"seed {seed}, {rate:7.1f}/s: {_line(found[rate][-1])}", flush=True)
    result = {_name(rate): judged(rate, runs) for rate, runs in found.items()}
    for name, row in result.items():
        print(f"{name:24} {_line(row)}  {mark(row['ok'])}")
    asked = ("seeds", "seconds", "connections", "repeats", "transport")
    kept = {name: getattr(options, name) for name in asked}
    kept |= {"learned": learned}
    document = {"settings": kept, **result}
    machine.save(options.output, document)
    return document


def beside(real: dict[str, Any], run: Run, due_ns: list[int]) -> dict[str, Any]:
    """The figures of one run of both, and why it is not judged, if so."""
    everything = np.ones(len(due_ns), np.bool_)
    return {
        "offered": len(due_ns) * SECOND / due_ns[-1],
        **compared(real, simulated_figures(run, due_ns, real["calm"])),
        "of_all": compared(real["of_all"], simulated_figures(run, due_ns, everything)),
        "calm_share": real["calm_share"],
        "slow": real["slow"],
        "steal": real["steal"],
        "sent_late_p99_ms": real["of_all"]["sent_late_ms"]["p99"],
        "not_judged": quiet.not_judged(real),
    }


def compared(real: dict[str, Any], simulated: dict[str, Any]) -> dict[str, float]:
    """The shares and percentiles of the same requests in both; of none, all are 0."""
    count = max(1, real["requests"])
    refused, simulated_refused = (
        (each["requests"] - each["answered"]) / count for each in (real, simulated)
    )
    return {
        "on_time": real["on_time"] / count,
        "simulated_on_time": simulated["on_time"] / count,
        "p99_ms": real["latency_ms"].get("p99", 0.0),
        "simulated_p99_ms": simulated["latency_ms"].get("p99", 0.0),
        "refused": refused,
        "simulated_refused": simulated_refused,
        "refused_difference": refused - simulated_refused,
    }


def judged(rate: float, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the runs that the machine let be judged, and whether they hold.

    Both met the same arrivals in a run, so what is refused is compared run by run: how much it is
    differs more from seed to seed than from one to the other. Where no load was sent in time, the
    medians are those of all, and nothing is held.
    """
    counted = [run for run in runs if not run["not_judged"]]
    row: dict[str, Any] = _medians(counted or runs)
    row |= {
        "of_all": _medians([run["of_all"] for run in counted or runs]),
        "runs": len(runs),
        "judged": len(counted),
        "repeats": sum(run["repeats"] for run in runs),
        "steal": [run["steal"] for run in runs],
        "slow": [run["slow"] for run in runs],
    }
    if not counted:
        row["ok"] = min(runs, key=lambda run: run["sent_late_p99_ms"])["not_judged"]
    elif rate == ON_TIME_RATE:
        row["ok"] = row["on_time"] >= ON_TIME_BAR
    elif rate == OVERLOAD_RATE:
        row["goodput"] = row["on_time"] * rate
        row["ok"] = row["goodput"] >= GOODPUT_BAR
    else:
        off = abs(row["simulated_p99_ms"] / row["p99_ms"] - 1)
        row["ok"] = off <= P99_BAR and abs(row["refused_difference"]) <= REFUSED_BAR
    return row


def _medians(runs: list[dict[str, Any]]) -> dict[str, float]:
    names = [name for name, value in runs[0].items() if isinstance(value, float)]
    return {name: statistics.median(run[name] for run in runs) for name in names}


def _name(rate: float) -> str:
    if rate in (ON_TIME_RATE, OVERLOAD_RATE):
        return f"{rate} a second"
    return f"{rate / CAPACITY:.0%} of capacity"


def _line(row: dict[str, Any]) -> str:
    goodput = f", goodput {row['goodput']:.0f}/s" if "goodput" in row else ""
    runs = row.get("runs", 0)
    judged_of = f", {row['judged']} of {runs} runs judged" if runs and row["judged"] < runs else ""
    whole = row["of_all"]
    return (
        f"on time {row['on_time']:.4f} ({row['simulated_on_time']:.4f}),"
        f" p99 {row['p99_ms']:.2f} ms ({row['simulated_p99_ms']:.2f}),"
        f" refused {row['refused']:.4f} ({row['simulated_refused']:.4f},"
        f" {row['refused_difference']:+.4f}){goodput}{judged_of};"
        f" of all, {row['calm_share']:.0%} of them calm: on time {whole['on_time']:.4f},"
        f" p99 {whole['p99_ms']:.2f} ms, refused {whole['refused']:.4f}"
        f" ({whole['simulated_on_time']:.4f}, {whole['simulated_p99_ms']:.2f},"
        f" {whole['simulated_refused']:.4f})"
    )
