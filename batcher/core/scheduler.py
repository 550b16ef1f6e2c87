"""The scheduler's one door: events in, commands out.

`handle` settles what has expired, takes in all events and then decides once, so a burst that
arrives together is batched together: batches are formed while instances are free and policies want
to. A request that has expired takes no room in a queue and is never dispatched; one that can only
be late is refused at once, where the model's settings say so, but for a probe now and then. Time is
what the caller says it is, and never goes back. The caller obliges itself to carry out every command once, and to call `handle` again,
with or without events, at `next_wakeup_ns()` at the latest.
"""

from __future__ import annotations

from collections.abc import Sequence

from batcher.core.admission import (
    PROBE_NS,
    QUEUE_FULL_RETRY_NS,
    UNAVAILABLE_RETRY_NS,
    done_ns,
    late_rank,
    rank,
    refusal,
    room_for,
    with_times,
)
from batcher.core.batch_former import Proposal, form
from batcher.core.commands import Command, Dispatch, Outcome, Part, PolicyFailed, Reason, Settle
from batcher.core.events import (
    BatchProgress,
    CancelCause,
    DeviceConfigured,
    Event,
    Failure,
    FailureCause,
    InstanceDown,
    InstanceDraining,
    InstanceUp,
    ModelConfigured,
    ModelRemoved,
    RequestArrived,
    RequestCancelled,
)
from batcher.core.expiry import ExpiryHeap
from batcher.core.fleet import Fleet, RunningBatch
from batcher.core.model import Model
from batcher.core.observation import Observation
from batcher.core.observe import observe
from batcher.core.policies import AdaptivePolicy, PolicyFactory, make_policy
from batcher.core.queue import AGED, LATE, Lane
from batcher.core.request import NEVER_NS, LiveRequest
from batcher.core.settings import Adaptive
from batcher.core.snapshot import capture, rebuild
from batcher.core.state import State

FAILURE_REASONS = {
    FailureCause.DEVICE: Reason.DEVICE_FAILURE,
    FailureCause.INPUT: Reason.INPUT_FAILURE,
    FailureCause.UNKNOWN: Reason.UNKNOWN_FAILURE,
}


SHORTEST_RETRY_NS = 1_000_000
"""Nobody is told to come back sooner."""

USED_NS = 1_000_000_000.0
"""How much time on a device is remembered, where models compete for it."""


class Scheduler:
    """All models' queues, all instances, one decision at a time. Equal input, equal output."""

    def __init__(self, policies: PolicyFactory = make_policy) -> None:
        self.now_ns = 0
        self.models: dict[str, Model] = {}
        self.live: dict[int, LiveRequest] = {}
        self.fleet = Fleet()
        self.expiry = ExpiryHeap(self.live)
        self.next_batch_id = 1
        self.ask_again_ns: int | None = None
        self._policies = policies
        self._undecided = False
        self._commands: list[Command] = []

    # The door

    def handle(self, events: Sequence[Event], now_ns: int) -> list[Command]:
        """Take in all `events`, then decide once. Returns the commands, in order."""
        self.now_ns = now_ns = max(now_ns, self.now_ns)
        # First of all, so that nobody is refused for the sake of a request that is over.
        self._expire(now_ns)
        for event in events:
            if type(event) is RequestArrived:
                self._arrive(event)
            else:
                self._take_in(event)
        again_ns = self.ask_again_ns
        if self._undecided or (again_ns is not None and again_ns <= now_ns):
            self._undecided = False
            self._dispatch(now_ns)
        commands, self._commands = self._commands, []
        return commands

    def next_wakeup_ns(self) -> int | None:
        """When `handle` must be called again at the latest; None while only events matter."""
        expires_ns = self.expiry.next_ns()
        if self.ask_again_ns is None or expires_ns is None:
            return self.ask_again_ns if expires_ns is None else expires_ns
        return min(self.ask_again_ns, expires_ns)

    def observe(self, now_ns: int) -> Observation:
        """Depths and live ages at `now_ns`; changes nothing."""
        return observe(self.models, self.fleet, self.live, max(now_ns, self.now_ns))

    def snapshot(self) -> State:
        """The whole state as a value; `restore` makes an equal scheduler of it."""
        return capture(self)

    @classmethod
    def restore(cls, state: State, policies: PolicyFactory = make_policy) -> Scheduler:
        """A scheduler that will do exactly what the one that gave `state` would do."""
        scheduler = cls(policies)
        rebuild(scheduler, state)
        return scheduler

    def validate(self) -> None:
        """Raise `AssertionError` where an invariant does not hold; for tests."""
        self.fleet.validate()
        self.expiry.validate()
        waiting: set[int] = set()
        for model in self.models.values():
            model.queue.validate()
            ids = {r.id for r in model.queue}
            assert len(ids) == model.queue.requests
            assert not ids & waiting
            waiting |= ids
        assert waiting == {r.id for r in self.live.values() if r.batch_id is None}
        for request in self.live.values():
            if request.batch_id is not None:
                assert request.id in self.fleet.batches[request.batch_id].unreported
        for batch in self.fleet.batches.values():
            assert all(self.live[i].batch_id == batch.batch_id for i in batch.unreported)
        assert not self._commands

    # Events

    def _take_in(self, event: Event) -> None:
        match event:
            case RequestArrived():
                self._arrive(event)
            case BatchProgress():
                self._progress(event)
            case RequestCancelled():
                self._cancel(event)
            case _:
                self._take_in_fleet(event)
        self._undecided = True

    def _take_in_fleet(
        self,
        event: InstanceUp
        | InstanceDraining
        | InstanceDown
        | ModelConfigured
        | ModelRemoved
        | DeviceConfigured,
    ) -> None:
        self._unstall()
        match event:
            case InstanceUp():
                self._instance_up(event)
            case InstanceDraining():
                instance = self.fleet.incarnation(event.instance, event.incarnation)
                if instance is not None:
                    instance.draining = True
                    self.fleet.changed()
            case InstanceDown():
                self._instance_down(event)
            case ModelConfigured():
                self._configure(event)
            case ModelRemoved():
                self._remove(event)
            case DeviceConfigured():
                self.fleet.limit_device(event.device, event.max_in_flight)

    def _arrive(self, event: RequestArrived) -> None:
        assert event.id not in self.live, f"request {event.id} arrived twice"
        model = self.models.get(event.model)
        if model is None:
            self._settle((event.id,), Outcome.REJECTED, Reason.UNKNOWN_MODEL)
            return
        if not self.fleet.serves(event.model):
            self._settle(
                (event.id,), Outcome.REJECTED, Reason.NO_INSTANCE, retry_ns=UNAVAILABLE_RETRY_NS
            )
            return
        now_ns = self.now_ns
        request = with_times(event, model.settings, now_ns)
        if request.expires_ns is not None and request.expires_ns <= now_ns:
            self._settle((event.id,), Outcome.EXPIRED, _expiry_reason(request))
            return
        reason = refusal(event, model.settings, model.queue)
        if reason is Reason.TOO_MANY_ROWS:
            self._settle((event.id,), Outcome.REJECTED, reason)
            return
        if model.adaptive is not None and not self._foresee(request, model, model.adaptive):
            return
        if reason is not None:
            victims = room_for(request, model)
            if not victims:
                retry_ns = QUEUE_FULL_RETRY_NS
                self._settle((event.id,), Outcome.REJECTED, reason, retry_ns=retry_ns)
                return
            self._refuse(model, victims, reason, retry_ns=QUEUE_FULL_RETRY_NS)
        self.live[event.id] = request
        model.queue.add(request)
        self.expiry.add(request)
        if not model.stalled:
            self._undecided = True

    def _foresee(self, request: LiveRequest, model: Model, policy: AdaptivePolicy) -> bool:
        """Count an arrival, and give it its line; refuse it if it can only be late."""
        now_ns = self.now_ns
        policy.arrived(request.rows, now_ns, active=bool(model.running or model.queue.requests))
        instances, soonest_ns = self.fleet.soonest(model.name, now_ns)
        request.rank = rank(request, model, instances, now_ns)
        if request.rank != model.best_rank:
            request.promotes_ns = request.arrived.arrival_ns + model.settings.queue.ageing_ns
        best_ns = done_ns(request, model, soonest_ns)
        must_ns = request.order if model.reachable else request.expires_ns
        if best_ns is None or must_ns is None or best_ns <= must_ns:
            return True
        late = late_rank(request, model, best_ns)
        if late is not None:
            make_late(request, model)
            return True
        if self._may_probe(model):
            request.probe = True
            return True
        self._settle(
            (request.id,),
            Outcome.REJECTED,
            Reason.PREDICTED_LATE,
            retry_ns=self._until_clear_ns(model, soonest_ns),
        )
        return False

    def _may_probe(self, model: Model) -> bool:
        """Whether it is time to see if predictions still hold: nothing runs, nothing has lately."""
        idle = not model.running and not model.queue.requests
        last_ns = model.last_dispatch_ns
        return idle and (last_ns is None or self.now_ns - last_ns >= PROBE_NS)

    def _until_clear_ns(self, model: Model, soonest_ns: float) -> int:
        """How long what waits and runs now keeps the model busy: when a retry makes sense."""
        rate = model.best_rate()
        waiting_ns = model.queue.rows / rate if rate else 0.0
        return max(SHORTEST_RETRY_NS, int(soonest_ns - self.now_ns + waiting_ns))

    def _cancel(self, event: RequestCancelled) -> None:
        request = self.live.get(event.id)
        if request is None:
            return
        self._forget(request)
        if event.cause is CancelCause.DEADLINE:
            self._settle((event.id,), Outcome.EXPIRED, Reason.CALLER_DEADLINE)
        else:
            self._settle((event.id,), Outcome.CANCELLED, Reason.CALLER_CANCELLED)

    def _progress(self, event: BatchProgress) -> None:
        batch = self.fleet.batches.get(event.batch_id)
        if batch is None:
            return
        # A request that its caller left, or that is named twice, has ended already.
        done = tuple(i for i in dict.fromkeys(event.done) if i in batch.unreported)
        batch.unreported.difference_update(done)
        self._settle(self._end(done), Outcome.OK)
        for failure in event.failed:
            self._fail(batch, failure)
        if event.last:
            self._finish(batch, failed=bool(event.failed))
            # What an executor forgot to report has still ended.
            missing = self._end(tuple(sorted(batch.unreported)))
            self._settle(missing, Outcome.FAILED, Reason.UNKNOWN_FAILURE)

    def _finish(self, batch: RunningBatch, *, failed: bool) -> None:
        """Take a batch off its instance, and learn from what it took."""
        self.fleet.finish(batch.batch_id)
        self._unstall()
        model = self.models.get(batch.model)
        if model is None:
            return
        now_ns = self.now_ns
        if not failed:
            times = model.times_of(batch.shapes)
            took_ns = now_ns - batch.dispatched_ns
            times.observe(batch.rows, took_ns, now_ns, trust=batch.probe)
            model.judge_target(now_ns)
        if model.adaptive is not None:
            model.adaptive.ended(now_ns)
        model.running -= 1

    def _unstall(self) -> None:
        for model in self.models.values():
            model.stalled = False

    def _fail(self, batch: RunningBatch, failure: Failure) -> None:
        if failure.id not in batch.unreported:
            return
        batch.unreported.remove(failure.id)
        retry_ns = UNAVAILABLE_RETRY_NS if failure.cause is FailureCause.DEVICE else None
        reason = FAILURE_REASONS[failure.cause]
        self._settle(self._end((failure.id,)), Outcome.FAILED, reason, retry_ns=retry_ns)

    def _instance_up(self, event: InstanceUp) -> None:
        known = self.fleet.instances.get(event.instance)
        if known is not None:
            if known.up.incarnation >= event.incarnation:
                return
            self._instance_down(InstanceDown(event.instance, known.up.incarnation))
        self.fleet.up(event)
        model = self.models.get(event.model)
        if model is not None and event.profile:
            model.times_of(()).seed(event.profile)
            model.judge_target(self.now_ns, measured=True)

    def _instance_down(self, event: InstanceDown) -> None:
        instance = self.fleet.incarnation(event.instance, event.incarnation)
        if instance is None:
            return
        for batch in self.fleet.remove(instance):
            model = self.models.get(batch.model)
            if model is not None:
                model.running -= 1
            lost = self._end(tuple(sorted(batch.unreported)))
            self._settle(lost, Outcome.FAILED, Reason.INSTANCE_DOWN, retry_ns=UNAVAILABLE_RETRY_NS)

    def _configure(self, event: ModelConfigured) -> None:
        model = self.models.get(event.model)
        if model is None:
            model = Model(event.model, event.settings, self._policies)
            # What an earlier model of this name still runs is this one's now.
            running = self.fleet.batches.values()
            model.running = sum(batch.model == event.model for batch in running)
            self.models[event.model] = model
        try:
            model.configure(event.settings)
        except Exception as exc:  # noqa: BLE001 - a policy's own code; the model runs without it
            self._commands.append(PolicyFailed(model.name, f"{type(exc).__name__}: {exc}"))
        reorder(model)
        # What fits no batch any more would stand at the head of its lane for ever.
        self._refuse(
            model,
            [r for r in model.queue if r.rows > event.settings.max_batch_size],
            Reason.TOO_MANY_ROWS,
        )

    def _remove(self, event: ModelRemoved) -> None:
        model = self.models.pop(event.model, None)
        if model is None:
            return
        self._refuse(model, list(model.queue), Reason.MODEL_REMOVED, retry_ns=UNAVAILABLE_RETRY_NS)

    def _refuse(
        self,
        model: Model,
        waiting: list[LiveRequest],
        reason: Reason,
        *,
        retry_ns: int | None = None,
    ) -> None:
        """End requests that were admitted and can no longer be served."""
        for request in waiting:
            model.queue.discard(request)
            del self.live[request.id]
            self.expiry.discard(request)
        self._settle(tuple(r.id for r in waiting), Outcome.REJECTED, reason, retry_ns=retry_ns)

    # Decisions

    def _expire(self, now_ns: int) -> None:
        for request in self.expiry.due(now_ns):
            self._undecided = True
            self._forget(request)
            self._settle((request.id,), Outcome.EXPIRED, _expiry_reason(request))

    def _dispatch(self, now_ns: int) -> None:
        for model in self.models.values():
            for lane in list(model.queue.lanes.values()):
                if lane.promotes_ns <= now_ns:
                    promote(lane, model, now_ns)
        while True:
            formation = form(self.models, self.fleet, now_ns)
            self.ask_again_ns = formation.ask_again_ns
            for error in formation.errors:
                self._commands.append(PolicyFailed(error.model, error.error))
            if formation.proposal is not None:
                self._start(formation.proposal, now_ns)
            for model, requests in formation.given_up:
                self._give_up(model, requests)
            if formation.proposal is None and not formation.given_up:
                return

    def _give_up(self, model: Model, requests: Sequence[LiveRequest]) -> None:
        """Requests that cannot be in time, or only at the cost of others: late, or refused."""
        refused: list[LiveRequest] = []
        for request in requests:
            expires_ns = NEVER_NS if request.expires_ns is None else request.expires_ns
            waits = model.serves_late and AGED < request.rank < LATE
            if waits and expires_ns > request.order:
                model.queue.discard(request)
                make_late(request, model)
                model.queue.add(request)
            else:
                refused.append(request)
        if refused:
            _, soonest_ns = self.fleet.soonest(model.name, self.now_ns)
            retry_ns = self._until_clear_ns(model, soonest_ns)
            self._refuse(model, refused, Reason.PREDICTED_LATE, retry_ns=retry_ns)

    def _start(self, proposal: Proposal, now_ns: int) -> None:
        batch_id = self.next_batch_id
        self.next_batch_id += 1
        requests, model = proposal.requests, proposal.model
        name = proposal.instance.up.instance
        shapes = proposal.lane.key[1]
        model.queue.take(proposal.lane, requests)
        for request in requests:
            request.batch_id = batch_id
            if request.expires_ns is not None:
                self.expiry.discard(request)
        model.running += 1
        model.last_dispatch_ns = now_ns
        model.used_ns += proposal.takes_ns
        if model.used_ns > USED_NS:
            for other in self.models.values():
                other.used_ns /= 2
        self.fleet.start(
            RunningBatch(
                batch_id,
                model.name,
                name,
                now_ns,
                {request.id for request in requests},
                proposal.rows,
                now_ns + proposal.takes_ns,
                requests[0].probe,
                shapes,
            )
        )
        parts = tuple([Part(request.id, 0, request.rows) for request in requests])
        self._commands.append(Dispatch(batch_id, model.name, name, shapes, parts))

    # Ends

    def _forget(self, request: LiveRequest) -> None:
        """Drop a live request; a batch that runs it goes on, and its result is dropped."""
        del self.live[request.id]
        if request.batch_id is None:
            self.models[request.arrived.model].queue.discard(request)
            self.expiry.discard(request)
        else:
            self.fleet.batches[request.batch_id].unreported.discard(request.id)

    def _end(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Take executed requests out of the table."""
        for request_id in ids:
            del self.live[request_id]
        return ids

    def _settle(
        self,
        ids: tuple[int, ...],
        outcome: Outcome,
        reason: Reason = Reason.NONE,
        *,
        retry_ns: int | None = None,
    ) -> None:
        if ids:
            self._commands.append(Settle(ids, outcome, reason, retry_ns))


def _expiry_reason(request: LiveRequest) -> Reason:
    by_caller = request.expires_ns == request.arrived.expires_ns
    return Reason.CALLER_DEADLINE if by_caller else Reason.QUEUE_TIMEOUT


def reorder(model: Model) -> None:
    """Put what waits where a changed policy would have put it."""
    for request in list(model.queue):
        model.queue.discard(request)
        request.order = NEVER_NS + request.arrived.arrival_ns
        if isinstance(model.settings.policy, Adaptive):
            request.order_by_due()
        model.queue.add(request)


def make_late(request: LiveRequest, model: Model) -> None:
    """Put a request among those that can only be late, until it has waited for too long."""
    limits = model.settings.queue
    request.rank = LATE
    request.promotes_ns = request.arrived.arrival_ns + limits.ageing_ns * limits.priority_levels


def promote(lane: Lane, model: Model, now_ns: int) -> None:
    """Move what has waited for long enough a level up; what is late, to the front."""
    limits = model.settings.queue
    lane.promotes_ns = NEVER_NS
    for request in list(lane):
        if request.promotes_ns > now_ns:
            lane.promotes_ns = min(lane.promotes_ns, request.promotes_ns)
            continue
        lane.discard(request)
        if request.rank == LATE:
            request.rank, request.promotes_ns = AGED, NEVER_NS
        else:
            # Over its share or not, a level is two ranks.
            gained = 1 + (now_ns - request.promotes_ns) // limits.ageing_ns
            request.rank = max(model.best_rank, request.rank - 2 * gained)
            request.promotes_ns += gained * limits.ageing_ns
            if request.rank == model.best_rank:
                request.promotes_ns = NEVER_NS
        lane.add(request)
