"""How many requests a second the scheduler core takes, through the virtual-time driver.

Two loads on one emulated device, l(b) = 5 ms + 0.5 ms a row, at most 32 rows a batch, Poisson
arrivals of one row: `steady` is the policy `fixed` at 80 % of the device's capacity, `overload` is
the same at 150 % with a deadline on every request, so that expiry works all the time. What is
timed is the core and the driver around it; the arrivals are made beforehand.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import pstats
import random
import time
from collections import Counter
from dataclasses import dataclass

from batcher.clock import MILLISECOND, SECOND
from batcher.core.commands import Dispatch, Outcome, Settle
from batcher.core.events import Event, InstanceUp, ModelConfigured, RequestArrived
from batcher.core.scheduler import Scheduler
from batcher.core.settings import FixedWindow, ModelSettings
from batcher.simulation import Driver, LoggedStep

MAX_ROWS = 32
BASE_NS = 5 * MILLISECOND
PER_ROW_NS = MILLISECOND // 2
CAPACITY = MAX_ROWS * SECOND / (BASE_NS + MAX_ROWS * PER_ROW_NS)
SETTINGS = ModelSettings(MAX_ROWS, FixedWindow(max_delay_ns=2 * MILLISECOND))


@dataclass(frozen=True)
class Load:
    """A share of the device's capacity, and how long a caller waits (None: for ever)."""

    share: float
    patience_ns: int | None


LOADS = {"steady": Load(0.8, None), "overload": Load(1.5, 50 * MILLISECOND)}


def service_ns(dispatch: Dispatch) -> int:
    """The emulated device."""
    return BASE_NS + PER_ROW_NS * sum(part.stop - part.start for part in dispatch.parts)


def arrivals(load: Load, requests: int, seed: int) -> list[tuple[int, Event]]:
    """A model, an instance, then Poisson arrivals of one row each."""
    draw = random.Random(seed)
    events: list[tuple[int, Event]] = [
        (0, ModelConfigured("m", SETTINGS)),
        (0, InstanceUp("m/0", 1, "m", "device")),
    ]
    at_ns = 0
    for request_id in range(requests):
        at_ns += int(draw.expovariate(load.share * CAPACITY) * SECOND)
        expires_ns = None if load.patience_ns is None else at_ns + load.patience_ns
        events.append(
            (
                at_ns,
                RequestArrived(request_id, "m", 1, 64, (), "", at_ns, deadline_ns=expires_ns),
            )
        )
    return events


def play(events: list[tuple[int, Event]]) -> tuple[float, list[LoggedStep]]:
    """Seconds of this core's time that the events take, and what the scheduler commanded."""
    driver = Driver(Scheduler(), service_ns)
    gc.collect()
    began = time.process_time()
    log = driver.run(events)
    return time.process_time() - began, log


def summary(log: list[LoggedStep]) -> str:
    """What became of the requests, so that a speed-up that changes decisions shows."""
    outcomes: Counter[Outcome] = Counter()
    batches = 0
    for step in log:
        for command in step.commands:
            if isinstance(command, Settle):
                outcomes[command.outcome] += len(command.ids)
            batches += isinstance(command, Dispatch)
    ended = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    return f"{ended}; {batches} batches, {len(log)} steps"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--requests", type=int, default=100_000, help="requests a run (%(default)s)"
    )
    parser.add_argument("--repeat", type=int, default=3, help="runs; the best counts (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the arrivals (%(default)s)")
    parser.add_argument("--load", choices=sorted(LOADS), action="append", help="default: all")
    parser.add_argument("--profile", action="store_true", help="print where the time goes instead")
    options = parser.parse_args()
    for name in options.load or LOADS:
        events = arrivals(LOADS[name], options.requests, options.seed)
        if options.profile:
            profiler = cProfile.Profile()
            profiler.runcall(play, events)
            pstats.Stats(profiler).sort_stats("tottime").print_stats(18)
            continue
        seconds, log = min((play(events) for _ in range(options.repeat)), key=lambda run: run[0])
        print(f"{name}: {options.requests / seconds:,.0f} requests/s ({summary(log)})")


if __name__ == "__main__":
    main()
