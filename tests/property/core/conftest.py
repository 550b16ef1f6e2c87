"""A naive ledger of what a scheduler must do, for the property tests.

`Ledger` knows the rules and none of the data structures: it recomputes everything from lists, at
any cost. From the events it says how every request must end, and it checks each dispatch: the batch
group, the instance, the size of the batch, and that no batch that is ready was left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from batcher.core.batching.selection import MAX_KINDS, OLDEST_FIRST_ONE_IN
from batcher.core.commands import Outcome, Reason
from batcher.core.events import CancelCause, FailureCause, InstanceDown, RequestArrived
from batcher.core.settings import NoBatching
from batcher.core.times import TIMER_NS

FAILED = {
    FailureCause.DEVICE: (Outcome.FAILED, Reason.DEVICE_FAILURE),
    FailureCause.INPUT: (Outcome.FAILED, Reason.INPUT_FAILURE),
    FailureCause.UNKNOWN: (Outcome.FAILED, Reason.UNKNOWN_FAILURE),
    FailureCause.OVERLOADED: (Outcome.REJECTED, Reason.BACKEND_OVERLOADED),
    FailureCause.SEQUENCE: (Outcome.REJECTED, Reason.SEQUENCE_LOST),
    FailureCause.UNAVAILABLE: (Outcome.FAILED, Reason.BACKEND_UNAVAILABLE),
    FailureCause.ABANDONED: (Outcome.FAILED, Reason.UNKNOWN_FAILURE),
}


@dataclass
class Waiting:
    arrived: RequestArrived
    due_ns: int | None
    expires_ns: int | None
    place_ns: int
    """When it took its place in the queue: on arrival, or after its last turn."""

    start: int = 0
    """The first of the rows that wait; those before it run, or are done."""

    @property
    def left(self):
        return self.arrived.rows - self.start

    @property
    def group(self):
        return self.arrived.model, self.arrived.batch_key, self.arrived.shapes


@dataclass
class Running:
    instance: str
    left: list[int]
    rows: dict[int, int]
    filled: int | None


@dataclass
class Ledger:
    now_ns: int = 0
    models: dict = field(default_factory=dict)
    limits: dict = field(default_factory=dict)
    instances: dict = field(default_factory=dict)  # name -> InstanceUp
    draining: set = field(default_factory=set)
    used: list = field(default_factory=list)  # (instance, incarnation), most recent last
    waiting: dict = field(default_factory=dict)  # id -> Waiting, in order of arrival
    running: dict = field(default_factory=dict)  # batch id -> Running
    split: set = field(default_factory=set)  # ids of requests that have not fitted one batch
    known: dict = field(default_factory=dict)  # id -> Waiting, for ever
    done: dict = field(default_factory=dict)  # id -> rows
    total: dict = field(default_factory=dict)  # id -> rows
    ended: dict = field(default_factory=dict)  # id -> how, for ever
    last_batch: int = 0
    dispatched: dict = field(default_factory=dict)  # model -> batches since it was added
    out_of_reach: set = field(default_factory=set)  # models whose target cannot be met
    times: object = None  # what batches of a request's shape take, as the scheduler has learned

    # What the events must lead to

    def take_in(self, events, now_ns):
        """Returns how each request that ends by these events must end."""
        self.now_ns = max(self.now_ns, now_ns)
        before = dict(self.ended)
        for request_id, request in list(self.waiting.items()):
            if request.expires_ns is not None and request.expires_ns <= self.now_ns:
                self.end(request_id, *self.expiry(request))
        for event in events:
            getattr(self, f"on_{type(event).__name__}")(event)
        return {i: how for i, how in self.ended.items() if i not in before}

    def end(self, request_id, outcome, reason=Reason.NONE):
        assert request_id not in self.ended
        self.ended[request_id] = outcome, reason
        self.waiting.pop(request_id, None)
        for batch in self.running.values():
            if request_id in batch.left:
                batch.left.remove(request_id)

    @staticmethod
    def expiry(request):
        by_caller = request.expires_ns == request.arrived.deadline_ns
        return Outcome.EXPIRED, Reason.CALLER_DEADLINE if by_caller else Reason.QUEUE_TIMEOUT

    def on_RequestArrived(self, event):  # noqa: N802 - named after the event
        model = self.models.get(event.model)
        if model is None:
            return self.end(event.id, Outcome.REJECTED, Reason.UNKNOWN_MODEL)
        serving = [i for i in self.instances.values() if i.model == event.model]
        if all(i.instance in self.draining for i in serving):
            return self.end(event.id, Outcome.REJECTED, Reason.NO_INSTANCE)
        due = [event.due_ns] if event.due_ns is not None else []
        if not due and model.target_ns is not None:
            due = [event.arrival_ns + model.target_ns]
        expires = [event.deadline_ns] if event.deadline_ns is not None else []
        if model.queue.timeout_ns is not None:
            expires.append(event.arrival_ns + model.queue.timeout_ns)
        request = Waiting(event, min(due, default=None), min(expires, default=None), self.now_ns)
        if request.expires_ns is not None and request.expires_ns <= self.now_ns:
            return self.end(event.id, *self.expiry(request))
        reason = self.refusal(event, model)
        if reason is not None:
            return self.end(event.id, Outcome.REJECTED, reason)
        self.waiting[event.id] = self.known[event.id] = request
        self.total[event.id] = event.rows
        if event.rows > model.max_batch_size:
            self.split.add(event.id)
        return None

    def refusal(self, event, model):
        queue = [r.arrived for r in self.waiting.values() if r.arrived.model == event.model]
        queue.append(event)
        begun = sum(r.start for r in self.waiting.values() if r.arrived.model == event.model)
        bounds = [
            (event.rows, model.max_request_rows, Reason.TOO_MANY_ROWS),
            (event.nbytes, model.queue.max_bytes, Reason.TOO_MANY_BYTES),
            (len(queue), model.queue.max_requests, Reason.QUEUE_REQUESTS),
            (sum(r.rows for r in queue) - begun, model.queue.max_rows, Reason.QUEUE_ROWS),
            (sum(r.nbytes for r in queue), model.queue.max_bytes, Reason.QUEUE_BYTES),
        ]
        broken = [why for size, bound, why in bounds if bound is not None and size > bound]
        return broken[0] if broken else None

    def on_RequestCancelled(self, event):  # noqa: N802
        if event.id in self.waiting or any(event.id in b.left for b in self.running.values()):
            if event.cause is CancelCause.DEADLINE:
                self.end(event.id, Outcome.EXPIRED, Reason.CALLER_DEADLINE)
            else:
                self.end(event.id, Outcome.CANCELLED, Reason.CALLER_CANCELLED)

    def on_BatchProgress(self, event):  # noqa: N802
        batch = self.running.get(event.batch_id)
        if batch is None:
            return
        for request_id in event.done:
            if request_id in batch.left:
                batch.left.remove(request_id)
                rows = self.done.get(request_id, 0) + batch.rows[request_id]
                self.done[request_id] = rows
                if rows == self.total[request_id]:
                    self.end(request_id, Outcome.OK)
                elif request_id in self.waiting and request_id != batch.filled:
                    self.take_last_place(self.waiting.pop(request_id))
        for failure in event.failed:
            if failure.id in batch.left:
                self.end(failure.id, *FAILED[failure.cause])
        if event.last or event.error is not None:
            for request_id in list(batch.left):
                cause = event.error or FailureCause.UNKNOWN
                self.end(request_id, *self.over(request_id, cause))
            del self.running[event.batch_id]

    def over(self, request_id, cause):
        """How a request ends that its batch leaves: it may be too late for it in any case."""
        request = self.known[request_id]
        if request.expires_ns is not None and request.expires_ns <= self.now_ns:
            return self.expiry(request)
        return FAILED[cause]

    def on_InstanceUp(self, event):  # noqa: N802
        known = self.instances.get(event.instance)
        if known is None or known.incarnation < event.incarnation:
            if known is not None:
                self.on_InstanceDown(InstanceDown(event.instance, known.incarnation))
            self.instances[event.instance] = event

    def on_InstanceDraining(self, event):  # noqa: N802
        known = self.instances.get(event.instance)
        if known is not None and known.incarnation == event.incarnation:
            self.draining.add(event.instance)

    def on_InstanceDown(self, event):  # noqa: N802
        known = self.instances.get(event.instance)
        if known is None or known.incarnation != event.incarnation:
            return
        for batch_id, batch in list(self.running.items()):
            if batch.instance == event.instance:
                for request_id in list(batch.left):
                    self.end(request_id, Outcome.FAILED, Reason.INSTANCE_DOWN)
                del self.running[batch_id]
        del self.instances[event.instance]
        self.draining.discard(event.instance)

    def on_ModelConfigured(self, event):  # noqa: N802
        self.models[event.model] = event.settings
        for request_id, request in self.waiting.items():
            if request.arrived.model != event.model:
                continue
            if request.left > event.settings.max_batch_size:
                self.split.add(request_id)
            if request.due_ns is None and event.settings.target_ns is not None:
                request.due_ns = self.now_ns + event.settings.target_ns

    def on_ModelRemoved(self, event):  # noqa: N802
        self.models.pop(event.model, None)
        self.dispatched.pop(event.model, None)
        for request_id, request in list(self.waiting.items()):
            if request.arrived.model == event.model:
                self.end(request_id, Outcome.REJECTED, Reason.MODEL_REMOVED)

    def on_DeviceConfigured(self, event):  # noqa: N802
        self.limits[event.device] = event.max_in_flight

    # What may be dispatched

    def load(self, instance):
        return sum(b.instance == instance for b in self.running.values())

    def free(self, model):
        """Instances that may take a batch, the one to use first."""

        def rank(up):
            key = (up.instance, up.incarnation)
            return self.load(up.instance), self.used.index(key) if key in self.used else -1

        free = []
        for up in self.instances.values():
            limit = self.limits.get(up.device)
            busy = sum(
                self.instances[b.instance].device == up.device for b in self.running.values()
            )
            if (
                up.model == model
                and up.instance not in self.draining
                and self.load(up.instance) < up.max_in_flight
                and (limit is None or busy < limit)
            ):
                free.append(up)
        return sorted(free, key=rank)

    def groups(self):
        groups = {}
        for request in self.waiting.values():
            groups.setdefault(request.group, []).append(request)
        return list(groups.values())

    def piece(self, request):
        """The rows of a request that may go into one batch."""
        return min(request.left, self.models[request.arrived.model].max_batch_size)

    def filled(self, group, count, rows):
        """Room in a batch is filled with rows of one split request, if no other request waits."""
        model = self.models[group[0].arrived.model]
        room = model.max_batch_size - rows
        rest = group[count:]
        if isinstance(model.policy, NoBatching) or not rest or not room:
            return None
        if any(r.arrived.id in self.split for r in group[:count]):
            return None
        if any(r.arrived.id not in self.split for r in rest):
            return None
        return rest[0], min(room, rest[0].left)

    def ready(self, group):
        """How many requests of a batch group make a batch now; 0 while its window is open."""
        model = self.models[group[0].arrived.model]
        if isinstance(model.policy, NoBatching):
            return 1
        sizes = [self.piece(r) for r in group]
        rows = [sum(sizes[:n]) for n in range(1, len(group) + 1)]
        fits = sum(r <= model.max_batch_size for r in rows)
        preferred = model.policy.preferred_sizes or (model.max_batch_size,)
        hits = [n for n in range(1, fits + 1) if rows[n - 1] in preferred]
        jumps = [n for n in range(1, len(group)) if rows[n] > max(preferred)]
        overdue = self.now_ns >= self.closes_ns(group)
        if (hits or jumps) and not (overdue and model.policy.max_delay_ns):
            return max(hits) if hits else min(jumps)
        can_grow = fits == len(group) and rows[-1] < max(preferred)
        return fits if overdue or not can_grow else 0

    def closes_ns(self, group):
        """When a window closes: after its delay, or for a deadline that can be met."""
        model = self.models[group[0].arrived.model]
        moments = [group[0].arrived.arrival_ns + model.policy.max_delay_ns]
        times = self.times(group[0].arrived)
        takes_ns, expected = 0.0, [0.0] * (model.max_batch_size + 1)
        if times:
            rows = min(sum(map(self.piece, group)), model.max_batch_size)
            takes_ns, expected = times.p95[rows], times.expected
        for request in group:
            deadline_ns = request.arrived.deadline_ns
            if deadline_ns is None:
                if request.expires_ns is not None:
                    moments.append(request.expires_ns - TIMER_NS)
            elif self.now_ns + expected[self.piece(request)] <= deadline_ns or not times:
                moments.append(request.expires_ns - TIMER_NS)
                moments.append(int(deadline_ns - takes_ns - TIMER_NS))
        return min(moments)

    def is_due(self, group):
        """Whether a request of the group's next batch has a due time, or does not wait for others any more."""
        unreachable = group[0].arrived.model in self.out_of_reach
        return any(
            (r.due_ns is not None and not unreachable) or self.gave_way(r)
            for r in group[: self.ready(group)]
        )

    def gave_way(self, request):
        """Whether a request has waited for `promote_after`, or for half of the time until it expires."""
        came_ns = request.arrived.arrival_ns
        until_ns = came_ns + self.models[request.arrived.model].queue.promote_after_ns
        if request.expires_ns is not None:
            until_ns = min(until_ns, (came_ns + request.expires_ns) // 2)
        return until_ns <= self.now_ns

    def check_turn(self, group):
        """A batch that is due goes before those that are not; which due one depends on their times."""
        candidates = self.candidates()
        assert group in candidates
        rivals = []
        for name in self.models:
            own = [a for a in candidates if a[0].arrived.model == name]
            if len(own) > MAX_KINDS:
                # One of them stands for the model. Of equal ones it may be any.
                best = self.best_of_many(name, own)
                assert group in best or group not in own
                own = [group if group in best else min(best, key=self.is_due)]
            rivals += own
        if any(map(self.is_due, rivals)):
            assert self.is_due(group)
        else:
            assert group[0].arrived.arrival_ns == min(a[0].arrived.arrival_ns for a in rivals)

    def best_of_many(self, name, groups):
        """The groups of a model that come first where they are many, whatever is due.

        By turns these are the oldest ones, and those that use the time of a batch best.
        """
        oldest_first = self.dispatched.get(name, 0) % OLDEST_FIRST_ONE_IN == 0

        def place(group):
            worth = 0.0 if oldest_first else self.efficiency(group)
            return -worth, group[0].arrived.arrival_ns

        first = min(map(place, groups))
        return [group for group in groups if place(group) == first]

    def efficiency(self, group):
        """What a batch's rows would take in batches of the best size / what it takes, in hundredths.

        The best size is the one with the least time for each row, of those inside the target.
        """
        model = self.models[group[0].arrived.model]
        taken = group[: self.ready(group)]
        rows = sum(map(self.piece, taken))
        filled = self.filled(group, len(taken), rows)
        rows += filled[1] if filled else 0
        times = self.times(group[0].arrived)
        if not times or not times.curve[rows]:
            return round(rows / model.max_batch_size, 2)
        target_ns = model.target_ns
        row_ns = [
            took_ns / size
            for size, took_ns in enumerate(times.curve)
            if size == 1 or (size and (target_ns is None or took_ns <= target_ns))
        ]
        return round(rows * min(row_ns) / times.curve[rows], 2)

    def candidates(self):
        return [a for a in self.groups() if self.free(a[0].arrived.model) and self.ready(a)]

    def dispatch(self, command):
        ids = [part.id for part in command.parts]
        group = next(a for a in self.groups() if a[0].arrived.id == ids[0])
        assert command.model == group[0].arrived.model
        assert command.bucket == group[0].arrived.shapes
        taken = [(r, self.piece(r)) for r in group[: self.ready(group)]]
        filled = self.filled(group, len(taken), sum(rows for _, rows in taken))
        parts = [*taken, filled] if filled else taken
        assert [(p.id, p.start, p.stop) for p in command.parts] == [
            (r.arrived.id, r.start, r.start + rows) for r, rows in parts
        ]
        assert command.attempt == 1
        self.check_turn(group)
        up = self.free(command.model)[0]
        assert command.instance == up.instance
        assert command.batch_id > self.last_batch
        self.last_batch = command.batch_id
        self.dispatched[command.model] = self.dispatched.get(command.model, 0) + 1
        key = (up.instance, up.incarnation)
        self.used = [each for each in self.used if each != key] + [key]
        for request, rows in parts:
            request.start += rows
            if request.left and (request, rows) == filled:
                self.keep_place(request)
                continue
            del self.waiting[request.arrived.id]
            if request.left:
                self.take_last_place(request)
        rows = {r.arrived.id: n for r, n in parts}
        self.running[command.batch_id] = Running(
            up.instance, ids, rows, filled[0].arrived.id if filled else None
        )

    def take_last_place(self, request):
        request.place_ns = self.now_ns
        self.waiting[request.arrived.id] = request

    def keep_place(self, request):
        """A request whose rows filled a batch goes behind those that took their place when it did."""
        places = {i: (r.place_ns, r is request) for i, r in self.waiting.items()}
        self.waiting = {i: self.waiting[i] for i in sorted(self.waiting, key=places.get)}

    def wakeup_ns(self):
        """When something changes by itself: an expiry, or the end of a window that is open."""
        moments = [r.expires_ns for r in self.waiting.values() if r.expires_ns is not None]
        waiting = [group for group in self.groups() if self.free(group[0].arrived.model)]
        moments += map(self.closes_ns, waiting)
        return min(moments, default=None)


@pytest.fixture
def make_ledger():
    """Empty ledgers."""
    return Ledger
