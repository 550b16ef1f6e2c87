"""A cancelled request never delays, fails or hangs another one.

Some requests are invalid, and batches fail as a whole and are bisected. Everything from
`Batcher.infer` down to the instances is real and runs on an event loop; clock, timers and executor
are manual. Each example is a list of actions with a number of loop turns after each, so that
requests are cancelled between any two steps.
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
from batcher.core.scheduler import Scheduler
from batcher.core.settings import FixedWindow, ModelSettings
from batcher.errors import (
    DeadlineExpired,
    ExecutionFailed,
    InputRefused,
    InstanceUnavailable,
    Overloaded,
)
from batcher.executor import (
    BatchResult,
    Capabilities,
    ExecutionError,
    LoadContext,
    ModelMetadata,
    TensorSpec,
)
from batcher.runtime.instances.plan import InstancePlan, ProcessContext
from batcher.runtime.instances.replacement import RestartPlan
from batcher.runtime.instances.sample import WarmupPlan
from batcher.runtime.models.model import ServedModel
from batcher.runtime.models.registry import ModelRegistry
from batcher.runtime.request import InferenceRequest
from batcher.runtime.runner import Runner
from batcher.service import Batcher
from batcher.telemetry import Telemetry
from batcher.tensors import Tensor
from batcher.testing import ManualClock
from batcher.testing.invariants import validate

MAX_ROWS = 6
EXECUTE_TIMEOUT_NS = 30 * MILLISECOND
ENOUGH_TURNS = 15
METADATA = ModelMetadata(
    "by hand", (TensorSpec("X", "FP32", (-1, 2)),), (TensorSpec("Y", "FP32", (-1, 2)),)
)


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
class Run:
    """A batch that an executor is running."""

    rows: np.ndarray
    end: asyncio.Future

    @property
    def values(self):
        return set(self.rows[:, 0].tolist())


@dataclass(eq=False)
class Caller:
    value: float
    rows: int
    arrival_ns: int
    deadline_ns: int | None
    task: asyncio.Task | None = None
    entered: bool = False
    left: bool = False


@dataclass(eq=False)
class World:
    """A server without its transport, its callers, and what happened to their rows."""

    instances: int
    max_in_flight: int
    delay_ns: int
    clock: ManualClock = field(default_factory=ManualClock)
    callers: list = field(default_factory=list)
    running: list = field(default_factory=list)
    answered: set = field(default_factory=set)
    failed: set = field(default_factory=set)
    refused: set = field(default_factory=set)
    lost: set = field(default_factory=set)
    turned_away: dict = field(default_factory=lambda: {"overloaded": set(), "unavailable": set()})
    problems: list = field(default_factory=list)
    held: int = 0

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
            max_in_flight=self.max_in_flight,
            execute_timeout_ns=EXECUTE_TIMEOUT_NS,
            warmup=WarmupPlan((), 1),
            restart=RestartPlan(0, 0, None),  # at once, however often: here time passes by hand
        )

    # Actions of callers

    async def arrive(self, rows, patience_ms):
        now_ns = self.clock()
        deadline_ns = None if patience_ms is None else now_ns + patience_ms * MILLISECOND
        caller = Caller(float(len(self.callers) + 1), rows, now_ns, deadline_ns)
        self.callers.append(caller)
        caller.task = asyncio.create_task(self._call(caller))

    async def _call(self, caller):
        caller.entered = True
        numbers = np.arange(caller.rows)
        rows = np.stack([np.full(caller.rows, caller.value), numbers], axis=1).astype(np.float32)
        request = InferenceRequest(
            "m", {"X": Tensor("FP32", rows)}, caller.arrival_ns, deadline_ns=caller.deadline_ns
        )
        return await self.batcher.infer(request)

    async def leave(self, which):
        """Cancel several requests at once, as when a connection closes."""
        waiting = self.open_callers()
        for caller in [waiting[n % len(waiting)] for n in which] if waiting else ():
            caller.left = True
            caller.task.cancel()

    # Time and executors

    async def passing(self, ms, edge):
        """Let time pass. The transport notices a missed deadline before the timer does, after it, or not."""
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
                caller.left = True
                caller.task.cancel()

    async def stall(self):
        """Let the executors hang: their batches are lost, and they are replaced."""
        await self.settle()
        await self.passing(EXECUTE_TIMEOUT_NS // MILLISECOND, "first")
        # Batches may be lost that had just been dispatched, before their executor was called.
        self.lost |= {caller.value for caller in self.open_callers()}
        await self.settle()

    async def finish(self, which, how):
        unfinished = [run for run in self.running if not run.end.done()]
        if not unfinished:
            return
        run = unfinished[which % len(unfinished)]
        if how in {"overloaded", "unavailable"}:
            self.turned_away[how] |= run.values
            run.end.set_exception(ExecutionError("no luck", cause=how, retry_after_ns=7 * SECOND))
            return
        if how == "fail":
            self.failed |= run.values
            run.end.set_exception(RuntimeError("no luck"))
            return
        row_errors = {}
        if how == "fail a row":
            row_errors = {which % len(run.rows): "no luck"}
            self.refused.add(run.rows[which % len(run.rows), 0])
        # A request of a batch that failed is executed again, and may be answered then.
        self.answered |= run.values - self.refused
        self.held += 1
        run.end.set_result(BatchResult({"Y": 2 * run.rows}, row_errors, self._release))

    def _release(self):
        self.held -= 1

    def begins(self, run):
        """An executor gets a batch: some of its requests must still be waiting for it."""
        gone = {caller.value for caller in self.callers if caller.task.done()}
        if run.values <= gone:
            self.problems.append(f"executed for no one: {run.values}")
        self.running.append(run)

    # Invariants

    def open_callers(self):
        return [caller for caller in self.callers if not caller.task.done()]

    async def settle(self):
        for _ in range(ENOUGH_TURNS):
            await asyncio.sleep(0)

    def check(self):
        """Check, once the loop has settled, that each request is open or has ended for a reason."""
        assert self.problems == []
        assert self.held == 0, "a result was not released"
        unfinished = set().union(*(run.values for run in self.running))
        still_open = self.open_callers()
        assert not any(caller.left for caller in still_open), "a cancelled request is still open"
        waiting = [caller for caller in still_open if caller.value not in unfinished]
        (model,) = self.runner.observe().models
        # A request that is split may wait and run at once.
        assert model.waiting_requests >= len(waiting)
        assert model.executing_requests == len(still_open) - len(waiting)
        if all(caller.rows <= MAX_ROWS for caller in still_open):
            assert model.waiting_requests == len(waiting)
        assert self.runner.unanswered == len(still_open)
        open_values = {caller.value for caller in still_open}
        for run in self.running:
            assert run.values & open_values, "a batch runs that no request waits for"
        slots = self.instances * self.max_in_flight
        bisected = self.scheduler.models["m/1"].bisections.open
        # Of a failed batch one group runs at a time, and the others wait for it.
        if len(self.running) < slots and waiting and not bisected:
            # Of those that are split, some rows may be done.
            whole = [caller.rows for caller in waiting if caller.rows <= MAX_ROWS]
            assert sum(whole) < MAX_ROWS, "a full batch waits"
            oldest_ns = min(caller.arrival_ns for caller in waiting)
            assert self.clock() < oldest_ns + self.delay_ns, "a request waits for nothing"
        for caller in self.callers:
            if caller.task.done():
                self._check_end(caller)
        validate(self.scheduler)

    def _check_end(self, caller):
        if caller.task.cancelled():
            assert caller.left, "a request was cancelled that its caller had not"
            return
        match caller.task.exception():
            case None:
                rows = caller.task.result().outputs["Y"].array
                assert rows.shape == (caller.rows, 2)
                assert (rows[:, 0] == 2 * caller.value).all(), "rows of another request"
                assert rows[:, 1].tolist() == [2 * n for n in range(caller.rows)], "out of order"
                assert caller.value in self.answered - self.refused
            case ExecutionFailed() | InputRefused():
                assert caller.value in self.failed | self.refused
            case InstanceUnavailable() as error:
                assert caller.value in self.lost | self.turned_away["unavailable"]
                if caller.value not in self.lost:
                    assert error.retry_after_ns == 7 * SECOND
            case Overloaded() as error:
                assert caller.value in self.turned_away["overloaded"]
                assert error.retry_after_ns == 7 * SECOND
            case DeadlineExpired():
                assert caller.deadline_ns is not None
                assert caller.deadline_ns <= self.clock()
            case error:
                raise AssertionError(f"ended with {error!r}")

    async def close(self):
        """Let the executors answer: every request is answered, once."""
        await self.settle()
        for _ in range(4 * len(self.callers) + 1):
            for run in range(len(self.running)):
                await self.finish(run, "answer")
            await self.settle()
            await self.passing(self.delay_ns // MILLISECOND, "never")
            await self.settle()
            self.check()
        assert self.open_callers() == []
        assert self.runner._running == {}
        counts = self.model.telemetry.requests
        assert sum(counts.values()) == sum(caller.entered for caller in self.callers)
        await self.model.close(1.0)
        self.runner.close()


class ByHand:
    """An executor whose batches end when the example says so."""

    capabilities = Capabilities(max_in_flight=2)

    def __init__(self, world):
        self._world = world

    async def load(self, context):
        return METADATA

    async def execute(self, batch):
        run = Run(batch.inputs["X"].copy(), asyncio.get_running_loop().create_future())
        self._world.begins(run)
        try:
            return await run.end
        except asyncio.CancelledError:
            self._world.lost |= run.values
            if not run.end.cancelled() and run.end.exception() is None:
                return run.end.result()
            if int(run.rows[0, 0]) % 3 == 0:  # it had its answer just then
                self._world.held += 1
                return BatchResult({"Y": 2 * run.rows}, {}, self._world._release)
            raise
        finally:
            self._world.running.remove(run)

    async def close(self):
        pass


rows = st.integers(1, 4) | st.sampled_from((7, 14))
which = st.integers(0, 7)
acts = st.one_of(
    st.tuples(st.just("arrive"), rows, st.none()),
    st.tuples(st.just("arrive"), rows, st.none() | st.integers(0, 8)),
    st.tuples(st.just("leave"), st.lists(which, min_size=1, max_size=3)),
    st.tuples(st.just("passing"), st.integers(0, 5), st.sampled_from(("first", "last", "never"))),
    st.tuples(
        st.just("finish"),
        which,
        st.sampled_from(("answer", "fail", "fail a row", "overloaded", "unavailable")),
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
@settings(max_examples=400)
@given(st.integers(1, 2), st.integers(1, 2), st.sampled_from((0, 3 * MILLISECOND)), stories)
def test_cancelled_requests_do_not_affect_others(instances, max_in_flight, delay_ns, story):
    asyncio.run(play(World(instances, max_in_flight, delay_ns), story))
