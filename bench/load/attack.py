"""What one hostile caller costs the others and the process.

For each attack a server is started on a core of its own. A caller that behaves asks a model with a target
at a steady rate, all the time: before (calm), while the attackers are at work, and again from five seconds
after. Probes ask `/healthz` on connections of their own, and the server's memory is read from `/proc`.

The attackers are another process, which shares the core of the load and lets it go first; no attack lasts
longer than `--seconds`. Each bar is held to the median of the rounds. Requests that met a slow spell of a
core (`spells`), or were sent late themselves, do not count; a round with too few others is played again.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import attackers
import bars
import machine
import numpy as np
import quiet
import spells
from clients import Calls, Record
from emulated import Figures
from payload import Payload, probe
from poisson import Mask, arrivals_ns, drive
from sending import COLUMNS, Target
from watch import Attackers, Watch

from batcher.clock import MILLISECOND, SECOND
from batcher.testing.server import ServerProcess

TARGET_MS = 50.0
BUFFERED_MIB = 256
"""`server.max_buffered` of the server under attack."""

WORK_MIB = 128
"""Memory it may use beyond that: the largest message that is being read, and an answer of that size."""

LEFT_MIB = 64
"""Memory that may still be used five seconds later, because an allocator keeps some."""

STALL_BAR_MS = 50.0
STALLS = "batcher_event_loop_stalls_total"
"""Turns of the server's event loop that took longer, less the time that the kernel gave to others."""

P99_BAR = 2.0
"""p99 of the others over that of calm, during an attack and from five seconds after."""

SETTLE_S, RECOVER_S = 1.5, 5.0
MARGIN_NS = 250 * MILLISECOND
FAILED_MS = 30_000.0
"""The latency that a request without an answer counts with."""

LEAST_FAILED = 0.01
"""With more failures than this before the attack, the machine is too busy for the server."""

PHASES = ("before", "during", "after")


@dataclass(frozen=True, slots=True)
class Phase:
    """What was seen of one phase."""

    requests: int
    failed: dict[str, int]
    p50_ms: float
    p99_ms: float
    rss_mib: float
    """The largest."""
    rss_floor_mib: float
    """The smallest."""
    descriptors: int
    """The most."""
    probe_ms: float
    """The longest that a probe waited for its answer, other work of this machine with it."""
    probes: int
    probes_failed: dict[str, int]
    sent_late_ms: float
    """p99 of how late the load itself was, those left out that were sent too late to count."""
    calm_share: float
    """The share of requests that count for latencies: sent in time, and in no slow spell."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument(
        "--only", action="append", choices=tuple(attackers.ATTACKS), help="this attack; repeatable"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each attack")
    parser.add_argument("--rate", type=float, default=150.0, help="requests of the others a second")
    parser.add_argument("--calm", type=float, default=4.0, help="seconds before, and after")
    parser.add_argument("--seconds", type=float, default=6.0, help="longest time of an attack")
    parser.add_argument("--json", action="store_true", help="print what is kept, too")
    parser.add_argument(
        "--output", type=Path, default=machine.RESULTS / "attack.json", help="where the figures go"
    )


def config(transport: str) -> dict[str, Any]:
    """A model for callers that behave, and one whose rows are large."""
    models = {
        "hello": ({"base": "5ms", "per_row": "0.5ms", "columns": 16}, f"{TARGET_MS:g}ms"),
        "wide": ({"columns": COLUMNS}, "2s"),
    }
    return {
        "server": {
            "transport": transport,
            "max_connections": 256,
            "max_buffered": f"{BUFFERED_MIB}MiB",
            "drain_delay": "0s",
        },
        "models": [
            {
                "name": name,
                "executor": "emulated",
                "options": options,
                "device": name,
                # What can only be late is served: a stall shows as latency, and is not made larger by
                # refusals for what is predicted after it.
                "batching": {"max_batch_size": 32, "target_p99": target},
            }
            for name, (options, target) in models.items()
        ],
    }


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Every attack, `--rounds` times; returns what is kept."""
    server_core, load_core = machine.cores()
    cores = {"server": server_core, "load": load_core}
    machine.stay_on(load_core)
    gc.freeze()
    gc.disable()
    found: dict[str, Any] = {}
    for name in options.only or attackers.ATTACKS:
        rounds = []
        for number in range(options.rounds):
            for repeat in range(1 + options.repeats):
                done = await attacked(name, number, options, cores)
                gc.collect()
                show(name, number, repeat, done)
                if not unfair(done):
                    break
            rounds.append(done | {"repeats": repeat})
        found[name] = {"checks": judged(name, rounds), "rounds": rounds}
    for row in found.values():
        bars.show(row["checks"])
    asked = ("rounds", "rate", "calm", "seconds", "repeats", "transport")
    kept: dict[str, Any] = {name: getattr(options, name) for name in asked}
    kept |= {"max_buffered_mib": BUFFERED_MIB, "work_mib": WORK_MIB, "left_mib": LEFT_MIB}
    document = {"settings": kept, "attacks": found}
    machine.save(options.output, document)
    if options.json:
        print(json.dumps(document))
    return document


async def attacked(
    name: str, seed: int, options: argparse.Namespace, cores: dict[str, int]
) -> dict[str, Any]:
    """One round: a new server, its three phases, and what the attackers saw."""
    with ExitStack() as stack:
        with machine.children_on(cores["server"]):
            server = stack.enter_context(ServerProcess(config(options.transport)))
        payload = await probe(server.grpc, "hello", 16)
        assert server.http is not None
        before = Figures(server.http)(STALLS)
        with spells.Spells(cores) as slow:
            record, due_ns, watch, window, outcomes = await _play(
                name, seed, options, server, payload
            )
        alive = server.process.poll() is None
        stalls = Figures(server.http)(STALLS) - before if alive else 0.0
        code = server.stop()
        log = server.log().splitlines()
    calm = slow.calm(record.began_ns, due_ns, round(TARGET_MS * MILLISECOND))
    result: dict[str, Any] = {
        phase: asdict(seen(record, due_ns, calm, slow, watch, span))
        for phase, span in zip(PHASES, window, strict=True)
    }
    return result | {
        "attackers": outcomes,
        "stalls": stalls,
        "held_up_by": [line for line in log if "event loop" in line],
        "seconds": round((window[1][1] - window[1][0]) / SECOND, 2),
        "alive": alive,
        "exit_code": code,
        "slow": slow.shares,
    }


Span = tuple[int, int]
"""From and until, of the monotonic clock."""


async def _play(
    name: str, seed: int, options: argparse.Namespace, server: ServerProcess, payload: Payload
) -> tuple[Record, list[int], Watch, tuple[Span, Span, Span], dict[str, int]]:
    assert server.http is not None
    target = Target(server.grpc, server.http, options.seconds)
    seconds = SETTLE_S + options.calm + options.seconds + 1 + RECOVER_S + options.calm
    due_ns = arrivals_ns(options.rate, seconds, seed)
    record = Record()
    load = Calls(payload, record, None)
    async with Attackers(name, target) as hostile, Watch(server) as watch:
        await load.open(server.grpc, 2)
        driven = asyncio.create_task(drive(load, due_ns, record))
        await asyncio.sleep(SETTLE_S + options.calm)
        began_ns = time.monotonic_ns()
        outcomes = await hostile.go()
        ended_ns = time.monotonic_ns()
        await driven
    calm_ns = round(options.calm * SECOND)
    last_ns = record.began_ns + round(seconds * SECOND)
    # A request that was due just before the attack meets it.
    calm_until_ns = began_ns - MARGIN_NS
    spans = (
        (calm_until_ns - calm_ns, calm_until_ns),
        (began_ns, ended_ns),
        (last_ns - calm_ns, last_ns),
    )
    return record, due_ns, watch, spans, outcomes


def seen(
    record: Record,
    due_ns: Sequence[int],
    calm: Mask,
    slow: spells.Spells,
    watch: Watch,
    span: Span,
) -> Phase:
    """What was seen between two moments; slow spells of the machine and late requests count not."""
    since, until = span
    at = np.array(due_ns, np.int64) + record.began_ns
    inside = [int(place) for place in np.flatnonzero((at >= since) & (at < until))]
    late_ns = quiet.LATE_MS * MILLISECOND
    counted = [place for place in inside if calm[place] and record.sent_late_ns[place] <= late_ns]
    failed = Counter(record.failed[place] for place in inside if place in record.failed)
    lost = sum(place not in record.latency_ns and place not in record.failed for place in inside)
    if lost:
        failed["no answer"] = lost
    latencies = [
        record.latency_ns.get(place, FAILED_MS * MILLISECOND) / MILLISECOND for place in counted
    ]
    probes = [each for each in watch.probes if since <= each[0] < until]
    free = slow.calm(0, [began for began, _, _ in probes], round(STALL_BAR_MS * MILLISECOND))
    answered = [
        took for (_, took, why), counts in zip(probes, free, strict=True) if counts and not why
    ]
    rss = [mib for when, mib in watch.memory if since <= when < until]
    late = [record.sent_late_ns[place] / MILLISECOND for place in counted]
    return Phase(
        requests=len(inside),
        failed=dict(failed.most_common()),
        p50_ms=_percentile(latencies, 50),
        p99_ms=_percentile(latencies, 99),
        rss_mib=round(max(rss), 1),
        rss_floor_mib=round(min(rss), 1),
        descriptors=max(each for when, each in watch.descriptors if since <= when < until),
        probe_ms=round(max(answered, default=0.0), 1),
        probes=len(probes),
        probes_failed=dict(Counter(why for _, _, why in probes if why)),
        sent_late_ms=_percentile(late, 99),
        calm_share=round(len(counted) / max(1, len(inside)), 3),
    )


def _percentile(values: Sequence[float], which: float) -> float:
    return round(float(np.percentile(values, which)), 2) if values else 0.0


def judged(name: str, rounds: Sequence[dict[str, Any]]) -> dict[str, bars.Held]:
    """The bars of one attack, over the medians of its rounds."""

    def middle(phase: str, figure: str, among: Sequence[dict[str, Any]]) -> float:
        return float(median(each[phase][figure] for each in among))

    before = middle("before", "rss_mib", rounds)
    bound = before + BUFFERED_MIB + WORK_MIB
    checks: dict[str, bars.Held] = {
        f"{name}: the server lives": all(each["alive"] for each in rounds),
        f"{name}: memory within {BUFFERED_MIB} + {WORK_MIB} MiB of calm": (
            middle("during", "rss_mib", rounds) <= bound
        ),
        f"{name}: five seconds later within {LEFT_MIB} MiB": (
            middle("after", "rss_mib", rounds) <= before + LEFT_MIB
        ),
        f"{name}: no stall of {STALL_BAR_MS:g} ms": not median(each["stalls"] for each in rounds),
        f"{name}: every probe is answered": not any(
            each[phase]["probes_failed"] for each in rounds for phase in PHASES
        ),
    }
    fair = [each for each in rounds if not unfair(each)]
    why = "" if fair else unfair(rounds[-1])
    fair = fair or list(rounds)
    calm = middle("before", "p99_ms", fair)
    timed = {
        f"{name}: p99 of the others within {P99_BAR:g} times that of calm": (
            middle("during", "p99_ms", fair) <= P99_BAR * calm
        ),
        f"{name}: five seconds later, too": (middle("after", "p99_ms", fair) <= P99_BAR * calm),
    }
    return checks | {bar: why or held for bar, held in timed.items()}


def unfair(found: dict[str, Any]) -> str:
    """Why a round is not judged by its times; empty where it is."""
    for phase in PHASES:
        run = {
            "calm_share": found[phase]["calm_share"],
            "sent_late_ms": {"p99": found[phase]["sent_late_ms"]},
        }
        if why := quiet.not_judged(run):
            return why
    before = found["before"]
    failed = sum(before["failed"].values())
    if failed > LEAST_FAILED * before["requests"]:
        return f"not judged: {failed} of {before['requests']} requests failed without an attack"
    return ""


def show(name: str, number: int, repeat: int, found: dict[str, Any]) -> None:
    """Print it for a person."""
    again = f", repeat {repeat}" if repeat else ""
    print(
        f"{name}, round {number + 1}{again}: {found['seconds']:.1f} s,"
        f" {found['stalls']:g} stalls  {unfair(found)}"
    )
    for phase in PHASES:
        each = found[phase]
        probes = sum(each["probes_failed"].values())
        print(
            f"  {phase:7} {each['rss_mib']:7.1f} MiB, probe {each['probe_ms']:7.1f} ms,"
            f" p50 {each['p50_ms']:6.1f} p99 {each['p99_ms']:8.1f} ms,"
            f" failed {sum(each['failed'].values())} of {each['requests']} {each['failed'] or ''}"
            + (f", probes failed {probes} of {each['probes']}" if probes else "")
        )
    print(
        "  attackers:", ", ".join(f"{what} {count}" for what, count in found["attackers"].items())
    )
    for line in found["held_up_by"]:
        print("  ", line[:400])
    if not found["alive"] or found["exit_code"]:
        print(f"  server: alive {found['alive']}, exit code {found['exit_code']}")
    sys.stdout.flush()
