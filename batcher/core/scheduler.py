"""The scheduler's one door: events in, commands out.

`handle` settles what has expired, takes in all events and then decides once, so a burst that
arrives together is batched together: batches are formed while instances are free and policies want
to. A request that has expired takes no room in a queue and is never dispatched; one that can only
be late is refused at once, where the model's settings say so, but for a probe now and then. Time is
what the caller says it is, and never goes back. The caller obliges itself to carry out every command
once, and to call `handle` again, with or without events, at `next_wakeup_ns()` at the latest.
"""

from __future__ import annotations

from collections.abc import Sequence

from batcher.core.batching.batch_former import block, form
from batcher.core.batching.selection import DUE_FIRST_ONE_IN, Proposal, charge
from batcher.core.commands import (
    Command,
    Dispatch,
    Outcome,
    Part,
    PolicyFailed,
    Reason,
    SettingsRefused,
)
from batcher.core.devices.fleet import Fleet, RunningBatch
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
    RepliesTook,
    RequestArrived,
    RequestCancelled,
    Timings,
)
from batcher.core.faults.bisection import SuspectGroup
from batcher.core.model import Model
from batcher.core.observation import Observation
from batcher.core.observe import observe
from batcher.core.policies import PolicyFactory, make_policy
from batcher.core.queueing.queue import BEST_EFFORT, PROMOTED
from batcher.core.queueing.request import LiveRequest
from batcher.core.requests.admission import (
    QUEUE_FULL_RETRY_NS,
    UNAVAILABLE_RETRY_NS,
    UNKNOWN_MODEL,
    admit,
    broken_bound,
    expiry_reason,
    group_for,
    room_for,
    until_clear_ns,
)
from batcher.core.requests.failed_batches import last_report, refit, tell_storm
from batcher.core.requests.ledger import Ledger
from batcher.core.requests.promotion import make_best_effort, next_promotion_at_ns, promote, reorder
from batcher.core.requests.splitting import next_turn, part_done, piece_rows, runs
from batcher.core.snapshot import capture, rebuild
from batcher.core.state import State
from batcher.core.times import NEVER_NS
from batcher.core.validate import validate_requests


class Scheduler:
    """All models' queues, all instances, one decision at a time. Equal input, equal output."""

    def __init__(self, policies: PolicyFactory = make_policy) -> None:
        self.now_ns = 0
        self.models: dict[str, Model] = {}
        self.fleet = Fleet()
        self._ledger = Ledger(self.models, self.fleet)
        self.live, self.expiry = self._ledger.live, self._ledger.expiry
        self.next_batch_id = 1
        self.ask_again_ns: int | None = None
        self.next_promotion_at_ns = NEVER_NS
        """When somebody who is late has waited for long enough, at the soonest."""
        self._policies = policies
        self._undecided = False

    # The door

    def handle(self, events: Sequence[Event], now_ns: int) -> list[Command]:
        """Take in all `events`, then decide once. Returns the commands, in order."""
        if now_ns < self.now_ns:  # noqa: PLR1730 - for each request
            now_ns = self.now_ns
        self.now_ns = now_ns
        # First of all, so that nobody is refused for the sake of a request that is over.
        if self.expiry.heap:
            self._expire(now_ns)
        for event in events:
            if type(event) is RequestArrived:
                self._arrive(event)
            else:
                self._take_in(event)
        again_ns = self.ask_again_ns
        if self._undecided or (again_ns is not None and again_ns <= now_ns):
            self._decide(now_ns)
        while self.next_promotion_at_ns <= now_ns:
            # Somebody may be late only since then, and have waited for long enough before.
            self._decide(now_ns)
        return self._ledger.take_commands()

    def next_wakeup_ns(self) -> int | None:
        """When `handle` must be called again at the latest; None while only events matter."""
        expires_ns = self.expiry.next_ns() if self.expiry.heap else None
        wakeup_ns = self.next_promotion_at_ns
        if self.ask_again_ns is not None and self.ask_again_ns < wakeup_ns:
            wakeup_ns = self.ask_again_ns
        if expires_ns is not None and expires_ns < wakeup_ns:
            wakeup_ns = expires_ns
        return wakeup_ns if wakeup_ns < NEVER_NS else None

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
        validate_requests(self.models, self.live, self.fleet)
        assert not self._ledger.commands

    # Events

    def _take_in(self, event: Event) -> None:
        match event:
            case RequestArrived():
                self._arrive(event)
            case BatchProgress():
                self._progress(event)
            case RequestCancelled():
                self._cancel(event)
            case RepliesTook():
                model = self.models.get(event.model)
                if model is not None:
                    for times in model.times.values():
                        times.observe_replies(event.rows, event.took_ns, self.now_ns)
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
        self._unblock()
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
                self._forget_parts()

    def _arrive(self, event: RequestArrived) -> None:
        assert event.id not in self.live, f"request {event.id} arrived twice"
        model = self.models.get(event.model)
        if model is None:
            self._ledger.turn_away(event.id, UNKNOWN_MODEL)
            return
        if model.bisections.batch_cap.faults:
            model.bisections.batch_cap.arrived(event.rows, self.now_ns)
        request = admit(event, model, self.fleet, self.now_ns)
        if type(request) is not LiveRequest:
            self._ledger.turn_away(event.id, request)
            return
        while (reason := broken_bound(request, model)) is not None:
            make_room = group_for if reason is Reason.QUEUE_GROUPS else room_for
            victims = make_room(request, model)
            if not victims:
                retry_ns = QUEUE_FULL_RETRY_NS
                self._ledger.settle((event.id,), Outcome.REJECTED, reason, retry_ns=retry_ns)
                return
            self._ledger.refuse(victims, reason, retry_ns=QUEUE_FULL_RETRY_NS)
        self.live[request.id] = request
        model.queue.add(request)
        if request.expires_ns is not None:
            self.expiry.add(request)
        if not model.blocked:
            self._undecided = True
        else:
            if request.rank == BEST_EFFORT:
                self.next_promotion_at_ns = min(self.next_promotion_at_ns, request.promote_at_ns)
            if model.prefetch_at_ns < NEVER_NS:
                self._ask_at_opening(model)

    def _cancel(self, event: RequestCancelled) -> None:
        request = self.live.get(event.id)
        if request is None:
            return
        self._ledger.forget(request)
        if event.cause is CancelCause.DEADLINE:
            self._ledger.settle((event.id,), Outcome.EXPIRED, Reason.CALLER_DEADLINE)
        else:
            self._ledger.settle((event.id,), Outcome.CANCELLED, Reason.CALLER_CANCELLED)

    def _progress(self, event: BatchProgress) -> None:
        batch = self.fleet.batches.get(event.batch_id)
        if batch is None:
            return
        done, unreported = event.done, batch.unreported
        named = set(done)
        if len(named) < len(done) or not named <= unreported:
            # A request that its caller left, or that is named twice, has ended already.
            done = tuple(i for i in dict.fromkeys(done) if i in unreported)
        unreported.difference_update(done)
        if batch.split:
            done = self._all_done(batch, done)
        self._ledger.done(done)
        for failure in event.failed:
            self._fail(batch, failure)
        if event.last or event.error is not None:
            failed = bool(event.failed) or event.error is not None
            if batch.unreported or batch.suspects is not None:
                model = self.models.get(batch.model)
                last_report(batch, event, model, self._ledger, now_ns=self.now_ns)
            self._finish(batch, event.timings, failed=failed)

    def _all_done(self, batch: RunningBatch, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Those of the requests whose rows in a batch are done that have no other rows left."""
        rows = {part.id: part.stop - part.start for part in batch.parts}
        done: list[int] = []
        for request_id in ids:
            request = self.live[request_id]
            split = request.split
            if split is None or part_done(request, split, batch.batch_id, rows[request_id]):
                done.append(request_id)
            elif split.queued and request_id != batch.filled:
                # Whoever came while these rows ran goes before the others.
                queue = self.models[batch.model].queue
                queue.discard(request)
                next_turn(request, self.models[batch.model], self.now_ns)
                queue.add(request)
        return tuple(done)

    def _finish(self, batch: RunningBatch, timings: Timings | None, *, failed: bool) -> None:
        """Take a batch off its instance, and learn from what it took."""
        self.fleet.finish(batch.batch_id, self.now_ns)
        self._unblock()
        model = self.models.get(batch.model)
        if model is None:
            return
        now_ns = self.now_ns
        if not failed:
            model.bisections.failures_in_a_row = 0
            queues = self.fleet.instances[batch.instance].up.queues
            model.observe(batch, timings if queues else None, now_ns)
            model.judge_target(now_ns)
            if model.bisections.storm_ns is not None:
                tell_storm(model, self._ledger, self.now_ns, succeeded=True)
        if model.arrivals is not None:
            model.arrivals.ended(batch.rows, now_ns)
        if batch.suspects is None:
            model.bisections.batch_cap.count(batch.rows)
        model.running -= 1

    def _unblock(self) -> None:
        for model in self.models.values():
            model.blocked = False

    def _fail(self, batch: RunningBatch, failure: Failure) -> None:
        if failure.id not in batch.unreported:
            return
        self._ledger.fail((failure.id,), failure.cause)

    def _instance_up(self, event: InstanceUp) -> None:
        known = self.fleet.instances.get(event.instance)
        if known is not None:
            if known.up.incarnation >= event.incarnation:
                return
            self._instance_down(InstanceDown(event.instance, known.up.incarnation))
        self.fleet.up(event)
        model = self.models.get(event.model)
        if model is not None and (event.profile or event.buckets):
            if event.profile:
                model.seed((), event.profile)
            for bucket, profile in event.buckets:
                model.seed(bucket, profile)
            model.judge_target(self.now_ns, measured=True)

    def _instance_down(self, event: InstanceDown) -> None:
        instance = self.fleet.incarnation(event.instance, event.incarnation)
        if instance is None:
            return
        for batch in self.fleet.remove(instance):
            model = self.models.get(batch.model)
            if model is not None:
                model.running -= 1
                if batch.suspects is not None:
                    model.bisections.lost(batch.suspects)
            # Of a split request, what waits or runs elsewhere is given up, too.
            lost = tuple(sorted(i for i in batch.unreported if i in self.live))
            for request_id in lost:
                self._ledger.forget(self.live[request_id])
            self._ledger.settle(
                lost, Outcome.FAILED, Reason.INSTANCE_DOWN, retry_ns=UNAVAILABLE_RETRY_NS
            )

    def _configure(self, event: ModelConfigured) -> None:
        model = self.models.get(event.model)
        known = model is not None
        if model is None:
            model = Model(event.model, event.settings, self._policies)
            # What an earlier model of this name still runs is this one's now.
            running = self.fleet.batches.values()
            model.running = sum(batch.model == event.model for batch in running)
            self.models[event.model] = model
        was_adaptive = model.adaptive is not None
        max_rows = model.settings.max_batch_size
        try:
            model.configure(event.settings, self.now_ns)
        except Exception as exc:  # noqa: BLE001 - a policy's own code; the model runs without it
            error = f"{type(exc).__name__}: {exc}"
            if known:
                self._ledger.commands.append(SettingsRefused(model.name, error))
                return
            model.start_without_policy(event.settings)
            self._ledger.commands.append(PolicyFailed(model.name, error))
        resized = max_rows != event.settings.max_batch_size
        reorder(model, self.now_ns, was_adaptive=was_adaptive, resized=resized)
        refit(model, self._ledger, FailureCause.UNKNOWN, self.now_ns)

    def _remove(self, event: ModelRemoved) -> None:
        model = self.models.get(event.model)
        if model is None:
            return
        again = {part.id: self.live[part.id] for part in model.bisections.waiting_parts()}
        waiting = list(({request.id: request for request in model.queue} | again).values())
        self._ledger.refuse(waiting, Reason.MODEL_REMOVED, retry_ns=UNAVAILABLE_RETRY_NS)
        for batch in self.fleet.batches.values():
            if batch.model == event.model:
                batch.suspects = None
        del self.models[event.model]
        self._forget_parts()

    # Decisions

    def _expire(self, now_ns: int) -> None:
        for request in self.expiry.due(now_ns):
            self._undecided = True
            self._ledger.forget(request)
            self._ledger.settle(
                (request.id,), Outcome.EXPIRED, expiry_reason(request.arrived, request.expires_ns)
            )

    def _decide(self, now_ns: int) -> None:
        self._undecided = False
        self._dispatch(now_ns)
        self.next_promotion_at_ns = next_promotion_at_ns(self.models.values())
        for model in self.models.values():
            if model.prefetch_at_ns < NEVER_NS:
                self._ask_at_opening(model)

    def _ask_at_opening(self, model: Model) -> None:
        """Decide when an instance of the model may get a batch in hand, if there is a full one."""
        if model.blocked and model.fills_a_batch:
            again_ns, prefetch_at_ns = self.ask_again_ns, model.prefetch_at_ns
            self.ask_again_ns = (
                prefetch_at_ns if again_ns is None else min(again_ns, prefetch_at_ns)
            )

    def _dispatch(self, now_ns: int) -> None:
        for model in self.models.values():
            for group in list(model.queue.groups.values()):
                if group.promote_at_ns <= now_ns:
                    over = promote(group, model, self.fleet, now_ns)
                    if over:
                        retry_ns = until_clear_ns(model, self.fleet, now_ns)
                        self._ledger.refuse(over, Reason.PREDICTED_LATE, retry_ns=retry_ns)
        while True:
            formation = form(self.models, self.fleet, self.live, now_ns)
            self.ask_again_ns = formation.ask_again_ns
            for error in formation.errors:
                self._ledger.commands.append(PolicyFailed(error.model, error.error))
            # Whoever is given up stood before the batch: without them it is its line's front.
            for model, requests in formation.given_up:
                self._give_up(model, requests)
            if formation.proposal is not None:
                self._start(formation.proposal, now_ns)
            for error in formation.errors:
                reorder(self.models[error.model], now_ns, was_adaptive=True)
            if formation.proposal is None and not formation.given_up:
                return
            if all(model.asleep(now_ns) for model in self.models.values()):
                self.ask_again_ns = None
                return

    def _give_up(self, model: Model, requests: Sequence[LiveRequest]) -> None:
        """Requests that cannot be in time, or only at the cost of others: late, or refused."""
        refused: list[LiveRequest] = []
        for request in requests:
            deadline_ns = NEVER_NS if request.deadline_ns is None else request.deadline_ns
            # What has begun to run is not given up for the sake of others.
            waits = (model.serves_late or request.begun) and PROMOTED < request.rank < BEST_EFFORT
            if waits and deadline_ns > request.finish_by_ns:
                model.queue.discard(request)
                make_best_effort(request, model)
                model.queue.add(request)
            else:
                refused.append(request)
        if refused:
            retry_ns = until_clear_ns(model, self.fleet, self.now_ns)
            self._ledger.refuse(refused, Reason.PREDICTED_LATE, retry_ns=retry_ns)

    def _start(self, proposal: Proposal, now_ns: int) -> None:
        batch_id = self.next_batch_id
        self.next_batch_id += 1
        requests, model = proposal.requests, proposal.model
        name = proposal.instance.up.instance
        suspects = proposal.suspects
        split = False
        if suspects is not None:
            parts = self._take_again(proposal, suspects, batch_id)
            split = any(request.split is not None for request in requests)
        elif model.queue.splits:
            parts = self._take_pieces(proposal, batch_id)
            split = True
        else:
            assert proposal.group is not None
            model.queue.take(proposal.group, requests)
            if proposal.extra:
                for request in proposal.extra:
                    model.queue.discard(request)
                requests = [*requests, *proposal.extra]
            for request in requests:
                request.batch_id = batch_id
                if request.expires_ns is not None:
                    self.expiry.discard(request)
            parts = tuple([Part(request.id, 0, request.rows) for request in requests])
        model.running += 1
        model.dispatch_count = (model.dispatch_count + 1) % DUE_FIRST_ONE_IN
        times = model.times.get(proposal.shapes)
        if times is not None:
            times.canaries.batch_started(proposal.rows, now_ns)
        if len(self.models) > 1 and self.fleet.sharing(proposal.instance.up.device):
            charge(proposal, self.models.values(), self.fleet)
        batch = RunningBatch(
            batch_id,
            model.name,
            name,
            proposal.begins_ns,
            {part.id for part in parts},
            proposal.rows,
            proposal.begins_ns + proposal.expected_ns,
            requests[0].canary,
            proposal.shapes,
            parts,
            split,
            suspects,
            None if proposal.filled is None else proposal.filled[0].id,
            not proposal.instance.free,
        )
        model.prefetch.foresee(batch, 1.0 if times is None else times.margin)
        self.fleet.start(batch)
        model.blocked = False
        if self.fleet.free_instance(model.name) is None:
            block(model, self.fleet, now_ns)
        attempt = 1 if suspects is None else suspects.attempt
        self._ledger.commands.append(
            Dispatch(batch_id, model.name, name, proposal.shapes, parts, attempt)
        )

    def _forget_parts(self) -> None:
        """Who shares a device with whom has changed."""
        for model in self.models.values():
            model.part = 1.0

    def _take_pieces(self, proposal: Proposal, batch_id: int) -> tuple[Part, ...]:
        """Take a batch out where some request may be split; its rest waits for another turn."""
        model = proposal.model
        parts: list[Part] = []
        sizes = [(r, r.rows, True) for r in (*proposal.requests, *proposal.extra)]
        if proposal.filled is not None:
            sizes.append((*proposal.filled, False))
        for request, rows, turn in sizes:
            model.queue.discard(request)
            parts.append(Part(request.id, request.start, request.start + rows))
            left = 0
            if request.split is not None:
                request.start += rows
                left = request.arrived.rows - request.start
            if left:
                request.rows = min(left, piece_rows(model, request.bucket))
                if turn:
                    next_turn(request, model, self.now_ns)
                model.queue.add(request)
            if runs(request, batch_id) and request.expires_ns is not None:
                self.expiry.discard(request)
        return tuple(parts)

    def _take_again(
        self, proposal: Proposal, suspects: SuspectGroup, batch_id: int
    ) -> tuple[Part, ...]:
        """Take a group of a failed batch out."""
        model = proposal.model
        slots = self.fleet.slots(model.name)
        model.bisections.start(suspects, proposal.expected_ns, slots, self.now_ns)
        tell_storm(model, self._ledger, self.now_ns)
        for request in proposal.requests:
            request.retries -= 1
            if runs(request, batch_id) and request.expires_ns is not None:
                self.expiry.discard(request)
        return suspects.parts
