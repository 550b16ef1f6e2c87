"""The end of every request in a fixed set of simulations: shows whether a change keeps behavior the same.

A scene's digest covers, for each request in order of arrival, how and when it ended, and when and
beside how many rows it ran. It holds numbers alone, so that renames do not change it, and nothing in
it depends on the machine.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from hashlib import blake2b
from math import inf
from pathlib import Path
from typing import Any, Final, TypeAlias

from outcome_scenes import scenes
from scripted import Fault, Request, Scene, arrival, cancellation

from batcher.core.commands import Command, Dispatch, Outcome, Settle
from batcher.core.events import BatchProgress, Event, Failure, FailureCause, Timings
from batcher.core.scheduler import Scheduler
from batcher.simulation.engine.driver import Driver, succeed
from batcher.simulation.engine.prefetch import PrefetchDriver
from batcher.testing.invariants import validate

KEPT: Final = Path(__file__).resolve().parents[1] / "results" / "outcomes.json"

ANSWERED, REFUSED, EXPIRED, CANCELLED, FAILED = range(1, 6)
CODES: Final = {
    Outcome.OK: ANSWERED,
    Outcome.REJECTED: REFUSED,
    Outcome.EXPIRED: EXPIRED,
    Outcome.CANCELLED: CANCELLED,
    Outcome.FAILED: FAILED,
}
"""What the file calls each outcome; 0 is a request that never ended."""

CAUSES: Final = {
    Fault.DEVICE: FailureCause.DEVICE,
    Fault.INPUT: FailureCause.INPUT,
    Fault.UNKNOWN: FailureCause.UNKNOWN,
}

Figures: TypeAlias = dict[str, Any]


class Played:
    """Plays one scene when it is made, and keeps how its requests ended."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.arrived_ns: list[int] = []
        self.ended: dict[int, tuple[int, ...]] = {}
        """By request: its outcome, when it ended, why, and after how long a retry makes sense."""
        self.ran: dict[int, list[tuple[int, ...]]] = {}
        """By request, for each batch it was in: when it was dispatched, rows and requests of the batch,
        the request's own rows, the place of the instance, and which attempt it was."""
        self.other_ns: list[int] = []
        """Moments of the commands that end nothing and start nothing, such as those of a failure storm."""
        self.batches = self.rows = 0
        self._reasons: dict[object, int] = {}
        self._draw = random.Random(scene.seed)
        self._sent: list[Request] = []
        self._unsent: list[Request] = []
        self._failed_once: set[int] = set()
        self._busy_until_ns: dict[str, list[int]] = {}
        self._ends_ns = 0
        self._scheduler = Scheduler()
        self._driver = self._shell()
        self._play()
        validate(self._scheduler)

    def lines(self) -> Iterator[str]:
        """A line for each request, in order of arrival, and one for the rest."""
        order = sorted(range(len(self.arrived_ns)), key=self.arrived_ns.__getitem__)
        for place, request_id in enumerate(order):
            ended = self.ended.get(request_id, (0,))
            yield f"{place} {ended} {self.ran.get(request_id, [])}"
        yield f"{self._scheduler.now_ns} {self.other_ns}"

    def figures(self) -> Figures:
        """The digest, and what a person can compare."""
        found = blake2b(digest_size=16)
        for line in self.lines():
            found.update(f"{line}\n".encode())
        ends = Counter(ended[0] for ended in self.ended.values())
        return {
            "digest": found.hexdigest(),
            "requests": len(self.arrived_ns),
            "answered": ends[ANSWERED],
            "refused": ends[REFUSED],
            "expired": ends[EXPIRED],
            "cancelled": ends[CANCELLED],
            "failed": ends[FAILED],
            "last_end_ns": max((ended[1] for ended in self.ended.values()), default=0),
            "batches": self.batches,
            "rows": self.rows,
        }

    def _play(self) -> None:
        scene = self.scene
        before = [event for at_ns, event in scene.changes if at_ns == 0]
        after = [(at_ns, 0, event) for at_ns, event in scene.changes if at_ns > 0]
        self._driver.step(before, 0)
        if scene.callers:
            self._unsent = scene.requests[::-1]
            for _ in range(scene.callers):
                self._send_next(0)
        else:
            for request in sorted(scene.requests, key=lambda request: request.at_ns):
                after += [(at_ns, 1, event) for at_ns, event in self._send(request, request.at_ns)]
        # Sorting is stable: arrivals of one moment stay in their order.
        timeline = sorted(after, key=lambda entry: entry[:2])
        self._driver.run((at_ns, event) for at_ns, _, event in timeline)

    def _send(self, request: Request, at_ns: int) -> Iterator[tuple[int, Event]]:
        request_id = len(self.arrived_ns)
        self.arrived_ns.append(at_ns)
        self._sent.append(request)
        yield at_ns, arrival(request_id, request, at_ns)
        if request.cancel_after_ns is not None:
            yield at_ns + request.cancel_after_ns, cancellation(request_id, request)

    def _send_next(self, at_ns: int) -> None:
        if self._unsent:
            for moment_ns, event in self._send(self._unsent.pop(), at_ns):
                self._driver.post(moment_ns, event)

    def _shell(self) -> Driver:
        scene = self.scene
        common: dict[str, Any] = {
            "observe": self._observe,
            "outcome": self._report,
            "reply_ns": scene.reply_ns,
            "pauses": scene.pauses,
        }
        if scene.late_ns:
            common["timer_delay"] = lambda: self._draw.randrange(scene.late_ns)
        if scene.copy_ns:
            common["copy_ns"] = lambda _: scene.copy_ns
        if scene.gap_ns or scene.copy_ns:
            return PrefetchDriver(self._scheduler, self._run, scene.gap_ns, **common)
        return Driver(self._scheduler, self._takes_ns, **common)

    def _takes_ns(self, dispatch: Dispatch) -> int:
        now_ns = self._scheduler.now_ns
        return self._run(dispatch, now_ns)[1] - now_ns

    def _run(self, dispatch: Dispatch, from_ns: int) -> tuple[int, int]:
        """When the batch begins and ends."""
        scene = self.scene
        rows = sum(part.stop - part.start for part in dispatch.parts)
        length = dispatch.bucket[0][0] if dispatch.bucket else 0
        took_ns: float = scene.takes_ns(dispatch.model, rows, length)
        if scene.noise:
            took_ns *= self._draw.uniform(1 - scene.noise, 1 + scene.noise)
        for begins_ns, ends_ns, factor in scene.slow:
            if begins_ns <= from_ns < ends_ns:
                took_ns *= factor
        beside = self._busy_until_ns.setdefault(scene.device_of[dispatch.instance], [])
        while beside and beside[0] <= from_ns:
            heapq.heappop(beside)
        took_ns *= 1 + scene.crowding * len(beside)
        self._ends_ns = from_ns + round(took_ns)
        heapq.heappush(beside, self._ends_ns)
        return from_ns, self._ends_ns

    def _report(self, dispatch: Dispatch, timings: Timings) -> BatchProgress:
        """What the batch that was begun last reports in the end."""
        whole = succeed(dispatch, timings)
        ids = [part.id for part in dispatch.parts]
        rows = sum(part.stop - part.start for part in dispatch.parts)
        if self.scene.needs_rows(dispatch.model, rows) > (self.scene.room_rows or inf):
            return replace(whole, done=(), error=FailureCause.MEMORY)
        for begins_ns, ends_ns, cause in self.scene.outages:
            if begins_ns <= self._ends_ns < ends_ns:
                return replace(whole, done=(), error=CAUSES[cause])
        faults = {i: self._sent[i].fault for i in ids}
        for request_id, fault in faults.items():
            if fault is Fault.ONCE and request_id not in self._failed_once:
                self._failed_once.add(request_id)
                return replace(whole, done=(), error=FailureCause.UNKNOWN)
            if fault in CAUSES:
                return replace(whole, done=(), error=CAUSES[fault])
        named = tuple(i for i, fault in faults.items() if fault is Fault.NAMED)
        done = tuple(i for i in ids if i not in named)
        if self.scene.in_parts and len(done) > 1:
            half = len(done) // 2
            first = replace(whole, done=done[:half], last=False, timings=None)
            self._driver.post((self._scheduler.now_ns + self._ends_ns) // 2, first)
            done = done[half:]
        return replace(
            whole, done=done, failed=tuple(Failure(i, FailureCause.INPUT) for i in named)
        )

    def _observe(self, now_ns: int, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Settle):
                # Reasons are numbered as they come up, so that their names do not matter.
                why = self._reasons.setdefault(command.reason, len(self._reasons))
                retry_ns = -1 if command.retry_after_ns is None else command.retry_after_ns
                for request_id in command.ids:
                    if request_id in self.ended:
                        raise AssertionError(f"request {request_id} ended twice")
                    self.ended[request_id] = (CODES[command.outcome], now_ns, why, retry_ns)
                    self._send_next(now_ns + self.scene.think_ns)
            elif isinstance(command, Dispatch):
                sizes = [part.stop - part.start for part in command.parts]
                self.batches += 1
                self.rows += sum(sizes)
                place = list(self.scene.device_of).index(command.instance)
                for part, size in zip(command.parts, sizes, strict=True):
                    ran = (now_ns, sum(sizes), len(sizes), size, place, command.attempt)
                    self.ran.setdefault(part.id, []).append(ran)
            else:
                self.other_ns.append(now_ns)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What `run` reads from the command line."""
    for option, text in (("save", "keep the outcomes in FILE"), ("check", "compare with FILE")):
        parser.add_argument(
            f"--{option}",
            type=Path,
            nargs="?",
            const=KEPT,
            metavar="FILE",
            help=f"outcomes: {text} ({KEPT.parent.name}/{KEPT.name})",
        )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="outcomes: scenes whose name has TEXT"
    )
    parser.add_argument(
        "--show", metavar="NAME", help="outcomes: print each request of one scene, to diff them"
    )


def play(found: Mapping[str, Callable[[], Scene]]) -> dict[str, Figures]:
    """The figures of these scenes."""
    return {name: Played(make()).figures() for name, make in found.items()}


def differences(kept: Mapping[str, Figures], now: Mapping[str, Figures]) -> list[str]:
    """For each scene that ended differently: its name, and both figures."""
    found = []
    for name in sorted(kept.keys() | now.keys()):
        before, after = kept.get(name), now.get(name)
        if before != after:
            found.append(f"{name}\n  kept {_shown(before)}\n  now  {_shown(after)}")
    return found


def _shown(figures: Figures | None) -> str:
    if figures is None:
        return "no such scene"
    return "  ".join(f"{key} {value}" for key, value in figures.items())


def run(options: argparse.Namespace, found: Mapping[str, Callable[[], Scene]] | None = None) -> int:
    """Play, then save, compare or print, as the options say. Returns the exit status."""
    found = scenes() if found is None else found
    if options.save and options.only:
        sys.exit("--save keeps every scene; leave --only out")
    if options.show:
        if options.show not in found:
            print("\n".join(found))
            return 2
        print("\n".join(Played(found[options.show]()).lines()))
        return 0
    now = play({name: make for name, make in found.items() if options.only in name})
    if options.save:
        # A scene a line, so that a change of one is a change of one line.
        rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(now[name])}" for name in sorted(now))
        options.save.write_text(f'{{"scenes": {{\n{rows}\n}}}}\n')
        print(f"{len(now)} scenes written to {options.save}")
    elif options.check:
        kept = json.loads(options.check.read_text())["scenes"]
        kept = {name: figures for name, figures in kept.items() if options.only in name}
        different = differences(kept, now)
        print("\n".join(different))
        print(f"{len(different)} of {len(now)} scenes ended differently than in {options.check}")
        return 1 if different else 0
    else:
        for name, figures in now.items():
            print(f"{name}\n  {_shown(figures)}")
    return 0
