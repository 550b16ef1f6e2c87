"""The highest rate of random arrivals at which 99 % of the answers are on time."""

from __future__ import annotations

import gc
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import quiet
from clients import Calls, Record
from payload import UNARY, Payload, make_request
from poisson import arrivals_ns, drive

from batcher.clock import MILLISECOND, SECOND
from batcher.protocol import inference

COLUMNS, TARGET_MS, ON_TIME = 16, 50.0, 0.99
WARMUP_S = 0.5
CONNECTIONS = 4
STEP = 1.03
"""Rates are told apart to this factor."""
NEVER_MS = 1e6
"""Stands for the latency of a request that was not answered."""


@dataclass(slots=True)
class Played:
    """One run at one rate."""

    rate: float
    on_time: float
    """The share of the requests that were answered within the target; refused ones were not."""
    p99_ms: float
    failed: dict[str, int]
    sent_late_ms: float
    """The p99 of how late the load was."""
    load_busy: float
    """The part of the load's core that the load took."""

    @property
    def holds(self) -> bool:
        """Whether 99 % were on time."""
        return self.on_time >= ON_TIME

    @property
    def judged(self) -> bool:
        """Whether the load was sent when it was due."""
        return self.sent_late_ms <= quiet.LATE_MS


@dataclass(slots=True)
class Highest:
    """What a search found; a rate of 0 says that none held."""

    rate: float = 0.0
    runs: list[Played] = field(default_factory=list)

    @property
    def load_busy(self) -> float:
        """The most that the load took of its core."""
        return max((run.load_busy for run in self.runs), default=0.0)

    @property
    def not_judged(self) -> str:
        """Why the rate may be too low: the load was late in a run that did not hold."""
        late = sum(not run.judged and not run.holds for run in self.runs)
        return f"not judged: the load was late in {late} of {len(self.runs)} runs" if late else ""


async def probed(address: str, model: str = "double") -> Payload:
    """The load's request and the length of its answer, which is checked once."""
    request = make_request(model, COLUMNS)
    async with grpc.aio.insecure_channel(address) as channel:
        answer = await channel.unary_unary(UNARY)(request)
    found = inference.ModelInferResponse.FromString(answer)
    place = next(i for i, output in enumerate(found.outputs) if output.name == "Y")
    got = np.frombuffer(found.raw_output_contents[place], "<f4")
    if not np.array_equal(got, 2 * np.arange(COLUMNS, dtype="<f4")):
        raise SystemExit(f"{address}: the answer is wrong: {got}")
    return Payload(request, len(answer), 0)


async def play(address: str, payload: Payload, rate: float, seconds: float, seed: int) -> Played:
    """Offer that rate once, after half a second that does not count."""
    due_ns = arrivals_ns(rate, WARMUP_S + seconds, seed)
    record = Record()
    load = Calls(payload, record, None)
    await load.open(address, CONNECTIONS)
    # A collection in the middle would be measured as the server's latency.
    gc.collect()
    gc.disable()
    used_s = time.process_time()
    took_s = await drive(load, due_ns, record)
    gc.enable()
    counted = [place for place, at in enumerate(due_ns) if at >= WARMUP_S * SECOND]
    latency_ns = record.latency_ns
    took_ms = np.array(
        [latency_ns[n] / MILLISECOND if n in latency_ns else NEVER_MS for n in counted]
    )
    late_ms = np.array([record.sent_late_ns[place] for place in counted]) / MILLISECOND
    return Played(
        rate,
        round(float(np.mean(took_ms <= TARGET_MS)), 5),
        round(float(np.percentile(took_ms, 99)), 2),
        dict(Counter(record.failed.values())),
        round(float(np.percentile(late_ms, 99)), 2),
        round((time.process_time() - used_s) / took_s, 3),
    )


async def highest(
    address: str, payload: Payload, low: float, high: float, seconds: float, seed: int
) -> Highest:
    """Search between two rates. A rate counts as held if one of two runs held: machines have spells."""
    found = Highest()
    while high / low > STEP:
        rate = round((low * high) ** 0.5, 1)
        for again in range(2):
            run = await play(address, payload, rate, seconds, seed + again)
            found.runs.append(run)
            if run.holds:
                break
        if run.holds:
            low = found.rate = rate
        else:
            high = rate
    return found


def facts(found: Highest) -> dict[str, Any]:
    """For the results' file."""
    return {
        "rate": found.rate,
        "load_busy": found.load_busy,
        "not_judged": found.not_judged,
        "runs": [
            {"rate": run.rate, "on_time": run.on_time, "sent_late_ms": run.sent_late_ms}
            for run in found.runs
        ],
    }
