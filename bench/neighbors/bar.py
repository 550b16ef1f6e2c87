"""batcher before a server whose own batching is off, beside that server with its own at its best.

Both sides run on one core, the load on another; the same emulated device, requests and arrivals. The
best settings are looked for on both sides: with each the rate climbs, with the best two it is searched.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import machine
import uvloop
from bars import Held, show
from model_servers import MLServer, ModelServer, NotReadyError, Triton
from rates import Highest, Played, facts, highest, play, probed

from batcher.testing.server import ServerProcess

BASE_S, ROW_S, MOST_ROWS = 0.005, 0.0005, 32
CAPACITY = MOST_ROWS / (BASE_S + ROW_S * MOST_ROWS)
"""Rows a second that the device could do: no rate above it can hold."""
LOWEST = 100.0
START, CLIMB = 900.0, 1.12
"""Where the sweep begins, and its steps."""
SCREEN_S, SEARCH_S = 2.0, 3.0
WARM_RATE, WARM_S = 400.0, 1.5
BARS = {"triton": 1.3, "mlserver": 2.0}


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to run a server, with or without batcher in front."""

    name: str
    start: Callable[[Path], ModelServer]
    in_flight: int = 0
    """Of batcher in front of it; 0: the load goes to the server itself."""


@dataclass(slots=True)
class Side:
    """One of the two that are compared."""

    name: str
    settings: list[Setting]
    screened: dict[str, Played] = field(default_factory=dict)
    found: dict[str, list[Highest]] = field(default_factory=dict)
    best: Setting | None = None

    @property
    def rate(self) -> float:
        """The highest that was found with the best setting: spells of a machine only make it lower."""
        assert self.best is not None
        return max(each.rate for each in self.found[self.best.name])

    def facts(self) -> dict[str, Any]:
        """For the results' file."""
        assert self.best is not None
        return {
            "best": self.best.name,
            "rate": self.rate,
            "of_capacity": round(self.rate / CAPACITY, 3),
            "screened": {
                name: {"rate": run.rate, "on_time": run.on_time}
                for name, run in self.screened.items()
            },
            "searched": {name: [facts(each) for each in runs] for name, runs in self.found.items()},
        }


def triton(extra: str) -> Callable[[Path], ModelServer]:
    """Triton with these lines of configuration."""
    return lambda folder: Triton(folder, models={"double": extra}, base_s=BASE_S, per_row_s=ROW_S)


def mlserver(batching: dict[str, Any] | None, workers: int) -> Callable[[Path], ModelServer]:
    """MLServer with these keys of adaptive batching."""
    return lambda folder: MLServer(
        folder, base_s=BASE_S, per_row_s=ROW_S, batching=batching, workers=workers
    )


def triton_sides() -> tuple[Side, Side]:
    """What is swept in front of Triton, and of Triton's dynamic batching.

    Preferred sizes and the longest wait are what Triton's documentation says to tune; then limits of
    its queue, and a second instance that shares the device.
    """
    ours = [
        Setting(f"{count} instances, {in_flight} in flight", triton(instances(count)), in_flight)
        for count, in_flight in ((1, 1), (1, 2), (1, 3), (2, 2))
    ]
    grid = [
        ("", 0, "", 1),
        ("", 1000, "", 1),
        ("", 4000, "", 1),
        ("8, 16, 32", 0, "", 1),
        ("32", 4000, "", 1),
        ("", 0, REJECT, 1),
        ("", 0, "", 2),
        ("", 1000, "", 2),
    ]
    theirs = [
        Setting(
            f"sizes [{sizes}], wait {wait_us} us, queue {{{limits}}}, {count} instances",
            triton(dynamic(sizes, wait_us, limits) + instances(count)),
        )
        for sizes, wait_us, limits, count in grid
    ]
    return Side("batcher, Triton without batching", ours), Side("Triton alone", theirs)


REJECT = "timeout_action: REJECT default_timeout_microseconds: 25000"


def dynamic(sizes: str, wait_us: int, limits: str) -> str:
    """Triton's section for dynamic batching."""
    words = [f"max_queue_delay_microseconds: {wait_us}"]
    if sizes:
        words.append(f"preferred_batch_size: [ {sizes} ]")
    if limits:
        words.append(f"default_queue_policy {{ {limits} }}")
    return f"dynamic_batching {{ {' '.join(words)} }}\n"


def instances(count: int) -> str:
    """Further instances on the same device."""
    more = "instance_group [ { kind: KIND_CPU count: 1 } ]\n"
    return more * (count - 1)


def mlserver_sides() -> tuple[Side, Side]:
    """The same for MLServer and its adaptive batching: size, wait, and processes beside the listener."""
    ours = [
        Setting(f"{workers} workers, {in_flight} in flight", mlserver(None, workers), in_flight)
        for workers, in_flight in ((0, 1), (0, 2), (1, 2))
    ]
    theirs = [
        Setting(
            f"size {size}, wait {wait_s} s, {workers} workers",
            mlserver({"max_batch_size": size, "max_batch_time": wait_s}, workers),
        )
        for size, wait_s, workers in (
            (32, 0.005, 0),
            (32, 0.001, 0),
            (32, 0.015, 0),
            (16, 0.005, 0),
            (32, 0.005, 1),
        )
    ]
    return Side("batcher, MLServer without batching", ours), Side("MLServer alone", theirs)


SIDES = {"triton": triton_sides, "mlserver": mlserver_sides}


@contextmanager
def running(setting: Setting, core: int) -> Iterator[str]:
    """The address to ask; all servers run on that core."""
    with tempfile.TemporaryDirectory() as folder, machine.children_on(core):
        server = setting.start(Path(folder))
        with server:
            if not setting.in_flight:
                yield server.grpc  # type: ignore[attr-defined]
                return
            with ServerProcess(front(server, setting.in_flight)) as batcher:
                yield batcher.grpc


def front(server: ModelServer, in_flight: int) -> dict[str, Any]:
    """The configuration of batcher before a server."""
    model = {
        "name": "double",
        "executor": "kserve",
        "options": {"url": server.grpc},  # type: ignore[attr-defined]
        "max_in_flight": in_flight,
        "batching": {"max_batch_size": MOST_ROWS, "target_p99": "50ms"},
    }
    return {"models": [model]}


class Bench:
    """One comparison, in a bounded number of runs."""

    def __init__(self, options: argparse.Namespace, cores: tuple[int, int]) -> None:
        self._options = options
        self._core, load_core = cores
        machine.stay_on(load_core)

    def compare(self, name: str) -> dict[str, Any]:
        """Sweep both sides, then search the best of each in turns."""
        ours, theirs = SIDES[name]()
        for side in (theirs, ours):
            self._sweep(side)
        for _ in range(self._options.repeats - 1):
            for side in (ours, theirs):
                assert side.best is not None
                self._search(side, side.best, near=side.rate)
        ratio = ours.rate / theirs.rate if theirs.rate else float("inf")
        print(f"{name}: {ours.rate:g} a second, alone {theirs.rate:g}: {ratio:.2f} times")
        judged = [
            each.not_judged
            for side in (ours, theirs)
            for each in side.found[side.best.name if side.best else ""]
        ]
        held: Held = ratio >= BARS[name]
        if not held and any(judged):
            held = next(why for why in judged if why)
        checks = {f"{BARS[name]:g} times the rate of {theirs.name}": held}
        show(checks)
        return {
            "ours": ours.facts(),
            "alone": theirs.facts(),
            "ratio": round(ratio, 3),
            "checks": checks,
        }

    def _sweep(self, side: Side) -> None:
        """Climb with each setting while 99 % are on time; search with those that came highest."""
        rate = START
        for setting in side.settings:
            run = self._screened(setting, rate)
            if run is None:
                continue
            side.screened[setting.name] = run
            rate = max(LOWEST, run.rate / CLIMB)  # what follows begins near it
            print(f"  {side.name}: {setting.name}: {run.on_time:.3f} on time at {run.rate:.0f}")
        ranked = sorted(
            (each for each in side.settings if each.name in side.screened),
            key=lambda each: _rank(side.screened[each.name]),
        )
        for setting in ranked[: self._options.searched]:
            self._search(side, setting, near=side.screened[setting.name].rate)
        side.best = max(
            (each for each in side.settings if each.name in side.found),
            key=lambda each: side.found[each.name][0].rate,
        )

    def _search(self, side: Side, setting: Setting, near: float) -> Highest:
        low, high = max(LOWEST, near * 0.8), min(CAPACITY, near * 1.25)

        async def search(address: str) -> Highest:
            payload = await probed(address)
            await play(address, payload, WARM_RATE, WARM_S, 0)
            return await highest(address, payload, low, high, SEARCH_S, self._options.seed)

        found = self._with(setting, search)
        side.found.setdefault(setting.name, []).append(found)
        print(
            f"  {side.name}: {setting.name}: {found.rate:g} a second; the load took"
            f" {found.load_busy:.0%} of its core {found.not_judged}",
            flush=True,
        )
        return found

    async def _screen(self, address: str, rate: float) -> Played:
        """The highest step that held, or the lowest one that did not."""
        payload = await probed(address)
        await play(address, payload, min(rate, WARM_RATE), WARM_S, 0)
        run = await play(address, payload, rate, SCREEN_S, self._options.seed)
        up = run.holds
        while LOWEST < run.rate < CAPACITY:
            beyond = run.rate * CLIMB if up else run.rate / CLIMB
            step = await play(address, payload, beyond, SCREEN_S, self._options.seed)
            if up and not step.holds:
                break
            run = step
            if run.holds and not up:
                break
        return run

    def _with(self, setting: Setting, do: Callable[[str], Any]) -> Any:
        with running(setting, self._core) as address:
            return uvloop.run(do(address))

    def _screened(self, setting: Setting, rate: float) -> Played | None:
        """How a setting does at a rate; None if the server does not start with it."""
        try:
            return self._with(setting, lambda address: self._screen(address, rate))
        except NotReadyError as error:
            print(f"  {setting.name}: it does not start: {str(error).strip().splitlines()[-1]}")
            return None


def _rank(run: Played) -> tuple[bool, float, float]:
    """Orders what a sweep found, the best first."""
    return not run.holds, -run.rate if run.holds else 0.0, -run.on_time


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All comparisons that were asked for."""
    cores = machine.cores()
    bench = Bench(options, cores)
    names = options.only or list(SIDES)
    found = {name: bench.compare(name) for name in names}
    kept = {"repeats": options.repeats, "seed": options.seed, "cores": cores}
    machine.save(options.output, {"settings": kept, **found})
    return found


def options(commands: Any) -> None:
    """The command line."""
    parser = commands.add_parser("rates", help=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", action="append", choices=list(SIDES))
    parser.add_argument("--repeats", type=int, default=2, help="searches of each side's best")
    parser.add_argument("--searched", type=int, default=2, help="settings searched after the sweep")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=machine.RESULTS / "neighbors-rates.json")
    parser.set_defaults(run=run)
