"""Runs in numbers: a `Summary` of each cell, and of each kind of request in it.

A request is on time if it was answered by its due time, late if it was answered after it, and
dropped if it was not answered: refused, expired or failed. Latencies are those of answered requests,
from arrival to the end of their batch. Rates count from the start to the last arrival, the busy
fraction of a device until the last request has ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from batcher.clock import MILLISECOND, SECOND
from batcher.core.commands import Outcome
from batcher.core.times import NEVER_NS
from batcher.simulation.compare.experiment import Cell
from batcher.simulation.engine.simulation import OUTCOMES, REASONS, UNSETTLED, Run
from batcher.simulation.traffic.workload import Kind

Mask: TypeAlias = NDArray[np.bool_]

_OK: Final = OUTCOMES.index(Outcome.OK)


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of some requests."""

    requests: int
    on_time: int
    late: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None

    @property
    def dropped(self) -> int:
        """Requests without an answer."""
        return self.requests - self.on_time - self.late


@dataclass(frozen=True, slots=True)
class Summary:
    """One policy at one rate, all seeds together."""

    policy: str
    rate: float
    """Requests a second that were offered."""
    load: float
    """Offered rows as a share of capacity."""
    seeds: int
    counts: Counts
    goodput: float
    """Requests answered on time a second."""
    busy_fraction: float
    batches: int
    mean_batch: float
    """Rows of the average batch; 0 when none ran."""
    failed_batches: int
    """Batches that failed as a whole though none of their requests made them fail."""
    dropped_by: dict[str, int]
    """Dropped requests by outcome and reason, the most frequent first."""
    groups: dict[Kind, Counts]
    """By model, tenant and priority; empty where all requests are of one kind."""
    errors: tuple[str, ...]
    """Policies that broke their contract: their models went on with greedy batches."""
    optimum_on_time: int | None

    @property
    def optimum_goodput(self) -> float | None:
        """Requests a second that the best schedule would answer on time."""
        if self.optimum_on_time is None:
            return None
        return self.optimum_on_time / self.counts.requests * self.rate

    def as_json(self) -> dict[str, object]:
        """One flat object; `groups` and `dropped_by` are nested."""
        return {
            "policy": self.policy,
            "rate": round(self.rate, 3),
            "load": round(self.load, 4),
            "seeds": self.seeds,
            **_counts_json(self.counts),
            "goodput": round(self.goodput, 3),
            "busy_fraction": round(self.busy_fraction, 4),
            "batches": self.batches,
            "mean_batch": round(self.mean_batch, 3),
            "failed_batches": self.failed_batches,
            "dropped_by": self.dropped_by,
            "optimum_on_time": self.optimum_on_time,
            "groups": [
                {
                    "model": kind.model,
                    "tenant": kind.tenant,
                    "priority": kind.priority,
                    **_counts_json(counts),
                }
                for kind, counts in self.groups.items()
            ],
            "errors": list(self.errors),
        }


def _counts_json(counts: Counts) -> dict[str, object]:
    return {
        "requests": counts.requests,
        "on_time": counts.on_time,
        "late": counts.late,
        "dropped": counts.dropped,
        "p50_ms": counts.p50_ms,
        "p95_ms": counts.p95_ms,
        "p99_ms": counts.p99_ms,
    }


def summarize(cell: Cell, capacity: float) -> Summary:
    """All runs of a cell, pooled; `capacity` is in requests a second."""
    runs = cell.runs
    answered = [run.outcome == _OK for run in runs]
    on_time = [ok & (run.settled_ns <= due_ns(run)) for run, ok in zip(runs, answered, strict=True)]
    counts = _counts(runs, answered, on_time, None)
    offered_s = sum(_offered_ns(run) for run in runs) / SECOND
    rate = counts.requests / offered_s
    sizes = np.concatenate([run.batches for run in runs])
    kinds = runs[0].workload.kinds
    return Summary(
        policy=runs[0].policy,
        rate=rate,
        load=rate / capacity,
        seeds=len(runs),
        counts=counts,
        goodput=counts.on_time / offered_s,
        busy_fraction=_busy_fraction(runs),
        batches=len(sizes),
        mean_batch=float(sizes.mean()) if len(sizes) else 0.0,
        failed_batches=sum(run.failed_batches for run in runs),
        dropped_by=_dropped_by(runs),
        groups={kind: _counts(runs, answered, on_time, place) for place, kind in enumerate(kinds)}
        if len(kinds) > 1
        else {},
        errors=tuple(error for run in runs for error in run.errors),
        optimum_on_time=None if cell.optimum is None else sum(cell.optimum),
    )


def latencies_ms(runs: Sequence[Run]) -> NDArray[np.float64]:
    """Of every answered request, in no order."""
    answered = [run.outcome == _OK for run in runs]
    return _latencies_ms(runs, answered)


def due_ns(run: Run) -> NDArray[np.int64]:
    """When each request should be answered: `NEVER_NS` where nothing says so."""
    if run.due_ns is not None:
        return run.due_ns
    targets = {model.name: model.settings.target_ns for model in run.deployment.models}
    of_kind = np.array(
        [
            NEVER_NS if targets[kind.model] is None else targets[kind.model]
            for kind in run.workload.kinds
        ],
        np.int64,
    )
    due: NDArray[np.int64] = run.workload.at_ns + of_kind[run.workload.kind]
    return due


def _counts(
    runs: Sequence[Run], answered: Sequence[Mask], on_time: Sequence[Mask], kind: int | None
) -> Counts:
    """Of all requests, or of those of one kind."""
    if kind is None:
        among = [np.ones(len(run.workload), np.bool_) for run in runs]
    else:
        among = [run.workload.kind == kind for run in runs]
    ok = [a & b for a, b in zip(answered, among, strict=True)]
    good = sum(int((a & b).sum()) for a, b in zip(on_time, among, strict=True))
    ms = _latencies_ms(runs, ok)
    quantiles = [round(float(q), 4) for q in np.quantile(ms, (0.5, 0.95, 0.99))] if len(ms) else []
    p50, p95, p99 = quantiles or (None, None, None)
    return Counts(sum(int(a.sum()) for a in among), good, len(ms) - good, p50, p95, p99)


def _latencies_ms(runs: Sequence[Run], among: Sequence[Mask]) -> NDArray[np.float64]:
    return np.concatenate(
        [
            (run.settled_ns[a] - run.workload.at_ns[a]) / MILLISECOND
            for run, a in zip(runs, among, strict=True)
        ]
    )


def _offered_ns(run: Run) -> int:
    # What arrives all at once is offered over the time it takes to serve it.
    return int(run.workload.at_ns.max()) or max(1, int(run.settled_ns.max()))


def _busy_fraction(runs: Sequence[Run]) -> float:
    busy_ns = sum(sum(run.busy_ns.values()) for run in runs)
    could_ns = sum(
        sum(run.deployment.device_slots().values()) * max(1, int(run.settled_ns.max()))
        for run in runs
    )
    return busy_ns / could_ns


def _dropped_by(runs: Sequence[Run]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for run in runs:
        dropped = run.outcome != _OK
        pairs, counts = np.unique(
            np.stack((run.outcome[dropped], run.reason[dropped])), axis=1, return_counts=True
        )
        for (outcome, reason), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
            if outcome == UNSETTLED:
                found["unsettled"] += count
            else:
                why = REASONS[reason].value
                found[f"{OUTCOMES[outcome].value}:{why}" if why else OUTCOMES[outcome].value] += (
                    count
                )
    return dict(found.most_common())
