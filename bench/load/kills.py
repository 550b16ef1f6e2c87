"""Rounds in which a child process with a model is killed, stopped, or crashes by itself, under load.

Instances of a model run with `isolation: process`. Each round has one of them lost, and says what is wrong with
how the requests ended. What must hold:

- every request ends once, by its deadline and `ALLOWANCE_S`, and an answer is the one to its own values;
- of the requests that were in no lost batch, 99 % are answered, over all rounds;
- from 2 s after all instances are up again, every request is answered, and as quickly as before;
- nothing is left over: no process, no file descriptor, no memory; and when the server itself is killed, its
  children end.

With `--idempotent` the requests of lost batches run once more; without, they end with UNAVAILABLE.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import machine
import numpy as np
from bars import show
from grpc import aio
from held import Held, children

from batcher import protocol
from batcher.testing.messages import infer_request, output_arrays
from batcher.testing.server import ServerProcess

RATE = 120.0
"""Requests a second, with up to three rows: less than one instance can serve."""

DEADLINES_S = (2.0, 4.0, 8.0)
ALLOWANCE_S = 1.0
"""How much later than its deadline a call may end on the caller's clock: two cores start a Python process
meanwhile."""

EXECUTE_TIMEOUT_S = 1.0
CALM_S, AFTER_S = 0.2, 0.4
RESUMED_S = 2.0
"""From this long after all instances are up, all is as before."""

QUICK_S = 0.5
"""An answer is quick within this; a batch takes 2 ms."""

POLL_S = 0.02
"""Between two looks whether all instances are up again."""

TICK_S = 0.05
"""The callers notice that they did not run for longer than this."""

READY_S = 60.0
"""All instances are up again within this, or something is wrong."""

KINDS = ("SIGKILL", "SIGSTOP", "exit", "crash", "hang", "close", "flood", "sys.exit", "memory")
ASKED_FOR = {"exit": 1, "crash": 2, "hang": 3, "close": 4, "flood": 5, "sys.exit": 6, "memory": 7}
"""What a request asks for, as `kill_model.FAULTS` numbers it. The rest is done from outside."""

HARMLESS = {"sys.exit", "memory"}
"""These lose no instance: the executor raises, and its process lives on."""

LOST = "went down, and may have executed it"
MOST_MEMORY = 32 * 1024**2
"""Bytes that the server may hold more after all rounds."""


def document(*, idempotent: bool, **other: Any) -> dict[str, Any]:
    """The configuration: the model that is killed, with `other` values, and a calm one beside it."""
    target = f"{Path(__file__).parent / 'kill_model.py'}:double"
    killed = {
        "name": "double",
        "executor": "python",
        "options": {"target": target},
        "isolation": "process",
        # A request that crashes its instance every time costs two of them if it runs once more.
        "instances": 3 if idempotent else 2,
        "idempotent": idempotent,
        "execute_timeout": f"{EXECUTE_TIMEOUT_S:g}s",
        "health": {"interval": "500ms", "timeout": "500ms"},
        "restart": {"backoff": "10ms", "max_backoff": "50ms", "limit": None},
        "warmup": {"batch_sizes": [1]},
        "batching": {"policy": "fixed", "max_batch_size": 8},
        **other,
    }
    calm = {
        "name": "calm",
        "executor": "emulated",
        "options": {"columns": 4, "base": "1ms"},
        "device": "other",
        "warmup": {"batch_sizes": [1]},
    }
    return {"models": [killed, calm]}


@dataclass(slots=True)
class Ended:
    """How one request ended. Times are seconds of `time.monotonic`."""

    number: int
    asked: int
    sent_s: float
    ended_s: float
    deadline_s: float
    status: str
    text: str = ""
    right: bool = True
    stalled_s: float = 0.0
    """For how long the callers themselves did not run meanwhile, so that they saw its end later."""

    @property
    def lost(self) -> bool:
        """Whether its batch was lost."""
        return LOST in self.text

    @property
    def took_s(self) -> float:
        """How long it took, without the callers' own stalls."""
        return self.ended_s - self.sent_s - self.stalled_s


@dataclass(slots=True)
class Round:
    """What one fault did."""

    kind: str
    ended: list[Ended] = field(default_factory=list)
    sent: int = 0
    at_s: float = 0.0
    up_s: float | None = None
    """When all instances were up again."""

    @property
    def resumed_s(self) -> float:
        """How long after `up_s` the last request was sent that was not answered quickly."""
        if self.up_s is None:
            return float("inf")
        slow = [
            each.sent_s - self.up_s
            for each in self.ended
            if not each.asked and (each.status != "OK" or each.took_s > QUICK_S)
        ]
        return max([0.0, *slow])

    def outside(self) -> Counter[str]:
        """How the requests ended that were in no lost batch and asked for nothing."""
        return Counter(e.status for e in self.ended if not e.asked and not e.lost)

    def wrong(self) -> Iterator[str]:
        """Yields what did not hold in this round."""
        if self.sent != len(self.ended):
            yield f"{self.sent} sent, {len(self.ended)} ended"
        if self.up_s is None:
            yield f"not all instances are up again after {READY_S:g} s"
        elif self.resumed_s > RESUMED_S:
            yield f"not as before {self.resumed_s:.1f} s after all instances were up"
        for each in self.ended:
            if not each.right:
                yield f"a wrong answer: {each}"
            if each.took_s > each.deadline_s + ALLOWANCE_S:
                yield f"it waited past its deadline: {each}"
            if each.status not in {"OK", "UNAVAILABLE", "DEADLINE_EXCEEDED"} and not each.asked:
                if self.kind in HARMLESS and each.status in {"INTERNAL", "UNKNOWN"}:
                    continue
                yield f"an unclear status: {each}"


class Callers:
    """Requests at a server, for its model `model` where no other is named."""

    def __init__(self, address: str, model: str = "double") -> None:
        self.model = model
        self._channel = aio.insecure_channel(address)
        self._stub = protocol.Stub(self._channel, protocol.INFERENCE)
        self._numbers = itertools.count(1)
        self._stalls: list[tuple[float, float]] = []
        self._ticking = asyncio.create_task(self._tick())

    async def _tick(self) -> None:
        """Note when this process did not run: on a machine with more to do than it has cores."""
        while True:
            began_s = time.monotonic()
            await asyncio.sleep(TICK_S)
            late_s = time.monotonic() - began_s - TICK_S
            if late_s > TICK_S:
                self._stalls.append((began_s + TICK_S, late_s))

    async def close(self) -> None:
        """Close the connection."""
        self._ticking.cancel()
        await self._channel.close()

    async def ask(self, asked: int = 0, model: str = "", rows: int = 1) -> Ended:
        """Send one request and wait for its end."""
        number = next(self._numbers) % 1_000_000
        deadline_s = DEADLINES_S[number % len(DEADLINES_S)]
        values = np.zeros((rows, 4), np.float32)
        values[:, 0] = number
        values[:, 1] = np.arange(rows)
        values[0, 3] = asked
        sent_s = time.monotonic()
        status, text, right, model = "OK", "", True, model or self.model
        try:
            call = self._stub.ModelInfer(infer_request(model, {"X": values}), timeout=deadline_s)
            answer = await call
            right = model == "calm" or np.array_equal(output_arrays(answer)["Y"], 2 * values)
        except aio.AioRpcError as error:
            status, text = error.code().name, error.details() or ""
        await asyncio.sleep(0)  # a stall that ends now is noted first
        ended_s = time.monotonic()
        stalled_s = sum(late_s for at_s, late_s in self._stalls[-200:] if at_s + late_s > sent_s)
        return Ended(number, asked, sent_s, ended_s, deadline_s, status, text, right, stalled_s)


def readiness(http: str) -> dict[str, Any]:
    """What `/readyz` says."""
    try:
        with urllib.request.urlopen(f"http://{http}/readyz", timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            found = json.load(error)
    return found


def all_up(http: str, model: str = "double") -> bool:
    """Whether every instance of a model is up."""
    [found] = [each for each in readiness(http)["models"] if each["name"] == model]
    return all(each["state"] == "up" for each in found["instances"])


def losses(http: str, model: str = "double") -> int:
    """How many instances of a model were lost so far."""
    with urllib.request.urlopen(f"http://{http}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    start = "batcher_instance_losses_total{"
    lines = [each for each in text.splitlines() if each.startswith(start)]
    own = [each for each in lines if f'model="{model}"' in each]
    return sum(int(float(each.rpartition(" ")[2])) for each in own)


async def play(server: ServerProcess, callers: Callers, kind: str, place: int) -> Round:
    """One round."""
    assert server.http is not None
    played = Round(kind)
    over = asyncio.Event()
    load = asyncio.create_task(_load(callers, played, over))
    try:
        await asyncio.sleep(CALM_S)
        before = await asyncio.to_thread(losses, server.http, callers.model)
        played.at_s = time.monotonic()
        if kind in ASKED_FOR:
            played.sent += 1
            ended = await callers.ask(ASKED_FOR[kind])
            played.ended.append(ended)
        else:
            victims = children(server.process.pid, callers.model)
            os.kill(victims[place % len(victims)], signal.Signals[kind])
        until_s = time.monotonic() + READY_S
        while time.monotonic() < until_s:
            lost = await asyncio.to_thread(losses, server.http, callers.model) - before
            over_with = lost or kind in HARMLESS
            if over_with and await asyncio.to_thread(all_up, server.http, callers.model):
                played.up_s = time.monotonic()
                break
            await asyncio.sleep(POLL_S)
        await asyncio.sleep(AFTER_S)
    finally:
        over.set()
        await asyncio.wait_for(load, 2 * max(DEADLINES_S))
    return played


async def _load(callers: Callers, played: Round, over: asyncio.Event) -> None:
    """Requests at a steady rate until it is over; returns when all have ended."""
    began_s = time.monotonic()
    calls: list[asyncio.Task[Ended]] = []
    while not over.is_set():
        calls.append(asyncio.create_task(callers.ask(rows=1 + len(calls) % 3)))
        due_s = began_s + len(calls) / RATE
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
    played.sent += len(calls)
    played.ended += await asyncio.gather(*calls)


@dataclass(slots=True)
class Result:
    """All rounds."""

    rounds: list[Round]
    problems: list[str]
    before: Held
    after: Held

    @property
    def answered(self) -> float:
        """The share of the requests outside of lost batches that was answered."""
        outside = sum((each.outside() for each in self.rounds), Counter())
        return outside["OK"] / sum(outside.values())

    @property
    def lost(self) -> list[Ended]:
        """Requests that ended because their batch was lost."""
        return [e for each in self.rounds for e in each.ended if e.lost and not e.asked]

    def checks(self) -> dict[str, bool]:
        """The bars."""
        before, after = self.before, self.after
        return {
            f"{len(self.rounds)} rounds with nothing wrong": not self.problems,
            f"{self.answered:.2%} answered outside of lost batches, at least 99 %": self.answered
            >= 0.99,
            f"processes: {before.children}, then {after.children}": before.children
            == after.children,
            f"files: {before.files}, then {after.files}": after.files <= before.files + 2,
            f"threads: {before.threads}, then {after.threads}": after.threads <= before.threads + 2,
            f"memory: {before.memory >> 20} MiB, then {after.memory >> 20} MiB": after.memory
            <= before.memory + MOST_MEMORY,
        }

    def figures(self) -> dict[str, Any]:
        """What is kept of them."""
        resumed: dict[str, list[float]] = {}
        again: dict[str, list[float]] = {}
        for each in self.rounds:
            resumed.setdefault(each.kind, []).append(each.resumed_s)
            again.setdefault(each.kind, []).append((each.up_s or np.inf) - each.at_s)
        checks = self.checks()
        return {
            "rounds": len(self.rounds),
            "ended": dict(Counter(e.status for each in self.rounds for e in each.ended)),
            "lost": len(self.lost),
            "answered_outside": round(self.answered, 5),
            "up_again_s": {kind: _spread(values) for kind, values in again.items()},
            "as_before_s": {kind: _spread(values) for kind, values in resumed.items()},
            "problems": self.problems[:20],
            "checks": checks,
        }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": round(float(np.median(values)), 3), "max": round(max(values), 3)}


async def rounds(
    server: ServerProcess, count: int, kinds: Sequence[str] = KINDS, model: str = "double"
) -> Result:
    """So many rounds at a server, the kinds in turns."""
    assert server.http is not None
    pid, played, problems = server.process.pid, [], []
    callers = Callers(server.grpc, model)
    try:
        # What is made once, and what the first loss leaves behind once, is no leak.
        for warm in ("SIGKILL", "exit"):
            await play(server, callers, warm, 0)
        before = await _held(pid)
        for number, kind in enumerate(itertools.islice(itertools.cycle(kinds), count)):
            each = await play(server, callers, kind, number)
            played.append(each)
            for problem in each.wrong():
                problems.append(f"round {number}, {kind}: {problem}")
                print(problems[-1], flush=True)
        after = await _held(pid, before)
    finally:
        await callers.close()
    return Result(played, problems, before, after)


async def _held(pid: int, before: Held | None = None) -> Held:
    """What the server has, once all that ends by itself has ended: within some seconds."""
    seen: list[Held] = []
    while len(seen) < 50:
        await asyncio.sleep(0.1)
        seen.append(held := Held.by(pid))
        if before is None:
            lately = {(each.children, each.files, each.threads) for each in seen[-10:]}
            if len(seen) >= 10 and len(lately) == 1:
                break
        elif held.files <= before.files and held.threads <= before.threads:
            break
    return held


def ends_with_the_server(server: ServerProcess, within_s: float = 10.0) -> bool:
    """Whether all children are gone soon after the server is killed."""
    own = children(server.process.pid)
    server.process.kill()
    server.process.wait()
    until_s = time.monotonic() + within_s
    while time.monotonic() < until_s:
        if own and not any(Path(f"/proc/{pid}").exists() for pid in own):
            return True
        time.sleep(0.02)
    return False


async def _calm(callers: Callers, seconds: float) -> float:
    """The p99 of the calm model, in milliseconds."""
    took, until_s = [], time.monotonic() + seconds
    while time.monotonic() < until_s:
        each = await callers.ask(model="calm")
        if each.status == "OK":
            took.append((each.ended_s - each.sent_s) * 1000)
        await asyncio.sleep(0.005)
    return float(np.percentile(took, 99))


async def crash_loop(address: str, seconds: float) -> dict[str, float]:
    """The p99 of the calm model before, and while every instance of the other crashes all the time."""
    callers = Callers(address)
    try:
        quiet = await _calm(callers, seconds)
        over = asyncio.Event()

        async def crash() -> None:
            while not over.is_set():
                await callers.ask(ASKED_FOR["exit"])
                await asyncio.sleep(0.05)

        crashing = asyncio.create_task(crash())
        loud = await _calm(callers, seconds)
        over.set()
        await crashing
    finally:
        await callers.close()
    return {"p99_ms": round(quiet, 2), "p99_ms_beside_crashes": round(loud, 2)}


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """All rounds; the servers are started and asked on a thread."""
    return await asyncio.to_thread(_run, options)


def _run(options: argparse.Namespace) -> dict[str, Any]:
    """All rounds, without and with `idempotent`; then the server itself is killed."""
    found: dict[str, Any] = {}
    for idempotent in (False, True):
        with ServerProcess(document(idempotent=idempotent)) as server:
            result = asyncio.run(rounds(server, options.rounds // 2))
            figures = result.figures()
            figures["checks"]["children end with the server"] = ends_with_the_server(server)
        show(figures["checks"])
        found["idempotent" if idempotent else "once"] = figures
    often = {"backoff": "500ms", "max_backoff": "5s", "limit": None}
    with ServerProcess(document(idempotent=False, restart=often)) as server:
        found["crash_loop"] = asyncio.run(crash_loop(server.grpc, options.seconds))
    machine.save(options.output, found)
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--rounds", type=int, default=200, help="rounds, half of them idempotent")
    parser.add_argument(
        "--seconds", type=float, default=15.0, help="of each half of the crash loop"
    )
    parser.add_argument(
        "--output", type=Path, default=machine.RESULTS / "kills.json", help="where figures go"
    )
