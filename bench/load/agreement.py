"""The server beside the simulator: the same arrivals, over real gRPC and in virtual time.

Service times are measured first, with `batcher profile` on the server's core. The server's own part
of a batch and of an answer comes from its metrics in three warm-ups: single requests, half load, and
more than it can serve. Then requests are sent at several rates, and the simulator replays their
arrivals. All of that is done once for each seed.

A shared machine has spells in which a core is many times slower. A probe (`spells`) shows which
requests met none; these are held to the bars, and the figures of all requests are kept beside them.
A spell also leaves a backlog that later requests meet. So the simulated server pauses while the core
of the real one was slow.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import machine
import numpy as np
import quiet
import spells
from bars import mark
from clients import Calls, Record
from emulated import CAPACITY, TARGET_MS, Figures, Grown, config
from payload import probe
from poisson import arrivals_ns, drive, summary
from simulated import Simulator, Stalls, Warmup, simulated_figures

from batcher.clock import MILLISECOND, SECOND
from batcher.simulation.engine.simulation import Run
from batcher.testing.server import ServerProcess

P99_BAR, REFUSED_BAR = 0.15, 0.01
"""How far the simulator may be off: in the p99 (relative), and in the share of refused requests."""

ON_TIME_RATE, ON_TIME_BAR = 1350, 0.99
OVERLOAD_RATE, GOODPUT_BAR = 1800, 1420
LOADS = (0.5, 0.8, 0.95)
COUNTED = argparse.Namespace(warmup=0, target=TARGET_MS * MILLISECOND)
WARMUPS = ((20.0, 6.0), (0.5 * CAPACITY, 6.0), (1.05 * CAPACITY, 13.0))
"""Rates, and for how many seconds. Single requests; batches on an idle instance; enough that the
device is never idle, and hardly more: a longer backlog takes longer to plan. There, one
batch more or less in ten seconds is 0.05 ms of each."""


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
    """The same for the requests that met no slow spell of a core, and for all as `of_all`."""
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
    """Offer `rate` requests a second; figures leave out the first two seconds and the last."""
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
    """Run every rate `--seeds` times, in turns; returns the result to keep."""
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
