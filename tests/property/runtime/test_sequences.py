"""Steps of sequences, whatever happens to them: each answer is what the sequence alone would have got.

Requests are cancelled, expire and fail, batches fail as a whole and are bisected, and instances hang and are
replaced. Everything from `Batcher.infer` down to the instances is real and runs on an event loop; clock, timers
and executor are manual. The model is integer arithmetic, so that one lost or doubled step changes all that follow.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from batcher.clock import MILLISECOND, SECOND
from batcher.config import SequenceConfig
from batcher.core.scheduler import Scheduler
from batcher.core.settings import FixedWindow, ModelSettings
from batcher.errors import RequestError, SequenceError
from batcher.executor import BatchResult, Capabilities, LoadContext, ModelMetadata, TensorSpec
from batcher.runtime.instances.plan import InstancePlan, ProcessContext
from batcher.runtime.instances.replacement import RestartPlan
from batcher.runtime.instances.sample import WarmupPlan
from batcher.runtime.models.model import ServedModel
from batcher.runtime.models.registry import ModelRegistry
from batcher.runtime.request import InferenceRequest, SequenceParameters
from batcher.runtime.runner import Runner
from batcher.service import Batcher
from batcher.telemetry import Telemetry
from batcher.telemetry.sequences import SequenceEnd
from batcher.tensors import Tensor
from batcher.testing import ManualClock
from batcher.testing.invariants import validate

MAX_ROWS = 4
SLOTS = 64
EXECUTE_TIMEOUT_NS = 30 * MILLISECOND
ENOUGH_TURNS = 15
STATE = SequenceConfig(state=({"input": "h_in", "output": "h_out", "initial": [7, 0]},))
SLOT = SequenceConfig(strategy="slot", max_sequences=SLOTS)
INITIAL = (7, 0)


def tensor(name, size):
    return TensorSpec(name, "UINT32", (-1, size))


METADATA = {
    "state": ModelMetadata(
        "by hand", (tensor("x", 1), tensor("h_in", 2)), (tensor("y", 1), tensor("h_out", 2))
    ),
    "slot": ModelMetadata("by hand", (tensor("x", 1),), (tensor("y", 1),)),
}


def after(state, x):
    """A step of the model: the next state, of which the answer is the sum."""
    return (state[0] * 1664525 + x + 1013904223) % 2**32, state[1] + 1


def answer_of(state):
    return sum(state) % 2**32


class Loop:
    """The running loop, with timers that follow a manual clock."""

    def __init__(self, clock):
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._timers = []

    def __getattr__(self, name):
        return getattr(self._loop, name)

    def call_later(self, delay_s, callback, *args):
        timer = [self._clock() + round(delay_s * SECOND), partial(callback, *args)]
        self._timers.append(timer)
        return Handle(self._timers, timer)

    def fire(self):
        for timer in [timer for timer in self._timers if timer[0] <= self._clock()]:
            if timer in self._timers:
                self._timers.remove(timer)
                timer[1]()


class Handle:
    def __init__(self, timers, timer):
        self._timers, self._timer = timers, timer

    def cancel(self):
        if self._timer in self._timers:
            self._timers.remove(self._timer)


class Wakeup:
    """The timer of the runner."""

    def __init__(self, callback):
        self.callback = callback
        self.at_ns = None

    def arm(self, at_ns):
        self.at_ns = at_ns

    def close(self):
        self.at_ns = None

    def fire(self, now_ns):
        if self.at_ns is not None and self.at_ns <= now_ns:
            self.at_ns = None
            self.callback()


@dataclass(eq=False)
class Caller:
    """One step; `behind` says whether another one of its sequence waited behind it when its caller left."""

    key: int
    x: int
    start: bool
    end: bool
    deadline_ns: int | None
    task: asyncio.Task | None = None
    left: bool = False
    behind: bool = False

    @property
    def answer(self):
        if not self.task.done() or self.task.cancelled() or self.task.exception() is not None:
            return None
        return int(self.task.result().outputs["y"].array[0, 0])

    @property
    def refused(self):
        """Whether its sequence could not take it."""
        task = self.task
        return not task.cancelled() and isinstance(task.exception(), SequenceError)


@dataclass(eq=False)
class World:
    """A server without its transport, its callers, and by sequence the steps that were sent, in order."""

    strategy: str
    instances: int
    delay_ns: int
    clock: ManualClock = field(default_factory=ManualClock)
    sent: dict = field(default_factory=dict)
    callers: list = field(default_factory=list)
    running: list = field(default_factory=list)
    problems: list = field(default_factory=list)
    slots: dict = field(default_factory=dict)
    executing: set = field(default_factory=set)  # what slots may have seen, by `x`

    async def open(self):
        asyncio.get_running_loop().set_exception_handler(lambda _, c: self.problems.append(c))
        self.loop = Loop(self.clock)
        self.scheduler = Scheduler()
        self.runner = Runner(self.scheduler, self.loop, self.clock, self._wakeup)
        telemetry = Telemetry(CollectorRegistry(), clock=self.clock)
        self.model = ServedModel(
            "m",
            "1",
            "by hand",
            ModelSettings(MAX_ROWS, FixedWindow(self.delay_ns)),
            [self._plan(number) for number in range(self.instances)],
            ProcessContext(self.runner, self.loop, self.clock),
            telemetry.model("m/1", "m", "1"),
            sequence=STATE if self.strategy == "state" else SLOT,
        )
        await self.model.load()
        self.batcher = Batcher(ModelRegistry([self.model]), self.runner, telemetry, self.clock)

    def _wakeup(self, callback):
        self.wakeup = Wakeup(callback)
        return self.wakeup

    def _plan(self, number):
        return InstancePlan(
            name=f"m#{number}",
            key="m/1",
            context=LoadContext("m", "1", number, "cpu", MAX_ROWS, {}),
            make_executor=lambda: ByHand(self),
            max_in_flight=1,
            execute_timeout_ns=EXECUTE_TIMEOUT_NS,
            warmup=WarmupPlan((), 1),
            restart=RestartPlan(0, 0, None),  # at once, however often: here time passes by hand
        )

    # Actions

    async def step(self, key, kind, patience_ms):
        steps = self.sent.setdefault(key, [])
        start = kind in {"start", "both"} or not any(caller.start for caller in steps)
        deadline_ns = None if patience_ms is None else self.clock() + patience_ms * MILLISECOND
        end = kind in {"end", "both"}
        caller = Caller(key, 1 + len(self.callers), start, end, deadline_ns)
        self.callers.append(caller)
        caller.task = asyncio.create_task(self._call(caller))

    async def _call(self, caller):
        self.sent[caller.key].append(caller)
        request = InferenceRequest(
            "m",
            {"x": Tensor("UINT32", np.array([[caller.x]], np.uint32))},
            self.clock(),
            deadline_ns=caller.deadline_ns,
            sequence=SequenceParameters(caller.key + 1, caller.start, caller.end),
        )
        return await self.batcher.infer(request)

    async def leave(self, which):
        for caller in [
            self.open_callers()[n % len(self.open_callers())] for n in which if self.open_callers()
        ]:
            self._leave(caller)

    def _leave(self, caller):
        caller.left = True
        steps = self.sent[caller.key]
        if caller in steps:
            later = steps[steps.index(caller) + 1 :]
            caller.behind = any(not each.task.done() for each in later)
        caller.task.cancel()

    async def passing(self, ms, edge):
        self.clock.advance(ms * MILLISECOND)
        if edge == "first":
            self._miss()
        self.wakeup.fire(self.clock())
        if edge == "last":
            self._miss()
        self.loop.fire()

    def _miss(self):
        for caller in self.open_callers():
            if caller.deadline_ns is not None and caller.deadline_ns <= self.clock():
                self._leave(caller)

    async def stall(self):
        """Let the executors hang: their batches are lost, and they are replaced."""
        await self.settle()
        await self.passing(EXECUTE_TIMEOUT_NS // MILLISECOND, "first")
        await self.settle()

    async def finish(self, which, how):
        unfinished = [run for run in self.running if not run[1].done()]
        if unfinished:
            batch, end = unfinished[which % len(unfinished)]
            result = self.executed(batch)
            if how == "fail":
                end.set_exception(RuntimeError("no luck"))
            elif how == "fail a row":
                end.set_result(BatchResult(result, {which % batch.rows: "no luck"}))
            else:
                end.set_result(BatchResult(result))

    def executed(self, batch):
        """What the model makes of a batch; it has moved the slots on even if it fails after that."""
        xs = batch.inputs["x"][:, 0].tolist()
        if self.strategy == "slot":
            assert len(batch.sequences) == batch.rows
            used = [row.slot for row in batch.sequences]
            assert len(set(used)) == len(used)
            assert set(used) <= set(range(SLOTS))
            before = [INITIAL if r.start else self.slots[r.slot] for r in batch.sequences]
        else:
            before = [tuple(state) for state in batch.inputs["h_in"].tolist()]
        states = [after(state, x) for state, x in zip(before, xs, strict=True)]
        y = np.array([[answer_of(state)] for state in states], np.uint32)
        if self.strategy == "slot":
            self.slots |= dict(zip(used, states, strict=True))
            return {"y": y}
        return {"y": y, "h_out": np.array(states, np.uint32)}

    # Invariants

    def open_callers(self):
        return [caller for caller in self.callers if not caller.task.done()]

    async def settle(self):
        for _ in range(ENOUGH_TURNS):
            await asyncio.sleep(0)

    def check(self):
        assert self.problems == []
        assert self.runner.unanswered == len(self.open_callers())
        validate(self.scheduler)

    async def close(self):
        """Let the executors answer; every step has ended, and each answer is right."""
        await self.settle()
        for _ in range(4 * len(self.callers) + 1):
            for run in range(len(self.running)):
                await self.finish(run, "answer")
            await self.settle()
            await self.passing(self.delay_ns // MILLISECOND, "never")
            await self.settle()
            self.check()
        assert self.open_callers() == []
        for steps in self.sent.values():
            self.check_sequence(steps)
        self.check_counts()
        await self.model.close(1.0)
        assert self.runner.sequences._kept == {}
        assert self.runner.sequences._found == {}
        self.runner.close()

    def check_sequence(self, steps):
        """Each answer is that of the sequence alone, without the steps that were not answered."""
        states, lost = None, False
        for caller in steps:
            if caller.start:
                assert not caller.refused
                states, lost, ending = {INITIAL}, False, False
            answer = caller.answer
            if answer is not None:
                assert lost is not True, "a step of a lost sequence was answered"
                lost = False
                found = {
                    state for each in states if answer_of(state := after(each, caller.x)) == answer
                }
                assert found, f"step {caller.x} got a wrong answer"
                states = found
                ending = ending or caller.end
            elif caller.refused:
                assert lost is not False or ending, (
                    f"step {caller.x} was refused: {caller.task.exception()}"
                )
            else:
                assert caller.left or isinstance(caller.task.exception(), RequestError)
                if caller.start or caller.x in self.executing:
                    lost = True
                elif self.strategy == "slot" and caller.left and not lost:
                    lost = None  # perhaps: it may have left just before the executor was called
                ending = ending or caller.end
                if caller.left and caller.behind:
                    # The step behind it may have begun just before its caller left.
                    states |= {after(each, caller.x) for each in states}

    def check_counts(self):
        counts = self.model.telemetry.sequences
        assert counts.started == counts.open + sum(counts.ended.values())
        assert counts.state_bytes == counts.open * (8 if self.strategy == "state" else 0)
        assert counts.ended[SequenceEnd.EXPIRED] == 0
        assert self.runner._steps == 0


class ByHand:
    """An executor whose batches end when the example says so."""

    capabilities = Capabilities()

    def __init__(self, world):
        self._world = world

    async def load(self, context):
        return METADATA[self._world.strategy]

    async def execute(self, batch):
        if self._world.strategy == "slot":
            self._world.executing |= set(batch.inputs["x"][:, 0].tolist())
        run = (batch, asyncio.get_running_loop().create_future())
        self._world.running.append(run)
        try:
            return await run[1]
        finally:
            self._world.running.remove(run)

    async def close(self):
        pass


which = st.integers(0, 7)
kinds = st.sampled_from(("next", "next", "next", "next", "start", "end", "both"))
acts = st.one_of(
    st.tuples(st.just("step"), st.integers(0, 3), kinds, st.none()),
    st.tuples(st.just("step"), st.integers(0, 3), kinds, st.none() | st.integers(0, 8)),
    st.tuples(st.just("leave"), st.lists(which, min_size=1, max_size=2)),
    st.tuples(st.just("passing"), st.integers(0, 5), st.sampled_from(("first", "last", "never"))),
    st.tuples(
        st.just("finish"),
        which,
        st.sampled_from(("answer", "answer", "answer", "fail", "fail a row")),
    ),
    st.tuples(st.just("stall")),
)
stories = st.lists(st.tuples(acts, st.integers(0, 4)), min_size=5, max_size=40)


async def play(world, story):
    await world.open()
    for (act, *details), turns in story:
        await getattr(world, act)(*details)
        for _ in range(turns):
            await asyncio.sleep(0)
        if turns == 4:
            await world.settle()
            world.check()
    await world.close()


@pytest.mark.slow
@settings(max_examples=300)
@given(st.integers(1, 2), st.sampled_from((0, 3 * MILLISECOND)), stories)
def test_state_that_is_kept_here(instances, delay_ns, story):
    asyncio.run(play(World("state", instances, delay_ns), story))


@pytest.mark.slow
@settings(max_examples=300)
@given(st.sampled_from((0, 3 * MILLISECOND)), stories)
def test_state_that_the_executor_keeps(delay_ns, story):
    asyncio.run(play(World("slot", 1, delay_ns), story))
