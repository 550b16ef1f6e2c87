"""Each request ends once, with what its caller saw, and no nanosecond of it is lost.

Everything from `Batcher.begin` down to the instances is real and runs on an event loop; clock, timers, executors
and the transport are manual. The clock moves on whenever it is read, so no two moments of a request are equal:
time that counts twice, or in no stage, shows.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.clock import MILLISECOND
from batcher.config import SequenceConfig
from batcher.core.commands import Outcome, Reason
from batcher.core.settings import Adaptive, FixedWindow, ModelSettings, QueueLimits
from batcher.errors import (
    AnswerLoss,
    AnswerTooLarge,
    BufferFull,
    InvalidRequest,
    RequestError,
)
from batcher.runtime.request import Arrival, InferenceRequest, SequenceParameters
from batcher.service import IMPOSSIBLE
from batcher.telemetry import AdmissionReason, ReplyReason, UnreadReason
from batcher.telemetry.budget import Hop
from batcher.tensors import Tensor
from batcher.testing.invariants import validate

MAX_ROWS = 6
TARGET_NS = 6 * MILLISECOND
SHARES = {Hop.UPSTREAM: MILLISECOND, Hop.QUEUE: 2 * MILLISECOND, Hop.REPLY: MILLISECOND}
QUEUE = QueueLimits(max_requests=10, timeout_ns=25 * MILLISECOND)
SEQUENCES = {"steps": SequenceConfig(strategy="slot", max_sequences=2)}
SETTINGS = {
    "plain": ModelSettings(MAX_ROWS, FixedWindow(3 * MILLISECOND), QUEUE, TARGET_NS),
    "again": ModelSettings(MAX_ROWS, FixedWindow(0), QUEUE, TARGET_NS, idempotent=True),
    "early": ModelSettings(MAX_ROWS, Adaptive(limit_ns=20 * MILLISECOND), QUEUE, TARGET_NS),
    "steps": ModelSettings(MAX_ROWS, FixedWindow(0), QUEUE, TARGET_NS),
}

LOST = {
    AnswerLoss.LEFT: {(Outcome.CANCELLED, "answer_lost"), (Outcome.EXPIRED, "caller_deadline")},
    AnswerLoss.DEADLINE: {(Outcome.EXPIRED, "caller_deadline")},
    AnswerLoss.STALLED: {(Outcome.CANCELLED, "answer_stalled")},
    AnswerLoss.NO_ROOM: {(Outcome.FAILED, "buffer_full")},
    AnswerLoss.TOO_LARGE: {(Outcome.FAILED, "answer_too_large")},
    AnswerLoss.INTERNAL: {(Outcome.FAILED, "internal")},
}
"""What counts for an answer that was made and then lost so."""

UNMADE = {
    InvalidRequest: (Outcome.FAILED, Reason.INPUT_FAILURE),
    AnswerTooLarge: (Outcome.FAILED, ReplyReason.ANSWER_TOO_LARGE),
    BufferFull: (Outcome.FAILED, ReplyReason.BUFFER_FULL),
    ZeroDivisionError: (Outcome.FAILED, ReplyReason.INTERNAL),
}
"""What counts for an answer that could not be made."""


@dataclass(eq=False)
class Caller:
    """A request, what its transport does with the answer, and what the caller saw of it."""

    number: int
    model: str
    rows: int
    claim_ns: int | None
    deadline_ns: int | None
    sequence: SequenceParameters | None
    fault: str | AnswerLoss | type[Exception] | None
    """What is wrong with the request, or becomes of its answer."""
    turns: int
    """Iterations of the event loop that it takes to make the answer, and then to send it."""
    task: asyncio.Task | None = None
    exchange: object = None
    error: BaseException | None = None
    left: bool = False
    unmade: bool = False
    sending: bool = False
    loss: AnswerLoss | None = None


@dataclass(eq=False)
class World:
    """A server with its transport by hand, its callers, and what was told of their ends."""

    server: object
    callers: list = field(default_factory=list)
    open_callers: list = field(default_factory=list)
    told: list = field(default_factory=list)

    async def open(self):
        await self.server.open()
        self.clock, self.batcher = self.server.clock, self.server.batcher
        self.server.telemetry.ended.add(self.told.append)
        for model in self.server.models.values():
            model.telemetry.splits_target(SHARES)

    # The transport

    async def arrive(self, model, rows, patience_ms, claim_ns, fault, turns, key=0, kind="next"):
        deadline_ns = None if patience_ms is None else self.clock() + patience_ms * MILLISECOND
        sequence = None
        if model == "steps":
            rows = 1
            sequence = SequenceParameters(
                key + 1, kind in {"start", "both"}, kind in {"end", "both"}
            )
        number = len(self.callers)
        caller = Caller(number, model, rows, claim_ns, deadline_ns, sequence, fault, turns)
        self.callers.append(caller)
        self.open_callers.append(caller)
        caller.exchange = self.batcher.begin(self.clock())
        caller.exchange.upstream_ns = claim_ns
        caller.task = asyncio.create_task(self._call(caller))
        # Not in a `finally` of the task: one that is cancelled before its first step runs none.
        caller.task.add_done_callback(partial(self._ends, caller))

    async def _call(self, caller):
        try:
            await self._answered(caller)
        except BaseException as error:
            caller.error = error
            raise

    async def _answered(self, caller):
        exchange = caller.exchange
        if caller.fault == "unread":
            came = Arrival(exchange.arrival_ns, id=str(caller.number))
            self.batcher.refused(exchange, "", "", came, AdmissionReason.INVALID)
            raise InvalidRequest("not a message")
        shape = (caller.rows, 3 if caller.fault == "wrong" else 2)
        request = InferenceRequest(
            "who" if caller.fault == "unknown" else caller.model,
            {"X": Tensor("FP32", np.full(shape, caller.number, np.float32))},
            exchange.arrival_ns,
            id=str(caller.number),
            deadline_ns=caller.deadline_ns,
            sequence=caller.sequence,
        )
        await self.batcher.answer(request, partial(self._make, caller), exchange)
        caller.sending = True
        for _ in range(caller.turns):
            await asyncio.sleep(0)
        if isinstance(caller.fault, AnswerLoss):
            caller.loss = caller.fault

    async def _make(self, caller, reply):
        for _ in range(caller.turns):
            await asyncio.sleep(0)
        assert (reply.outputs["Y"].array if not reply.pieces else reply.pieces[0]["Y"].array).size
        if isinstance(caller.fault, type):
            caller.unmade = True
            raise caller.fault("of no use")
        return reply

    def _ends(self, caller, _):
        self.open_callers.remove(caller)
        if caller.task.cancelled():
            caller.loss = AnswerLoss.LEFT
        caller.exchange.ended(caller.loss)
        caller.exchange.ended(AnswerLoss.INTERNAL)  # a second one changes nothing

    async def leave(self, which):
        for number in which if self.open_callers else ():
            self._leave(self.open_callers[number % len(self.open_callers)])

    def _leave(self, caller):
        caller.left = True
        caller.task.cancel()

    # Time and executors

    async def passing(self, ms, edge):
        """Let time pass. The transport notices a missed deadline before the timer does, after it, or not."""
        self.clock.advance(ms * MILLISECOND)
        if edge == "first":
            self._miss()
        self.server.wakeup.fire(self.clock())
        if edge == "last":
            self._miss()
        self.server.loop.fire()

    def _miss(self):
        now_ns = self.clock()
        for caller in self.open_callers:
            if caller.deadline_ns is not None and caller.deadline_ns <= now_ns:
                self._leave(caller)

    async def stall(self):
        await self.server.stall()

    async def finish(self, which, how):
        self.server.finish(which, how)

    async def close(self):
        """Let the executors answer, and all that is open end."""
        server = self.server
        await server.settle()
        for _ in range(4 * len(self.callers) + 1):
            if not self.open_callers:
                break
            for run in range(len(server.running)):
                server.finish(run, "answer")
            await server.settle()
            await self.passing(3, "never")
            await server.settle()
        await self.batcher.idle()
        self.check()
        await server.close()

    # What must hold

    def check(self):
        assert self.server.problems == []
        validate(self.server.scheduler)
        # One that was cancelled before it was read is no request.
        read = {caller.number for caller in self.callers if caller.error or not caller.left}
        told = Counter(int(ended.id) for ended in self.told)
        assert set(told.values()) <= {1}, "told twice"
        assert set(told) == read | {c.number for c in self.callers if c.sending}
        runs = {caller.number: [] for caller in self.callers}
        for run in self.server.runs:
            for number in np.unique(run.rows[:, 0]):
                runs[int(number)].append(run)
        for ended in self.told:
            self.check_execution(runs[int(ended.id)], ended)
            assert sum(ended.stages_ns) == ended.duration_ns, ended
            assert min(ended.stages_ns) >= 0, ended
            assert ended.stages_ns[0] > 0, ended
            self.check_end(self.callers[int(ended.id)], ended)
        for name, model in self.server.models.items():
            self.check_counts(model.telemetry, [each for each in self.told if each.model == name])
        unread = Counter(each.reason for each in self.told if not each.model)
        assert +Counter(self.server.telemetry.requests._unread) == unread

    def check_execution(self, runs, ended):
        """A request was in the stage `execute` from its first execution to its last one, or to its end."""
        stamps = ended.stamps
        _, _, _, executing_ns, scatter_ns, _ = ended.stages_ns
        if runs:
            # Of one that fails while other parts of it run, only those are known that have ended.
            first = min if scatter_ns else max
            assert (
                stamps.dispatched_ns
                <= stamps.execute_start_ns
                < first(run.begin_ns for run in runs)
            )
            assert executing_ns > 0
            assert len(ended.batches) >= len(runs)
        elif not ended.batches:
            assert executing_ns == scatter_ns == 0
        if scatter_ns:
            assert max(run.end_ns for run in runs) < stamps.execute_end_ns

    def check_end(self, caller, ended):
        """What counts is what the caller saw."""
        end = (ended.outcome, ended.reason)
        if caller.loss is not None and caller.sending:
            assert end in {(outcome, reason) for outcome, reason in LOST[caller.loss]}, ended
        elif caller.error is None:
            assert end == (Outcome.OK, Reason.NONE), ended
            # One that is dispatched in the step in which it came was not in the queue.
            assert 0 not in ended.stages_ns[:1] + ended.stages_ns[2:], ended
        elif caller.left and isinstance(caller.error, asyncio.CancelledError):
            assert ended.outcome is not Outcome.OK
        elif caller.unmade:
            assert end == UNMADE[caller.fault], ended
        else:
            assert isinstance(caller.error, RequestError), caller.error
            assert ended.outcome is not Outcome.OK
        if ended.rows:
            assert ended.rows == caller.rows
            assert ended.due_ns == ended.stamps.arrival_ns + TARGET_NS
            assert ended.upstream_ns == (None if caller.claim_ns == IMPOSSIBLE else caller.claim_ns)
        if ended.outcome is Outcome.OK:
            assert ended.batches
            assert len(set(ended.batches)) == len(ended.batches)

    def check_counts(self, telemetry, ended):
        """Metrics and statistics of a model say the same as the records of its requests."""
        ends = Counter((each.outcome, each.reason) for each in ended)
        so_far, late = telemetry.ended_so_far()
        assert +Counter(so_far) == ends
        assert +Counter(telemetry.requests) == ends
        durations = Counter()
        for each in ended:
            durations[each.outcome] += each.duration_ns
        for outcome, histogram in telemetry.durations.items():
            assert histogram.total == durations[outcome]
            assert histogram.cumulative()[-1] == sum(each.outcome is outcome for each in ended)
        for place, histogram in enumerate(telemetry.stages.values()):
            assert histogram.total == sum(each.stages_ns[place] for each in ended)
        answers = [each for each in ended if each.outcome is Outcome.OK]
        missed = sum(each.stamps.replied_ns > each.due_ns for each in answers)
        assert telemetry.target_missed == late == missed
        hops = Counter(each.late_hop for each in answers if each.late_hop is not None)
        assert +Counter(telemetry.budget.late) == hops
        said = [each for each in ended if each.rows]
        impossible = sum(self.callers[int(each.id)].claim_ns == IMPOSSIBLE for each in said)
        assert telemetry.budget.ignored == impossible
        found = telemetry.statistics()
        stages = [sum(each.stages_ns[place] for each in answers) for place in range(6)]
        assert (found.success.count, found.success.ns) == (len(answers), sum(stages))
        assert found.inference_count == sum(each.rows for each in answers)
        assert [
            found.queue.ns,
            found.compute_input.ns,
            found.compute_infer.ns,
            found.compute_output.ns,
        ] == stages[1:5]
        assert found.fail.count == len(ended) - len(answers)
        assert found.fail.ns == sum(durations.values()) - durations[Outcome.OK]


MODELS = tuple(SETTINGS)
ROWS = (1, 1, 2, 3, 4, 7, 14)
PATIENCE = (None, None, None, 0, 3, 8, 40)
CLAIMS = (None, None, 0, 5 * MILLISECOND, IMPOSSIBLE)
FAULTS = (*[None] * 12, "unread", "unknown", "wrong", *AnswerLoss, *UNMADE)
KINDS = ("next", "next", "next", "start", "start", "end", "both")
EDGES = ("first", "last", "never")
HOW = (
    *["answer"] * 6,
    "raise",
    "fail a row",
    "overloaded",
    "unavailable",
    "device",
    "memory",
    "unknown",
    "too little",
)

which = st.integers(0, 7)
arrivals = st.tuples(
    st.just("arrive"),
    st.sampled_from(MODELS),
    st.sampled_from(ROWS),
    st.sampled_from(PATIENCE),
    st.sampled_from(CLAIMS),
    st.sampled_from(FAULTS),
    st.integers(0, 3),
    st.integers(0, 2),
    st.sampled_from(KINDS),
)
acts = st.one_of(
    arrivals,
    arrivals,
    st.tuples(st.just("leave"), st.lists(which, min_size=1, max_size=3)),
    st.tuples(st.just("passing"), st.integers(0, 5), st.sampled_from(EDGES)),
    st.tuples(st.just("finish"), which, st.sampled_from(HOW)),
    st.tuples(st.just("stall")),
)
stories = st.lists(st.tuples(acts, st.integers(0, 4)), min_size=5, max_size=60)


def long_story(seed, length):
    """A story in which what is rare happens, too: requests come in bursts, some of which fill a queue."""
    draw = random.Random(seed)
    pick = draw.choice

    def arrival():
        key, kind = draw.randrange(3), pick(KINDS)
        fields = (pick(MODELS), pick(ROWS), pick(PATIENCE), pick(CLAIMS), pick(FAULTS))
        return ("arrive", *fields, draw.randrange(4), key, kind)

    while length:
        length -= 1
        match draw.choices(("burst", "leave", "passing", "finish", "stall"), (10, 6, 12, 30, 1))[0]:
            case "burst":
                for _ in range(pick((1, 2, 4, 30))):
                    yield arrival(), 0
            case "leave":
                yield ("leave", [draw.randrange(8)]), draw.randrange(5)
            case "passing":
                yield ("passing", draw.randrange(6), pick(EDGES)), draw.randrange(5)
            case "finish":
                yield ("finish", draw.randrange(8), pick(HOW)), draw.randrange(5)
            case "stall":
                yield ("stall",), 0


async def play(world, story):
    await world.open()
    for (act, *details), turns in story:
        await getattr(world, act)(*details)
        for _ in range(turns):
            await asyncio.sleep(0)
    await world.close()
    for caller in world.callers:
        with suppress(asyncio.CancelledError):
            caller.task.exception()


@pytest.mark.slow
@settings(max_examples=300)
@given(story=stories)
def test_every_request_ends_once_and_its_stages_add_up(server_by_hand, story):
    asyncio.run(play(World(server_by_hand(SETTINGS, SEQUENCES)), story))


@pytest.mark.slow
def test_thousands_of_requests_of_every_outcome(server_by_hand):
    world = World(server_by_hand(SETTINGS, SEQUENCES))
    asyncio.run(play(world, long_story(1, 6000)))
    assert len(world.told) > 5000
    ends = {(each.outcome, each.reason) for each in world.told}
    wanted = {
        *((Outcome.REJECTED, reason) for reason in ("invalid", "sequence", "sequence_limit")),
        (Outcome.REJECTED, UnreadReason.UNKNOWN_MODEL),
        *set().union(*LOST.values()),
        *UNMADE.values(),
        (Outcome.OK, ""),
        (Outcome.CANCELLED, "caller_cancelled"),
        (Outcome.EXPIRED, "queue_timeout"),
        (Outcome.REJECTED, "queue_requests"),
        (Outcome.REJECTED, "predicted_late"),
        (Outcome.REJECTED, "backend_overloaded"),
        (Outcome.FAILED, "backend_unavailable"),
        (Outcome.FAILED, "instance_down"),
        (Outcome.FAILED, "unknown"),
        (Outcome.FAILED, "memory"),
        (Outcome.FAILED, "device"),
    }
    assert wanted <= ends, wanted - ends
    answers = [each for each in world.told if each.outcome is Outcome.OK]
    assert any(each.rows > MAX_ROWS for each in answers), "none was split"
    repeated = [each for each in answers if each.rows == 1 and len(each.batches) > 1]
    assert repeated, "none was bisected, or ran again after its instance was lost"
    assert {each.late_hop for each in answers} >= {Hop.UPSTREAM, Hop.QUEUE, Hop.EXECUTE, None}
