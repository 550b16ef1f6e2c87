"""Counts and histograms of one model's requests, batches and loads."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from batcher.clock import Clock, monotonic_ns
from batcher.core.commands import Blame, Outcome, Reason, RefusalCause
from batcher.core.events import UNTOLD, FailureCause
from batcher.core.observation import ModelObservation
from batcher.core.times import NEVER_NS
from batcher.telemetry.budget import BudgetCounts, Hop
from batcher.telemetry.busy import BusyClock, DeviceUses
from batcher.telemetry.families import FILL, LATENCY, LOAD, ROWS, Stage
from batcher.telemetry.histogram import Histogram
from batcher.telemetry.reasons import (
    ENDS,
    AdmissionReason,
    End,
    LossReason,
    ReloadResult,
    ReplyReason,
)
from batcher.telemetry.sequences import SequenceCounts
from batcher.telemetry.stamps import Stamps
from batcher.telemetry.statistics import ModelStatisticsSnapshot, StatisticsCounters
from batcher.telemetry.tenants import TenantCounts

# Reading a member from its enum costs as much as recording a value.
_OK = Outcome.OK
_ANSWERED = (Outcome.OK, Reason.NONE)

FOLD = 512
"""Answers that are kept before they are counted together, which costs a tenth of counting each."""

DEVICES = 16
"""Devices of one model that are exported; the first goes when it is loaded again for one more. Nothing depends
on the number, but that there is one."""


class ModelTelemetry:
    """Records the events of one model, all its generations; the collector reads the attributes.

    Every method is called on the event loop's thread.
    """

    def __init__(
        self,
        name: str,
        version: str,
        *,
        clock: Clock = monotonic_ns,
        epoch_clock: Clock = time.time_ns,
    ) -> None:
        self.labels = (name, version)
        # The first of a kind must show as an increase, so its series exists from the start.
        self._requests: dict[End, int] = dict.fromkeys(ENDS, 0)
        self.refused = dict.fromkeys(RefusalCause, 0)
        """Requests that a prediction refused, by what that is blamed on."""
        self.tenants = TenantCounts()
        self.durations = {outcome: Histogram(LATENCY) for outcome in Outcome}
        self.stages = {stage: Histogram(LATENCY) for stage in Stage}
        self._walk = tuple(self.stages.values())
        self._answered: list[tuple[int, Stamps, int, str, int]] = []
        self.budget = BudgetCounts()
        self.batch_rows = Histogram(ROWS)
        self.batch_requests = Histogram(ROWS)
        self.batch_fill = Histogram(FILL)
        self.elements: dict[str, int] = {}
        """Input elements of executed batches, by kind; empty for a model without padding."""
        self.sequences: SequenceCounts | None = None
        """None for a model without sequences."""
        self.load_duration = Histogram(LOAD)
        self.warmup_duration = Histogram(LOAD)
        self.first_answer = Histogram(LATENCY)
        """The first answers of generations."""
        self.reloads = dict.fromkeys(ReloadResult, 0)
        self.generation = 1
        """The number of the generation that gets new requests."""
        self.serving = ""
        """What `Observation` calls that generation."""
        self.bisected_batches = 0
        self.bisect_executions = 0
        """Counts of generations that are gone."""
        self.load_failures = 0
        self.losses = dict.fromkeys(LossReason, 0)
        """Instances that were lost, by why."""
        self.saved_requests = 0
        """Of generations that are gone: requests that ran once more because their instance was lost."""
        self.policy_failures = 0
        self.unfinished = dict.fromkeys(sorted(UNTOLD), 0)
        """Batches that ended without a result through no fault of the model, by cause."""
        self.target_missed = 0
        self._longest_ns = 0
        self._busy: dict[str, BusyClock] = {}
        self._running: dict[int, tuple[BusyClock, BusyClock]] = {}
        self.devices = DeviceUses()
        """How busy each device is; shared by all models of a server."""
        self._statistics = StatisticsCounters()
        self._clock, self._epoch_clock = clock, epoch_clock

    def has_sequences(self) -> SequenceCounts:
        """Where its sequences are counted; from now on there are series for them."""
        if self.sequences is None:
            self.sequences = SequenceCounts()
        return self.sequences

    def tells_tenants_apart(self, names: Iterable[str]) -> None:
        """Count the requests of these tenants apart from now on, and those of all others together."""
        self.fold()
        self.tenants.names(names)

    def splits_target(self, shares: Mapping[Hop, int]) -> None:
        """Judge the hops of answers by these shares from now on."""
        self.fold()
        self.budget.split(shares)

    @property
    def requests(self) -> Mapping[End, int]:
        """Requests that have ended, by how."""
        self.fold()
        return self._requests

    def ended_so_far(self) -> tuple[Mapping[End, int], int]:
        """Requests that have ended, by how, and the answers among them that were late.

        The same as `requests` and `target_missed`, without folding: that takes 50 µs however few answers
        there are, too long for what is asked ten times a second of dozens of models.
        """
        ended, kept = dict(self._requests), self._answered
        ended[_ANSWERED] += len(kept)
        late = sum([stamps.replied_ns > due_ns for _, stamps, due_ns, *_ in kept])
        return ended, self.target_missed + late

    def request_ended(
        self,
        outcome: Outcome,
        reason: Reason | AdmissionReason | ReplyReason,
        rows: int,
        stamps: Stamps,
        due_ns: int | None,
        blame: Blame | None = None,
        tenant: str = "",
        upstream_ns: int = 0,
    ) -> None:
        """Record a request, once, when its reply has ended.

        `settled_ns` and `replied_ns` are set. For `Outcome.OK` every stamp is. `due_ns` is arrival plus
        the latency target, None for a model without one.
        `blame` is given where a prediction refused the request. `tenant` is what its caller said,
        and `upstream_ns` what it claims to have spent before.
        """
        if outcome is _OK:
            due_ns = NEVER_NS if due_ns is None else due_ns
            self._answered.append((rows, stamps, due_ns, tenant, upstream_ns))
            if len(self._answered) >= FOLD:
                self.fold()
            return
        key = (outcome, reason)
        self._requests[key] = self._requests.get(key, 0) + 1
        if blame is not None:
            self.refused[blame.cause] += 1
        if self.tenants:
            self.tenants.count(tenant, outcome)
        duration_ns = (stamps.replied_ns or stamps.settled_ns) - stamps.arrival_ns
        self.durations[outcome].observe(duration_ns)
        self._longest_ns = max(self._longest_ns, stamps.settled_ns - stamps.arrival_ns)
        self._observe_stages(stamps)
        self._statistics.failed(duration_ns)

    def fold(self) -> None:
        """Count the answers that were kept so far; to be called before anything is read."""
        answered, self._answered = self._answered, []
        if not answered:
            return
        moments = np.array(
            [
                (
                    s.arrival_ns,
                    s.enqueued_ns,
                    s.dispatched_ns,
                    s.execute_start_ns,
                    s.execute_end_ns,
                    s.settled_ns,
                    s.replied_ns,
                    due_ns,
                )
                for _, s, due_ns, _, _ in answered
            ],
            np.int64,
        )
        replied_ns = moments[:, 6]
        spent_ns = np.diff(moments[:, :7])
        self._requests[_ANSWERED] += len(answered)
        if self.tenants:
            for tenant, count in Counter([tenant for *_, tenant, _ in answered]).items():
                self.tenants.count(tenant, _OK, count)
        self.durations[_OK].observe_all(replied_ns - moments[:, 0])
        for stage, column in zip(self._walk, spent_ns.T, strict=True):
            stage.observe_all(column)
        self._statistics.answered(
            sum([rows for rows, *_ in answered]),
            len(answered),
            spent_ns.sum(axis=0).tolist(),
            int(moments[-1, 0]),
        )
        self.target_missed += int((replied_ns > moments[:, 7]).sum())
        claims_ns = np.array([upstream_ns for *_, upstream_ns in answered], np.int64)
        self.budget.count(spent_ns, claims_ns, moments[:, 7] - moments[:, 0])
        self._longest_ns = max(self._longest_ns, int((moments[:, 5] - moments[:, 0]).max()))

    def take_longest_ns(self) -> int:
        """The longest time to the outcome of a request that has ended since the last call; 0 without any.

        The oldest unanswered request was as old as this in between.
        """
        self.fold()
        longest_ns, self._longest_ns = self._longest_ns, 0
        return longest_ns

    def _observe_stages(self, stamps: Stamps) -> None:
        """Record the time in the stages that a request without an answer went through; they add up."""
        reached = stamps.reached
        for place, (stage, spent_ns) in enumerate(zip(self._walk, stamps.stages_ns(), strict=True)):
            # Counting requests in stages that they never saw would make those look faster than they are.
            if place < reached or stage is self._walk[-1]:
                stage.observe(spent_ns)

    def batch_finished(
        self,
        *,
        rows: int,
        requests: int,
        max_batch_size: int,
        started_ns: int,
        execute_start_ns: int,
        execute_end_ns: int,
        scattered_ns: int,
        failed: bool,
        device: str = "",
        elements: int = 0,
        padding: int = 0,
    ) -> None:
        """Record a batch, once, when it has been executed and its outputs scattered.

        `started_ns` is when gathering began and `scattered_ns` when the last output was handed on.
        A failed batch counts in the histograms of batches, not in the statistics. `elements` came
        from callers and `padding` were added, to fill a bucket or a batch size (`count_elements`).
        """
        self.batch_rows.observe(rows)
        self.batch_requests.observe(requests)
        self.batch_fill.observe(rows / max_batch_size)
        if (use := self.devices.get(device)) is not None:
            use.batch_ended(rows, max_batch_size, scattered_ns)
        if elements:
            counts = self.elements
            counts["request"] = counts.get("request", 0) + elements
            counts["padding"] = counts.get("padding", 0) + padding
        if not failed:
            self._statistics.executed(
                rows,
                execute_start_ns - started_ns,
                execute_end_ns - execute_start_ns,
                scattered_ns - execute_end_ns,
            )

    def execution_started(self, batch_id: int, device: str, now_ns: int) -> None:
        """The device runs this batch from now on, until `execution_ended`."""
        clocks = self._busy_clock(device), self.devices[device].busy
        for busy in clocks:
            busy.started(now_ns)
        self._running[batch_id] = clocks

    def execution_ended(self, batch_id: int, now_ns: int) -> None:
        """The batch came back, failed or was abandoned. A second end of it changes nothing."""
        for busy in self._running.pop(batch_id, ()):
            busy.ended(now_ns)

    def filled_up(self) -> None:
        """Export counts of elements from now on, even before the first batch that is padded or filled up."""
        for kind in ("request", "padding"):
            self.elements.setdefault(kind, 0)

    def device_known(self, device: str) -> None:
        """Export the device's busy time from now on, even before its first batch."""
        self._busy_clock(device)

    def busy_ns(self, now_ns: int) -> dict[str, int]:
        """Device -> nanoseconds busy up to now."""
        return {device: busy.read(now_ns) for device, busy in self._busy.items()}

    def removed(self) -> None:
        """The model is not served any more: its devices may be no one's now."""
        for device in self._busy:
            self.devices.leaves(device)
        self._busy.clear()

    def load_finished(self, seconds: float, warmup_s: float = 0.0) -> None:
        """An instance was loaded and warmed up in this time; the warm-up took `warmup_s` of it."""
        self.load_duration.observe(seconds)
        self.warmup_duration.observe(warmup_s)

    def serves(self, key: str, generation: int) -> None:
        """A generation, which `Observation` calls `key`, gets new requests from now on."""
        self.serving, self.generation = key, generation

    def generation_ends(self, observed: ModelObservation) -> None:
        """The scheduler is about to forget a generation, which it observes so for the last time."""
        self.bisected_batches += observed.bisected_batches
        self.bisect_executions += observed.bisect_executions
        self.saved_requests += observed.saved_requests

    def reloaded(self, result: ReloadResult) -> None:
        """A load while the model was served has ended."""
        self.reloads[result] += 1

    def instance_lost(self, reason: LossReason) -> None:
        """An instance was lost."""
        self.losses[reason] += 1

    def load_failed(self) -> None:
        """An instance could not be loaded."""
        self.load_failures += 1

    def batch_unfinished(self, cause: FailureCause) -> None:
        """A batch ended without a result; `cause` is one of `UNTOLD`."""
        self.unfinished[cause] += 1

    def policy_failed(self) -> None:
        """The model's batching policy raised an error or returned an invalid decision."""
        self.policy_failures += 1

    def statistics(self) -> ModelStatisticsSnapshot:
        """The model's cumulative statistics now."""
        self.fold()
        return self._statistics.snapshot(self._clock(), self._epoch_clock())

    def _busy_clock(self, device: str) -> BusyClock:
        busy = self._busy.get(device)
        if busy is None:
            if len(self._busy) >= DEVICES:
                left = next(iter(self._busy))
                del self._busy[left]
                self.devices.leaves(left)
            busy = self._busy[device] = BusyClock()
            self.devices.joins(device)
        return busy
