"""Open loop at a share of capacity, with and without loads of the model that is served, half of them broken.

A good load has the model's file say something else (another seed), a broken one has it say what the
executor refuses; each begins when the one before is over and its moment has come. What is late is
counted of the requests that met no slow spell of the machine (`spells`); losses are those of all.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import re
import time
import urllib.request
from collections import Counter
from contextlib import ExitStack
from functools import partial
from math import nan
from pathlib import Path
from typing import Any

import bars
import machine
import numpy as np
import quiet
import spells
from clients import Calls, Record
from payload import probe
from poisson import arrivals_ns, drive
from tuning import BASE_MS, CAPACITY, MODEL, PER_ROW_MS, ROWS, figures

from batcher.testing.server import ServerProcess

MOST = 1.2
"""How many times the p99 without loads that with loads may be."""

LATEST = "p99"

RESULTS = ("succeeded", "failed", "cancelled")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--load", type=float, default=0.7, help="share of capacity")
    parser.add_argument("--reloads", type=int, default=100, help="loads in each run")
    parser.add_argument("--seconds", type=float, default=400.0, help="length of a run")
    parser.add_argument("--rounds", type=int, default=1, help="rounds of both")
    parser.add_argument("--target", type=int, default=50_000_000, help="nanoseconds")
    parser.add_argument("--connections", type=int, default=4, help="connections of the load")
    parser.add_argument("--seed", type=int, default=0, help="of the arrivals")
    parser.add_argument(
        "--output", type=Path, default=machine.RESULTS / "reloads.json", help="where figures go"
    )


def document(transport: str) -> dict[str, Any]:
    """The file at the start."""
    model = {
        "name": MODEL,
        "executor": "emulated",
        "options": {"base": f"{BASE_MS:g}ms", "per_row": f"{PER_ROW_MS:g}ms", "columns": 16},
        "batching": {"max_batch_size": ROWS, "target_p99": "50ms"},
    }
    return {"server": {"config_poll_interval": "100ms", "transport": transport}, "models": [model]}


async def scraped(server: ServerProcess) -> dict[str, float]:
    """Loads by result, and the sums and counts of what they took."""

    def scrape() -> str:
        with urllib.request.urlopen(f"http://{server.http}/metrics", timeout=10) as answer:
            return answer.read().decode()

    text = await asyncio.to_thread(scrape)
    found = {
        result: float(count)
        for result, count in re.findall(
            r'^batcher_model_reloads_total\{.*result="(\w+)".*\} (\S+)$', text, re.MULTILINE
        )
    }
    for name in ("load", "warmup", "first_answer"):
        for what in ("sum", "count"):
            line = rf"^batcher_model_{name}_duration_seconds_{what}\{{.*\}} (\S+)$"
            found[f"{name}_{what}"] = float(re.findall(line, text, re.MULTILINE)[0])
    return found


async def load_again(server: ServerProcess, options: argparse.Namespace, wrong: list[str]) -> None:
    """Loads at even distances, by the file; every second one is broken."""
    began = time.monotonic()
    counts = await scraped(server)
    for turn in range(options.reloads):
        at = began + turn * options.seconds / options.reloads
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        changed = json.loads(json.dumps(server.config))
        broken = turn % 2 == 1
        changed["models"][0]["options"] |= {"base": "5 parsecs"} if broken else {"seed": turn + 1}
        fresh = server.path.with_suffix(".new")
        fresh.write_text(json.dumps(changed))
        fresh.replace(server.path)
        want = "failed" if broken else "succeeded"
        async with asyncio.timeout(60):
            while True:
                now = await scraped(server)
                if now[want] != counts[want]:
                    break
                await asyncio.sleep(0.1)
        if any(now[each] != counts[each] + (each == want) for each in RESULTS):
            wrong.append(f"load {turn}: {counts} became {now}, and {want} was due")
        counts = now


async def play(
    options: argparse.Namespace, due_ns: list[int], *, loading: bool, cores: dict[str, int]
) -> dict[str, Any]:
    """One run on a server of its own."""
    record = Record()
    wrong: list[str] = []
    with ExitStack() as stack:
        with machine.children_on(cores["server"]):
            server = stack.enter_context(ServerProcess(document(options.transport)))
        payload = await probe(server.grpc, MODEL, 16)
        load = Calls(payload, record, None)
        await load.open(server.grpc, options.connections)
        cpu = machine.cpu_seconds(server.process.pid)
        loads = asyncio.create_task(load_again(server, options, wrong)) if loading else None
        with machine.Steal(cores) as steal, spells.Spells(cores) as slow:
            seconds = await drive(load, due_ns, record)
        busy = (machine.cpu_seconds(server.process.pid) - cpu) / seconds
        if loads is not None:
            await loads
        counts = await scraped(server)
    calm = slow.calm(record.began_ns, due_ns, options.target)
    return figures(record, calm, options) | {
        "loading": loading,
        "of_all": figures(record, np.ones(len(due_ns), np.bool_), options),
        "calm_share": float(calm.mean()),
        "slow": slow.shares,
        "server_busy": round(busy, 3),
        "steal": steal.shares,
        "loads": {result: int(counts[result]) for result in RESULTS},
        "seconds_each": {
            name: round(counts[f"{name}_sum"] / max(1, counts[f"{name}_count"]), 4)
            for name in ("load", "warmup", "first_answer")
        },
        "wrong": wrong,
    }


HEADER = (
    f"{'':10}{'':9}{'of all':>22}{'met no slow spell':>21}\n"
    f"{'loads':10}{'requests':>9}{'lost':>6}{'refused':>8}{'late':>8}"
    f"{'share':>7}{'refused':>8}{'late':>6}{'p50 ms':>9}{'p99':>9}{'p99.9':>9}{'max':>9}"
    f"{'sent p99':>10}{'busy':>7}"
)


def describe(run: dict[str, Any]) -> str:
    """One line for a person to read."""
    whole, latency = run["of_all"], run["latency_ms"]
    refused, refused_of_all = (sum(each["refused"].values()) for each in (run, whole))
    quantiles = "".join(f"{latency.get(name, nan):9.2f}" for name in ("p50", "p99", "p99.9", "max"))
    loads = sum(run["loads"].values())
    return (
        f"{loads or 'none':<10}{whole['requests']:9}{whole['lost']:6}{refused_of_all:8}{whole['late']:8}"
        f"{run['calm_share']:7.0%}{refused:8}{run['late']:6}{quantiles}"
        f"{run['sent_late_ms'].get(LATEST, nan):10.2f}{run['server_busy']:7.2f}"
    )


def judged(
    rounds: list[dict[bool, dict[str, Any]]], runs: list[dict[str, Any]], reloads: int
) -> dict[str, bars.Held]:
    """The bars; a round has its run without loads and its run with loads, on the same arrivals."""
    disturbed = [
        next(filter(None, (quiet.not_judged(run, LATEST) for run in each.values())), "")
        for each in rounds
    ]
    calm = [each for each, why in zip(rounds, disturbed, strict=True) if not why]
    ratios = [each[True]["latency_ms"]["p99"] / each[False]["latency_ms"]["p99"] for each in calm]
    half = {"succeeded": reloads - reloads // 2, "failed": reloads // 2, "cancelled": 0}
    return {
        "every load ends as it should": (
            all(run["loads"] == half for run in runs if run["loading"])
            and not any(run["wrong"] for run in runs)
        ),
        "no request is lost": not any(run["of_all"]["lost"] for run in runs),
        "no more requests are refused than without loads, by a thousandth of them": (
            all(_refused(each[True]) <= _refused(each[False]) + 0.001 for each in calm)
            if calm
            else disturbed[0]
        ),
        f"p99 is at most {MOST:g} times that without loads": (
            all(ratio <= MOST for ratio in ratios) if calm else disturbed[0]
        ),
    }


def _refused(run: dict[str, Any]) -> float:
    return float(Counter(run["refused"]).total() / run["requests"])


async def _played(
    options: argparse.Namespace, due_ns: list[int], loading: bool, cores: dict[str, int]
) -> dict[str, Any]:
    run = await play(options, due_ns, loading=loading, cores=cores)
    print(describe(run), flush=True)
    for text in run["wrong"]:
        print(f"  wrong: {text}")
    return run


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Rounds of both, in turns; the order changes with each round. Returns what is kept."""
    server_core, load_core = machine.cores()
    cores = {"server": server_core, "load": load_core}
    machine.stay_on(load_core)
    rate = options.load * CAPACITY
    gc.freeze()
    gc.disable()
    rounds: list[dict[bool, dict[str, Any]]] = []
    runs: list[dict[str, Any]] = []
    print(f"{rate:.0f} requests/s, {options.load:.0%} of capacity, {options.reloads} loads")
    print(HEADER)
    for turn in range(options.rounds):
        due_ns = arrivals_ns(rate, options.seconds, options.seed + turn)
        rounds.append({})
        for loading in (False, True) if turn % 2 == 0 else (True, False):
            tries = await quiet.until_quiet(
                partial(_played, options, due_ns, loading, cores), options.repeats, LATEST
            )
            rounds[-1][loading] = tries[-1]
            runs += [each | {"repeat": number} for number, each in enumerate(tries)]
    names = ("load", "reloads", "seconds", "rounds", "seed", "repeats", "transport")
    checks = judged(rounds, runs, options.reloads)
    bars.show(checks)
    kept = {name: getattr(options, name) for name in names}
    found = {"settings": kept, "checks": checks, "runs": runs}
    machine.save(options.output, found)
    return found
