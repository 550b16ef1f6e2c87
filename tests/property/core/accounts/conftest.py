"""Accounts of a scheduler under any policy: they predict little, and let nothing be lost.

`Accounts` says how a request must end where the events alone decide it, which may end otherwise, and
what no dispatch may do. It knows the rows of each request and nothing of how the scheduler chooses.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from batcher.core.commands import (
    FAILURE_REASONS,
    BatchCeiling,
    Dispatch,
    FailureStorm,
    Outcome,
    PolicyFailed,
    Reason,
    Settle,
    failure_outcome,
)
from batcher.core.events import (
    BatchProgress,
    CancelCause,
    DeviceConfigured,
    FailureCause,
    InstanceDown,
    InstanceDraining,
    InstancesFailed,
    InstanceUp,
    ModelConfigured,
    ModelRemoved,
    RequestArrived,
    RequestCancelled,
)
from batcher.core.queueing.ranks import LATE
from batcher.core.settings import Adaptive, NoBatching
from batcher.core.times import LATELY_NS, NEVER_NS
from batcher.testing.accounts import (
    Batch,
    Ceilings,
    Request,
    Reruns,
    check_padding,
    check_that_none_waits_in_vain,
    earliest_start_ns,
    half_of,
    overfull,
    rows_of,
)

FULL = {Reason.QUEUE_REQUESTS, Reason.QUEUE_GROUPS, Reason.QUEUE_ROWS, Reason.QUEUE_BYTES}


@dataclass
class Accounts:
    now_ns: int = 0
    models: dict = field(default_factory=dict)
    limits: dict = field(default_factory=dict)
    instances: dict = field(default_factory=dict)  # name -> InstanceUp
    draining: set = field(default_factory=set)
    live: dict = field(default_factory=dict)  # id -> Request
    ended: set = field(default_factory=set)  # ids, for ever
    running: dict = field(default_factory=dict)  # batch id -> Batch
    reruns: Reruns = field(default_factory=Reruns)
    ran_ns: dict = field(default_factory=dict)  # (model, bucket) -> when a batch was dispatched
    stormy: set = field(default_factory=set)
    ceilings: Ceilings = field(default_factory=Ceilings)
    failed_policies: list = field(default_factory=list)  # names of models, each time
    last_batch: int = 0
    must: dict = field(default_factory=dict)  # id -> how it ends in this step
    fresh: set = field(default_factory=set)  # ids that came in this step
    unbound: set = field(default_factory=set)  # models whose queues this step may overfill
    failing: set = field(default_factory=set)  # models without their own policies
    alone: set = field(default_factory=set)  # ids that came in this step beside an idle instance
    crowded: set = field(default_factory=set)  # ids lost in this step beside too many others

    # Rows

    def running_rows(self, request_id):
        """The rows of a request that run now."""
        batches = [batch for batch in self.running.values() if request_id in batch.left]
        return {row for b in batches for i, row in rows_of(b.command.parts) if i == request_id}

    def waiting(self, request_id):
        return self.live[request_id].undone - self.running_rows(request_id)

    # What events must lead to

    def take_in(self, events, now_ns):
        self.now_ns = max(self.now_ns, now_ns)
        self.must, self.fresh, self.unbound, self.alone = {}, set(), set(), set()
        self.crowded = set()
        for request_id in self.live:
            waits = bool(self.waiting(request_id))
            self.end_if_expired(request_id, waits=waits)
            self.end_at_limit(request_id, waits=waits)
        for event in events:
            match event:
                case RequestArrived():
                    self.arrive(event)
                case RequestCancelled():
                    self.cancel(event)
                case BatchProgress():
                    self.progress(event)
                case ModelConfigured():
                    self.models[event.model] = event.settings
                    self.failing.discard(event.model)
                    self.unbound.add(event.model)
                case ModelRemoved():
                    self.remove(event.model)
                case _:
                    self.take_in_fleet(event)

    def take_in_fleet(self, event):
        match event:
            case DeviceConfigured():
                self.limits[event.device] = event.max_in_flight
            case InstanceUp():
                known = self.instances.get(event.instance)
                if known is None or known.incarnation < event.incarnation:
                    self.down(event.instance)
                    self.instances[event.instance] = event
            case InstanceDraining() if self.is_up(event):
                self.draining.add(event.instance)
            case InstanceDown() if self.is_up(event):
                self.down(event.instance)
            case InstancesFailed():
                self.failed_for_good(event.model)

    def remove(self, model):
        self.models.pop(model, None)
        for known in (self.stormy, self.ceilings.models):
            known.discard(model)
        for request_id, request in self.live.items():
            if request.arrived.model == model and self.waiting(request_id):
                self.end(request_id, Outcome.REJECTED, Reason.MODEL_REMOVED)

    def failed_for_good(self, model):
        if any(up.model == model for up in self.instances.values()) or model not in self.models:
            return
        for request_id, request in self.live.items():
            if request.arrived.model == model and self.waiting(request_id):
                self.end(request_id, Outcome.REJECTED, Reason.NO_INSTANCE)

    def is_up(self, event):
        known = self.instances.get(event.instance)
        return known is not None and known.incarnation == event.incarnation

    def end(self, request_id, outcome, reason=Reason.NONE):
        """Note how a request must end, unless it has ended in this step already."""
        if request_id in self.live:
            self.must.setdefault(request_id, (outcome, reason))
            for batch in self.running.values():
                batch.left.discard(request_id)

    def fail(self, request_id, cause):
        self.end(request_id, failure_outcome(cause), FAILURE_REASONS[cause])

    def end_if_expired(self, request_id, *, waits):
        request = self.live[request_id]
        if waits and request.expires_ns is not None and request.expires_ns <= self.now_ns:
            by_caller = request.expires_ns == request.arrived.deadline_ns
            reason = Reason.CALLER_DEADLINE if by_caller else Reason.QUEUE_TIMEOUT
            self.end(request_id, Outcome.EXPIRED, reason)

    def end_at_limit(self, request_id, *, waits):
        request = self.live[request_id]
        if waits and request.limit_ns <= self.now_ns:
            up = self.serves(request.arrived.model)
            reason = Reason.PREDICTED_LATE if up else Reason.NO_INSTANCE
            self.end(request_id, Outcome.REJECTED, reason)

    def serves(self, model):
        up = self.instances.values()
        return any(i.model == model and i.instance not in self.draining for i in up)

    def arrive(self, event):
        model = self.models.get(event.model)
        expires = [event.deadline_ns] if event.deadline_ns is not None else []
        if model is not None and model.queue.timeout_ns is not None:
            expires.append(event.arrival_ns + model.queue.timeout_ns)
        if self.is_idle(event.model):
            self.alone.add(event.id)
        times = min(expires, default=None), self.limit_ns(event)
        self.live[event.id] = Request(event, *times, set(range(event.rows)))
        self.fresh.add(event.id)
        if model is None:
            self.end(event.id, Outcome.REJECTED, Reason.UNKNOWN_MODEL)
        elif not self.serves(event.model):
            self.end(event.id, Outcome.REJECTED, Reason.NO_INSTANCE)
        else:
            self.end_if_expired(event.id, waits=True)
            if event.rows > model.max_request_rows:
                self.end(event.id, Outcome.REJECTED, Reason.TOO_MANY_ROWS)
            elif model.queue.max_bytes is not None and event.nbytes > model.queue.max_bytes:
                self.end(event.id, Outcome.REJECTED, Reason.TOO_MANY_BYTES)
            self.end_at_limit(event.id, waits=True)

    def limit_ns(self, event):
        """The last moment at which an answer is of use."""
        limits = [NEVER_NS]
        if event.deadline_ns is not None:
            limits.append(event.deadline_ns)
        policy = getattr(self.models.get(event.model), "policy", None)
        own_ns = policy.limit_ns if isinstance(policy, Adaptive) else None
        if own_ns is not None and event.model not in self.failing:
            limits.append(event.arrival_ns + own_ns)
        return min(limits)

    def is_idle(self, model):
        """Whether an instance of a model is free, and nothing waits for the model."""
        waits = any(r.arrived.model == model and self.waiting(i) for i, r in self.live.items())
        return not waits and any(
            up.model == model and up.instance not in self.draining and self.has_room(up)
            for up in self.instances.values()
        )

    def is_stale(self, model, bucket):
        """Whether no batch has begun for so long that a prediction alone refuses nothing."""
        return self.now_ns - self.ran_ns.get((model, bucket), -LATELY_NS) >= LATELY_NS

    def has_room(self, up):
        busy = [self.instances[b.command.instance] for b in self.running.values() if not b.next]
        limit = self.limits.get(up.device)
        free = limit is None or sum(other.device == up.device for other in busy) < limit
        return free and busy.count(up) < up.max_in_flight

    def cancel(self, event):
        expired = event.cause is CancelCause.DEADLINE
        ends = Outcome.EXPIRED, Reason.CALLER_DEADLINE
        self.end(event.id, *(ends if expired else (Outcome.CANCELLED, Reason.CALLER_CANCELLED)))

    def progress(self, event):
        if (batch := self.running.get(event.batch_id)) is None:
            return
        if event.error is not None or event.failed:
            self.ceilings.note(batch.command.model, self.sizes_of(batch.command.model))
        for part in batch.command.parts:
            if part.id in event.done and part.id in batch.left:
                batch.left.remove(part.id)
                self.live[part.id].undone -= set(range(part.start, part.stop))
                if not self.live[part.id].undone:
                    self.end(part.id, Outcome.OK)
        for failure in event.failed:
            if failure.id in batch.left:
                self.fail(failure.id, failure.cause)
        if event.last or event.error is not None:
            self.finish(event, batch)

    def finish(self, event, batch):
        """A last report: what is not reported has failed, or may run again if the cause is unknown."""
        del self.running[event.batch_id]
        for other in self.running.values():
            if other.next and other.command.instance == batch.command.instance:
                other.next, other.dispatched_ns = False, self.now_ns
        model = batch.command.model
        for request_id in batch.left:
            self.end_if_expired(request_id, waits=True)
        left = batch.left - set(self.must)
        if event.error is not None:
            self.reruns.ended(batch.command)
            self.unbound.add(model)
        known = event.error not in {FailureCause.INPUT, FailureCause.UNKNOWN} or len(left) == 1
        if event.error is FailureCause.MEMORY:
            known = not (most := half_of(batch.rows, self.sizes_of(model)))
            for request in [self.live[request_id] for request_id in left]:
                request.most_rows = most
        if known or model not in self.models or not self.serves(model):
            for request_id in left:
                self.fail(request_id, event.error or FailureCause.UNKNOWN)
        for request_id in left:
            self.live[request_id].suspect = True
            self.end_at_limit(request_id, waits=True)

    def sizes_of(self, model):
        return self.models[model].batch_sizes if model in self.models else ()

    def down(self, instance):
        lost = {i: b for i, b in self.running.items() if b.command.instance == instance}
        own = {r for b in lost.values() for r in b.left}
        model = self.models.get(self.instances[instance].model) if own else None
        again = set()
        if model is not None and model.idempotent:
            for request_id in own:
                self.end_if_expired(request_id, waits=True)
            again = {i for i in own - set(self.must) if self.live[i].may_run_again(self.now_ns)}
        for request_id in own - again:
            self.end(request_id, Outcome.FAILED, Reason.INSTANCE_DOWN)
        for batch_id, batch in lost.items():
            self.reruns.ended(batch.command)
            del self.running[batch_id]
        for request_id in again:
            request = self.live[request_id]
            request.lost = request.suspect = True
            self.unbound.add(request.arrived.model)
            if sum(r.lost for r in self.live.values()) > model.queue.max_requests:
                self.crowded.add(request_id)
        self.instances.pop(instance, None)
        self.draining.discard(instance)

    # What commands may say

    def check(self, commands, scheduler):
        failing = self.failing | {c.model for c in commands if isinstance(c, PolicyFailed)}
        for request_id in self.fresh & set(scheduler.live):
            request, limit_ns = self.live[request_id], scheduler.live[request_id].limit_ns
            if request.arrived.model in failing:
                # Its policy, which knows of a limit, may have failed before it came, or after.
                request.limit_ns = limit_ns
                if self.must.get(request_id) == (Outcome.REJECTED, Reason.PREDICTED_LATE):
                    del self.must[request_id]
            assert request.limit_ns == limit_ns
        for command in commands:
            match command:
                case Settle():
                    for request_id in command.ids:
                        self.settle(request_id, (command.outcome, command.reason), scheduler)
                case Dispatch():
                    self.dispatch(command, scheduler)
                case FailureStorm():
                    assert (command.model in self.stormy) == command.over
                    self.stormy ^= {command.model}
                case BatchCeiling():
                    self.ceilings.check(command)
                case PolicyFailed():
                    self.failed_policies.append(command.model)
                    self.failing.add(command.model)
                case _:
                    raise AssertionError(command)
        assert set(self.must) <= self.ended
        assert set(self.live) == set(scheduler.live)
        for known in (self.stormy, self.ceilings.models):
            known.intersection_update(self.models)
        self.check_queues(scheduler)

    def settle(self, request_id, how, scheduler):
        assert request_id not in self.ended
        if self.must.get(request_id) != how:
            self.check_choice(request_id, *how)
            if how[1] is Reason.PREDICTED_LATE:
                self.check_prediction(request_id, scheduler)
        self.ended.add(request_id)
        del self.live[request_id]
        for batch in self.running.values():
            batch.left.discard(request_id)

    def check_choice(self, request_id, outcome, reason):
        """A request may end so, although it need not."""
        request = self.live[request_id]
        if reason is Reason.INSTANCE_DOWN:
            assert request_id in self.crowded
        elif outcome is Outcome.FAILED:
            assert request.suspect
            assert reason in {Reason.INPUT_FAILURE, Reason.UNKNOWN_FAILURE}
        elif outcome is Outcome.EXPIRED:
            assert reason is Reason.DEADLINE_TOO_SHORT
            assert request.arrived.deadline_ns is not None
            assert not request.begun
        else:
            assert outcome is Outcome.REJECTED
            nowhere = reason is Reason.NO_INSTANCE and not self.serves(request.arrived.model)
            full = reason in FULL and not request.begun
            assert nowhere or full or reason is Reason.PREDICTED_LATE

    def check_prediction(self, request_id, scheduler):
        """A prediction refuses only what has a limit, and nothing that came beside an idle instance.

        But for what even the fastest batch cannot answer within its limit.
        """
        request = self.live[request_id]
        if (name := request.arrived.model) not in self.models or name in self.unbound:
            return  # Its settings have changed since, in this step.
        model, settings_ = scheduler.models[name], self.models[name]
        assert isinstance(settings_.policy, Adaptive)
        bounded = request.limit_ns < NEVER_NS or request.expires_ns is not None
        assert bounded or settings_.target_ns is not None
        bucket = model.bucket_of(request.arrived.shapes)
        times = model.times.get(bucket)
        assert times, "refused for what was never measured"
        if request_id in self.alone and self.fresh <= {request_id}:
            assert not self.is_stale(name, bucket)
            assert self.now_ns + times.least_ns(self.now_ns) > request.limit_ns

    def dispatch(self, command, scheduler):
        model = self.models[command.model]
        up = self.instances[command.instance]
        assert up.model == command.model
        assert command.instance not in self.draining
        busy = [self.instances[b.command.instance] for b in self.running.values() if not b.next]
        prefetched = up.prefetches and busy.count(up) == up.max_in_flight == 1
        if prefetched:
            nexts = {b.command.instance for b in self.running.values() if b.next}
            assert up.instance not in nexts
        else:
            assert self.has_room(up)
        assert command.batch_id > self.last_batch
        self.last_batch = command.batch_id
        stale = self.is_stale(command.model, command.bucket)
        self.ran_ns[command.model, command.bucket] = self.now_ns
        batch = Batch(command, self.now_ns, {part.id for part in command.parts}, prefetched)
        lone = command.attempt > 1 and len(command.parts) == 1  # as it was, whatever the ceiling is
        assert lone or 1 <= batch.rows <= scheduler.models[command.model].most_rows(command.bucket)
        if prefetched:
            self.check_that_no_request_could_join(batch, up, scheduler)
        assert len(batch.left) == len(command.parts)
        assert len({self.live[part.id].arrived.batch_key for part in command.parts}) == 1
        for part in command.parts:
            request = self.live[part.id]
            assert request.arrived.model == command.model
            assert set(range(part.start, part.stop)) <= self.waiting(part.id)
            assert request.expires_ns is None or request.expires_ns > self.now_ns
            assert request.limit_ns > self.now_ns
            check_padding(request.arrived.shapes, command, model.padding)
            request.begun = True
        if command.attempt > 1:
            suspects = scheduler.fleet.batches[command.batch_id].suspects
            self.reruns.check(command, suspects)
            assert batch.rows <= min(self.live[part.id].most_rows for part in command.parts)
            assert not suspects.lost or all(self.live[i].lost for i in batch.left)
        elif scheduler.models[command.model].policy_failed:
            pass  # a greedy batch, under any settings
        elif isinstance(model.policy, NoBatching):
            assert len(command.parts) == 1
        elif isinstance(model.policy, Adaptive):
            self.check_that_it_is_in_time(batch, scheduler, stale=stale)
        self.running[command.batch_id] = batch

    def check_that_no_request_could_join(self, batch, up, scheduler):
        """A batch is prefetched only where requests that come until it begins would wait anyway.

        One that is pipelined is, too, where its device would wait for its copy.
        """
        command, model = batch.command, scheduler.models[batch.command.model]
        others = [i for i in self.instances.values() if i.device == up.device]
        assert self.limits.get(up.device) is None or all(i.model == up.model for i in others)
        assert command.attempt == 1
        assert not model.bisections.open
        begins_ns = scheduler.fleet.batches[command.batch_id].dispatched_ns
        ends = [self.live[part.id].expires_ns for part in command.parts]
        assert all(expires_ns is None or expires_ns > begins_ns for expires_ns in ends)
        key = self.live[command.parts[0].id].arrived.batch_key
        others = any(r.arrived.batch_key == key for r in model.queue)
        full = batch.rows == model.most_rows(command.bucket)
        assert others or full or model.times.pipelined

    def check_that_it_is_in_time(self, batch, scheduler, *, stale):
        """No request runs that the estimator says will miss its target, or its deadline.

        Exceptions are late requests, and requests that have begun. A prefetched batch
        ends sooner by what that saves.
        """
        model = scheduler.models[batch.command.model]
        if not (times := model.times.get(batch.command.bucket)):
            return
        # A request alone may be let try, unless its bucket was measured lately and was never so quick.
        alone = len(batch.command.parts) == 1
        if alone and stale:
            return
        begins_ns = scheduler.fleet.batches[batch.command.batch_id].dispatched_ns
        assert begins_ns == self.now_ns or (batch.next and begins_ns > self.now_ns)
        starts_ns = earliest_start_ns(begins_ns, batch.rows, model, times, self.now_ns)
        quickest_ns = min(times.least_ns(self.now_ns), times.expected[batch.rows])
        ends_ns = starts_ns + (quickest_ns if alone else times.p95[batch.rows])
        for part in batch.command.parts:
            # The rest of a split request may have been given up in the same step.
            if (request := scheduler.live.get(part.id)) is None or request.split:
                continue
            assert ends_ns <= request.limit_ns
            if model.target_ns is not None and model.reachable and request.rank != LATE:
                assert ends_ns <= request.finish_by_ns

    def check_queues(self, scheduler):
        """What is said of queues is what waits, and newcomers do not overfill them."""
        observed = {each.model: each for each in scheduler.observe(self.now_ns).models}
        assert set(observed) == set(self.models)
        waiting = {i: len(self.waiting(i)) for i in self.live}
        running = {i for batch in self.running.values() for i in batch.left}
        for name, settings_ in self.models.items():
            mine = {i for i, request in self.live.items() if request.arrived.model == name}
            seen, model = observed[name], scheduler.models[name]
            assert seen.waiting_requests == sum(waiting[i] > 0 for i in mine)
            assert seen.waiting_rows == sum(waiting[i] for i in mine)
            assert seen.executing_requests == len(mine & running)
            assert model.running == sum(b.command.model == name for b in self.running.values())
            if overfull(model.queue, settings_.queue) and name not in self.unbound:
                assert not self.fresh & mine
            if scheduler.fleet.free_instance(name) is not None:
                assert model.bisections.next() is None
                assert not model.queue.requests or scheduler.next_wakeup_ns() is not None
                if isinstance(settings_.policy, Adaptive) and model.deadline_aware:
                    check_that_none_waits_in_vain(model, scheduler, self.now_ns)


@pytest.fixture
def make_accounts():
    """Empty accounts."""
    return Accounts
