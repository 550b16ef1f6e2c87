"""Open loop at a share of capacity, with and without changes of settings, on the same arrivals.

What is refused and late is counted of the requests that met no slow spell of the machine (`spells`)
and of all; the bars are held to the former, losses and changes to the latter.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import re
import time
import urllib.request
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from math import nan
from pathlib import Path
from typing import Any

import bars
import grpc
import machine
import numpy as np
import quiet
import spells
import yaml
from clients import Calls, Record
from payload import probe
from poisson import Mask, arrivals_ns, drive, percentiles

from batcher.clock import MILLISECOND
from batcher.protocol import ADMIN, Stub, admin
from batcher.testing.server import ServerProcess, free_address

MODEL = "hello"
BASE_MS, PER_ROW_MS, ROWS = 5.0, 0.5, 32
CAPACITY = ROWS / (BASE_MS + PER_ROW_MS * ROWS) * 1_000
"""Requests a second that the emulated device can serve, in full batches."""

SETTLED_S = 1.0
"""By then the last change of the file has been noticed."""

MORE = 0.001
"""What part of a run's requests may be refused more than in its constant twin, and late more.

Two runs of one server differ even without a change, because other work of the machine makes a few
requests late in either of them.
"""

LATEST = "p99.9"
"""The percentile at which a load must have been sent in time, for the sake of that thousandth."""

VALID: tuple[dict[str, str], ...] = (
    {"batching": "{target_p99: 46ms}"},
    {"batching": "{target_p99: 50ms, utilization_target: 0.75}", "queue.max_requests": "512"},
    {"batching": "{target_p99: 50ms, max_batch_size: 28}"},
    {"queue.priority_levels": "1"},
    {"queue.tenants": "{gold: 4, default: 1}"},
    {"batching": "{target_p99: 48ms, limit: target}"},
    {"batching": "{target_p99: 50ms, policy: fixed, max_queue_delay: 2ms}"},
    {"queue.timeout": "2s", "queue.promote_after": "500ms"},
    {"batching": "{target_p99: 50ms, utilization_target: 0.85}"},
    {"batching": "{target_p99: 47ms}", "queue.max_rows": "4096"},
)
INVALID: tuple[tuple[dict[str, str], str], ...] = (
    ({"batching.target_p99": "40"}, "batching.target_p99"),
    ({"batching.max_batch_size": "70000"}, "batching.max_batch_size"),
    ({"queue.max_request": "12"}, "queue.max_request"),
    ({"instances": "0"}, "instances"),
    ({"queue.default_priority": "9"}, "queue.default_priority"),
)
"""What is wrong, and the path that the refusal must name."""


def document(load_admin: str, transport: str) -> dict[str, Any]:
    """The file at the start."""
    model = {
        "name": MODEL,
        "executor": "emulated",
        "options": {"base": f"{BASE_MS:g}ms", "per_row": f"{PER_ROW_MS:g}ms", "columns": 16},
        "batching": {"max_batch_size": ROWS, "target_p99": "50ms"},
    }
    server = {"admin": [load_admin], "config_poll_interval": "100ms", "transport": transport}
    return {"server": server, "models": [model]}


class ConfigMap:
    """The server's file as Kubernetes mounts it: a link into a folder that a link stands for."""

    def __init__(self, server: ServerProcess) -> None:
        self._document = server.config
        self._folder = server.path.parent
        self._name = server.path.name
        self._turn = 0
        self.swap(server.path.read_text())
        link = self._folder / "link"
        link.symlink_to(Path("..data") / self._name)
        link.replace(server.path)

    def swap(self, text: str) -> None:
        """Replace the file: another folder, and one rename of the link to it."""
        self._turn += 1
        folder = self._folder / f"..{self._turn}"
        folder.mkdir()
        (folder / self._name).write_text(text)
        link = self._folder / "..data_tmp"
        link.symlink_to(folder.name)
        os.replace(link, self._folder / "..data")  # noqa: PTH105 - as Kubernetes does it

    def write(self, changes: dict[str, str]) -> None:
        """The file of the start with other values."""
        document = json.loads(json.dumps(self._document))
        for path, value in changes.items():
            node = document["models"][0]
            *sections, key = path.split(".")
            for section in sections:
                node = node.setdefault(section, {})
            node[key] = yaml.safe_load(value)
        self.swap(json.dumps(document))


@dataclass(slots=True)
class Asked:
    """How many changes were asked for, by source and what should become of them; surprises."""

    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    """Wrong files, by the path that the refusal of each must name."""
    wrong: list[str] = field(default_factory=list)

    def ask(self, source: str, result: str) -> None:
        """Count one more change."""
        self.asked[source, result] += 1


async def change_settings(
    server: ServerProcess, files: ConfigMap, changes: int, seconds: float, asked: Asked
) -> None:
    """Changes at even distances, by file and by call in turns, every third of them wrong."""
    assert server.admin is not None
    async with grpc.aio.insecure_channel(server.admin) as channel:
        stub = Stub(channel, ADMIN)
        began = time.monotonic()
        for turn in range(changes):
            await asyncio.sleep(max(0.0, began + turn * seconds / changes - time.monotonic()))
            wrong = turn % 3 == 2
            wanted, path = INVALID[turn % len(INVALID)] if wrong else (VALID[turn % len(VALID)], "")
            if turn % 2 == 0:
                asked.ask("file", "rejected" if wrong else "applied")
                asked.refused.update([path] if wrong else [])
                files.write(wanted)
            else:
                asked.ask("rpc", "rejected" if wrong else "applied")
                await call(stub, wanted, path, asked)


async def call(stub: Any, wanted: dict[str, str], path: str, asked: Asked) -> None:
    """One change by call; `path` is what a refusal must name, empty where there must be none."""
    request = admin.UpdateSettingsRequest(model=MODEL, changes=wanted)
    try:
        await stub.UpdateSettings(request)
    except grpc.aio.AioRpcError as error:
        text = error.details() or ""
        if not path or path not in text or error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
            asked.wrong.append(f"{wanted}: {error.code().name}: {text}")
    else:
        if path:
            asked.wrong.append(f"{wanted}: was taken")


def check_refused_files(log: str, asked: Asked) -> None:
    """Every wrong file was refused by its path: that is only in the log, no call returns it."""
    lines = [line for line in log.splitlines() if "is not applied" in line]
    for path, wanted in asked.refused.items():
        named = sum(bool(re.search(rf"models\[0\]\.{re.escape(path)}[ :]", t)) for t in lines)
        if named != wanted:
            asked.wrong.append(f"file, {path}: named in {named} refusals of {wanted}")


async def counted(server: ServerProcess) -> dict[tuple[str, str], int]:
    """What the server's metric says of changes, by source and result."""

    def scrape() -> str:
        with urllib.request.urlopen(f"http://{server.http}/metrics", timeout=10) as answer:
            return answer.read().decode()

    found = re.findall(
        r'^batcher_settings_changes_total{result="(\w+)",source="(\w+)"} (\S+)$',
        await asyncio.to_thread(scrape),
        re.MULTILINE,
    )
    return {(source, result): int(float(count)) for result, source, count in found}


async def play(
    options: argparse.Namespace, due_ns: list[int], *, changing: bool, cores: dict[str, int]
) -> dict[str, Any]:
    """One run on a server of its own."""
    record, asked = Record(), Asked()
    with ExitStack() as stack:
        with machine.children_on(cores["server"]):
            server = stack.enter_context(ServerProcess(document(free_address(), options.transport)))
        files = ConfigMap(server)
        payload = await probe(server.grpc, MODEL, 16)
        load = Calls(payload, record, None)
        await load.open(server.grpc, options.connections)
        before = await counted(server)
        cpu = machine.cpu_seconds(server.process.pid)
        tuning = None
        if changing:
            tuning = asyncio.create_task(
                change_settings(server, files, options.changes, options.seconds, asked)
            )
        with machine.Steal(cores) as steal, spells.Spells(cores) as slow:
            seconds = await drive(load, due_ns, record)
        busy = (machine.cpu_seconds(server.process.pid) - cpu) / seconds
        if tuning is not None:
            await tuning
            await asyncio.sleep(SETTLED_S)
        after = await counted(server)
        got = {key: after[key] - before.get(key, 0) for key in after}
        for key, wanted in asked.asked.items():
            if got[key] != wanted:
                asked.wrong.append(f"{key}: {got[key]} counted of {wanted}")
        check_refused_files(server.log(), asked)
    calm = slow.calm(record.began_ns, due_ns, options.target)
    everything = np.ones(len(due_ns), np.bool_)
    return figures(record, calm, options) | {
        "changing": changing,
        "of_all": figures(record, everything, options),
        "calm_share": float(calm.mean()),
        "slow": slow.shares,
        "server_busy": round(busy, 3),
        "steal": steal.shares,
        "changes": {f"{source} {result}": n for (source, result), n in sorted(asked.asked.items())},
        "wrong": asked.wrong,
    }


def figures(record: Record, among: Mask, options: argparse.Namespace) -> dict[str, Any]:
    """What became of some of the requests."""
    places = np.flatnonzero(among).tolist()
    latencies = np.array([record.latency_ns[n] for n in places if n in record.latency_ns])
    failed = Counter(record.failed[place] for place in places if place in record.failed)
    return {
        "requests": len(places),
        "lost": len(places) - len(latencies) - failed.total(),
        "refused": dict(failed),
        "late": int(np.count_nonzero(latencies > options.target)),
        "latency_ms": percentiles(latencies / MILLISECOND),
        "sent_late_ms": percentiles(
            np.array([record.sent_late_ns[place] for place in places]) / MILLISECOND
        ),
    }


HEADER = (
    f"{'':10}{'':8}{'':6}{'of all':>15}{'met no slow spell':>21}\n"
    f"{'settings':10}{'requests':>8}{'lost':>6}{'refused':>9}{'late':>6}"
    f"{'share':>7}{'refused':>8}{'late':>6}{'p50 ms':>9}{'p99':>9}{'p99.9':>9}{'max':>9}"
    f"{'sent p99.9':>12}{'busy':>7}"
)


def describe(result: dict[str, Any]) -> str:
    """One line for a person to read."""
    whole, latency = result["of_all"], result["latency_ms"]
    refused, refused_of_all = (sum(each["refused"].values()) for each in (result, whole))
    quantiles = "".join(f"{latency.get(name, nan):9.2f}" for name in ("p50", "p99", LATEST, "max"))
    return (
        f"{'changing' if result['changing'] else 'constant':10}{whole['requests']:8}"
        f"{whole['lost']:6}{refused_of_all:9}{whole['late']:6}"
        f"{result['calm_share']:7.0%}{refused:8}{result['late']:6}{quantiles}"
        f"{result['sent_late_ms'].get(LATEST, nan):12.2f}{result['server_busy']:7.2f}"
    )


def judged(
    rounds: list[dict[bool, dict[str, Any]]], runs: list[dict[str, Any]]
) -> dict[str, bars.Held]:
    """The bars; a round holds its constant run and its changing one, on the same arrivals.

    What is refused and late is a share of the requests that met no slow spell of a core. A round
    that the machine disturbed says nothing of them; where none says anything, that is not judged.
    Changes and losses are those of all runs, repeated ones too.
    """
    disturbed = [_not_judged(each) for each in rounds]
    judged = [each for each, why in zip(rounds, disturbed, strict=True) if not why]

    def more(what: str) -> bars.Held:
        """Whether every changing run is above its twin by a small part of its requests at most."""
        if not judged:
            return disturbed[0]
        return all(_share(each[True], what) - _share(each[False], what) <= MORE for each in judged)

    return {
        "every change is taken, or refused by its path, as it should be": (
            not any(run["wrong"] for run in runs)
        ),
        "no request is lost": not any(run["of_all"]["lost"] for run in runs),
        f"at most {MORE:.1%} more are refused than without changes": more("refused"),
        f"at most {MORE:.1%} more are late than without changes": more("late"),
    }


def _not_judged(both: dict[bool, dict[str, Any]]) -> str:
    """Why a round is not judged; empty where it can be."""
    return next(filter(None, (quiet.not_judged(run, LATEST) for run in both.values())), "")


def _share(run: dict[str, Any], what: str) -> float:
    count = sum(run["refused"].values()) if what == "refused" else run[what]
    return float(count / run["requests"])


async def _played(
    options: argparse.Namespace, due_ns: list[int], changing: bool, cores: dict[str, int]
) -> dict[str, Any]:
    """One run, shown."""
    result = await play(options, due_ns, changing=changing, cores=cores)
    print(describe(result), flush=True)
    for text in result["wrong"]:
        print(f"  wrong: {text}")
    return result


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
    print(f"{rate:.0f} requests/s, {options.load:.0%} of capacity, {options.changes} changes")
    print(HEADER)
    for turn in range(options.rounds):
        due_ns = arrivals_ns(rate, options.seconds, options.seed + turn)
        rounds.append({})
        for changing in (False, True) if turn % 2 == 0 else (True, False):
            tries = await quiet.until_quiet(
                partial(_played, options, due_ns, changing, cores), options.repeats, LATEST
            )
            rounds[-1][changing] = tries[-1]
            runs += [run | {"repeat": number} for number, run in enumerate(tries)]
    names = ("load", "changes", "seconds", "rounds", "seed", "repeats", "transport")
    kept = {name: getattr(options, name) for name in names}
    checks = judged(rounds, runs)
    bars.show(checks)
    found = {"settings": kept, "checks": checks, "runs": runs}
    machine.save(options.output, found)
    return found
