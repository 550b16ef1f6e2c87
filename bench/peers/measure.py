"""What is asked of each server: the best of its settings, then its figures with those."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from emulated import CAPACITY
from open_loop import Round
from processes import NotStartedError
from search_rate import STEP, best, highest
from servers import Server, Settings
from trial import Durations, Trial

LEAST_RATE, MOST_RATE = 10.0, CAPACITY
"""Requests a second: below the first a server is said to hold none; no server exceeds the device."""

SAME_RATE = 200.0
"""Requests a second at which latency and processor time are compared: an eighth of what the device
serves, and the highest rate of which none of the servers was far from on the core that it has."""

OVERLOAD = 1.5
"""Times a server's own highest rate."""

GRACE_S = 12.0
"""So long a search that has begun in time goes on at most: the last of a server's three takes that."""

BETTER = 1.03
"""A setting must hold this much more than the best so far to take its place: half of that is noise."""


@dataclass(slots=True)
class Session:
    """A server that is started when needed, and again where it does not recover from a round."""

    server: Server
    settings: Settings
    python: Path
    core: int
    durations: Durations
    restarts: int = 0
    start_s: float = 0.0
    reported_version: str = ""
    """As the server says; empty where it says none."""
    rounds: list[Round] = field(default_factory=list)
    _trial: Trial | None = None
    _seed: int = 0

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stop()

    async def round(self, rate: float, seconds: float, *, stop_early: bool = True) -> Round:
        """Offer a rate, and wait until nothing is left of it."""
        if self._trial is None:
            self.restarts += 1
            await self._start()
        assert self._trial is not None
        self._seed += 1
        try:
            found = await self._trial.round(rate, seconds, seed=self._seed, stop_early=stop_early)
        except OSError as error:
            await self._stop()
            return Round.lost(rate, f"no connection: {error.strerror}")
        self.rounds.append(found)
        if not found.holds and not await self._trial.calm():
            await self._stop()
        return found

    async def holds(self, rate: float, seconds: float) -> bool:
        """Whether 99 % of that rate were in time, in one of `tries` rounds.

        A core that stands still for 60 ms makes 2 % of a round of 3 s late at any rate; what is
        clearly lost is not tried again.
        """
        for _ in range(self.durations.tries):
            found = await self.round(rate, seconds)
            if found.holds or found.stopped:
                break
        return found.holds

    async def throughput(self) -> float:
        """About how many requests a second it answers of as many as the device serves.

        It is started again afterwards: some servers remember such a second for minutes.
        """
        found = await self.round(MOST_RATE, 1.0, stop_early=False)
        await self._stop()
        await self._start()
        return (found.on_time + found.late) / max(found.seconds, 1e-9)

    async def _start(self) -> None:
        trial = Trial(self.server, self.settings, self.python, self.core)
        await trial.__aenter__()
        self._trial = trial
        self.start_s = trial.start_s
        self.reported_version = trial.reported_version()
        await trial.warm(self.durations.warm)

    async def _stop(self) -> None:
        if self._trial is not None:
            trial, self._trial = self._trial, None
            await trial.__aexit__(None, None, None)


class Tuning:
    """Tries the settings of a server, stage by stage, and keeps the best."""

    def __init__(self, server: Server, python: Path, core: int, durations: Durations) -> None:
        self._server, self._python, self._core, self._durations = server, python, core, durations
        self._end = time.monotonic() + durations.tune
        self.settings = dict(server.defaults)
        self.rate = 0.0
        self.tried: list[dict[str, Any]] = []

    async def run(self) -> None:
        """Leave the best settings in `settings`. Raises `NotStartedError` where none could start."""
        for stage in self._server.stages:
            await self._stage(stage)
        if not self.rate and all("failed" in each for each in self.tried):
            raise NotStartedError(self.tried[0]["failed"])
        if self._server.overload and self.rate:
            await self._refusing()

    async def _stage(self, changes: Sequence[Settings]) -> None:
        options = [self.settings | change for change in changes]
        before = self.settings, self.rate

        async def one(settings: Settings, best_rate: float) -> float:
            return await self._one(settings, max(best_rate, before[1]))

        settings, rate, _ = await best(options, one)
        if rate > before[1] or not before[1]:
            self.settings, self.rate = settings, rate

    async def _one(self, settings: Settings, best_rate: float) -> float:
        """The highest rate of these settings; 0 where it is no more than the best so far."""
        row: dict[str, Any] = {"settings": settings}
        self.tried.append(row)
        began = time.monotonic()
        if began > self._end and best_rate:
            row["failed"] = "not tried: no time was left"
            return 0.0
        seconds = self._durations.sweep
        try:
            async with self._session(settings) as session:
                self._end += session.start_s  # what a start takes is no time for trying
                if best_rate:
                    more = best_rate * BETTER
                    if more > MOST_RATE or not await session.holds(more, seconds):
                        row["highest"] = f"not {more:.0f}"
                        return 0.0
                guess = best_rate * BETTER * STEP if best_rate else await session.throughput()
                rate = await highest(
                    lambda rate: session.holds(rate, seconds),
                    guess=guess,
                    least=max(LEAST_RATE, best_rate * BETTER),
                    most=MOST_RATE,
                    tolerance=0.05,
                    stop=lambda: time.monotonic() > self._end + GRACE_S,
                )
                rate = max(rate, best_rate * BETTER)
                row["highest"] = round(rate)
                return rate
        except NotStartedError as error:
            row["failed"] = str(error)
            return 0.0
        finally:
            row["seconds"] = round(time.monotonic() - began, 1)

    async def _refusing(self) -> None:
        """Of what decides who is refused, keep what answers most in time under overload."""
        most = 0.0
        kept = self.settings
        for change in ({}, *self._server.overload):
            settings = self.settings | change
            row: dict[str, Any] = {"settings": settings}
            self.tried.append(row)
            try:
                async with self._session(settings) as session:
                    found = await session.round(
                        self.rate * OVERLOAD, self._durations.sweep, stop_early=False
                    )
                    row["in_time_under_overload"] = round(found.in_time_a_second)
                    good = found.in_time_a_second > most * BETTER
                    if good and (not change or await session.holds(self.rate * 0.9, 1.0)):
                        most, kept = found.in_time_a_second, settings
            except NotStartedError as error:
                row["failed"] = str(error)
        self.settings = kept

    def _session(self, settings: Settings) -> Session:
        return Session(self._server, settings, self._python, self._core, self._durations)


def _calmest(found: Round) -> tuple[int, float]:
    """The greater, the more are in time and the lower the p99.

    One round comes before all compilers have done their work, the other after what overload leaves.
    """
    return found.on_time, -found.latency_ms.get("p99", float("inf"))


async def measure(server: Server, python: Path, core: int, durations: Durations) -> dict[str, Any]:
    """Tune a server and measure it. Raises `NotStartedError` where it cannot be started."""
    began = time.monotonic()
    tuning = Tuning(server, python, core, durations)
    await tuning.run()
    tuned_s = time.monotonic() - began
    found: dict[str, Any] = {"settings": tuning.settings, "tried": tuning.tried}
    async with Session(server, tuning.settings, python, core, durations) as session:
        same = [await session.round(SAME_RATE, durations.same, stop_early=False)]
        rates, guess = [], tuning.rate or SAME_RATE
        end = time.monotonic() + durations.search
        while len(rates) < durations.repeats and (not rates or time.monotonic() < end):
            rate = await highest(
                lambda rate: session.holds(rate, durations.final),
                guess=guess,
                least=LEAST_RATE,
                most=MOST_RATE,
                stop=lambda: time.monotonic() > end + GRACE_S,
            )
            rates.append(rate)
            guess = statistics.median(rates) or guess
        top = statistics.median(rates)
        held = [each for each in session.rounds if each.holds and each.rate >= 0.9 * top]
        same.append(await session.round(SAME_RATE, durations.same, stop_early=False))
        over = await session.round((top or SAME_RATE) * OVERLOAD, durations.final, stop_early=False)
    if session.reported_version:
        found["version"] = session.reported_version
    return found | {
        "start_s": round(session.start_s, 1),
        "highest": round(top, 1),
        "highest_each": [round(rate, 1) for rate in rates],
        "at_same_rate": max(same, key=_calmest).kept(),
        "at_highest": held[-1].kept() if held else None,
        "overload": over.kept(),
        "restarts": session.restarts,
        "seconds": {"tuned": round(tuned_s), "in_all": round(time.monotonic() - began)},
    }


def installed(python: Path, package: str) -> str:
    """The version of a package in an environment."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
