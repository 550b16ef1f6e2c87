"""A server without its transport whose clock, timers and executors are manual."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from batcher.clock import MILLISECOND, SECOND
from batcher.core.scheduler import Scheduler
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
from batcher.runtime.runner import Runner
from batcher.service import Batcher
from batcher.telemetry import Telemetry
from batcher.testing import ManualClock

EXECUTE_TIMEOUT_NS = 30 * MILLISECOND
ENOUGH_TURNS = 15
METADATA = ModelMetadata(
    "by hand", (TensorSpec("X", "FP32", (-1, 2)),), (TensorSpec("Y", "FP32", (-1, 2)),)
)


@pytest.fixture(scope="session")
def server_by_hand():
    """The class of such servers."""
    return ServerByHand


class Ticking(ManualClock):
    """A clock that moves on whenever it is read."""

    def __call__(self):
        return self.advance(11)


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
        now_ns = self._clock()
        for timer in [timer for timer in self._timers if timer[0] <= now_ns]:
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
    """A batch that an executor was called with, from when until when; 0 while it runs."""

    rows: np.ndarray
    result: asyncio.Future
    begin_ns: int
    end_ns: int = 0


class ServerByHand:
    """`models` are settings by name; those of them in `sequences` have that section. `open` loads them."""

    def __init__(self, models, sequences):
        self._settings, self._sequences = models, sequences
        self.clock = Ticking()
        self.problems = []
        self.runs = []
        """Every batch that an executor was called with."""
        self.running = []
        self.models = {}

    async def open(self):
        asyncio.get_running_loop().set_exception_handler(lambda _, c: self.problems.append(c))
        self.loop = Loop(self.clock)
        self.scheduler = Scheduler()
        self.runner = Runner(self.scheduler, self.loop, self.clock, self._wakeup)
        self.telemetry = Telemetry(CollectorRegistry(), clock=self.clock)
        for name, of_model in self._settings.items():
            self.models[name] = ServedModel(
                name,
                "1",
                "by hand",
                of_model,
                [self._plan(name, of_model.max_batch_size)],
                ProcessContext(self.runner, self.loop, self.clock),
                self.telemetry.model(f"{name}/1", name, "1"),
                sequence=self._sequences.get(name),
            )
            await self.models[name].load()
        registry = ModelRegistry(list(self.models.values()))
        self.batcher = Batcher(registry, self.runner, self.telemetry, self.clock)

    def _wakeup(self, callback):
        self.wakeup = Wakeup(callback)
        return self.wakeup

    def _plan(self, name, max_rows):
        return InstancePlan(
            name=f"{name}#0",
            key=f"{name}/1",
            context=LoadContext(name, "1", 0, name, max_rows, {}),
            make_executor=lambda: ByHand(self),
            max_in_flight=1 if name in self._sequences else 2,
            execute_timeout_ns=EXECUTE_TIMEOUT_NS,
            warmup=WarmupPlan((), 1),
            restart=RestartPlan(0, 0, None),  # at once, however often: here time passes by hand
        )

    async def close(self):
        for model in self.models.values():
            await model.close(1.0)
        self.runner.close()

    async def settle(self):
        for _ in range(ENOUGH_TURNS):
            await asyncio.sleep(0)

    async def stall(self):
        """Let the executors hang: their batches are lost, and they are replaced."""
        await self.settle()
        self.clock.advance(EXECUTE_TIMEOUT_NS)
        self.wakeup.fire(self.clock())
        self.loop.fire()
        await self.settle()

    def finish(self, which, how):
        """End one of the running batches: with a cause, by `raise`, with `too little`, `fail a row`, `answer`."""
        unfinished = [run for run in self.running if not run.result.done()]
        if not unfinished:
            return
        run = unfinished[which % len(unfinished)]
        rows, result = run.rows, run.result
        if how in {"overloaded", "unavailable", "device", "memory", "unknown"}:
            result.set_exception(ExecutionError("no luck", cause=how))
        elif how == "raise":
            result.set_exception(RuntimeError("no luck"))
        elif how == "too little":
            result.set_result(BatchResult({"Y": rows[:-1]}))
        else:
            row_errors = {which % len(rows): "no luck"} if how == "fail a row" else {}
            result.set_result(BatchResult({"Y": rows}, row_errors))


class ByHand:
    """An executor whose batches end when the example says so."""

    capabilities = Capabilities(max_in_flight=2)

    def __init__(self, server):
        self._server = server

    async def load(self, context):
        return METADATA

    async def execute(self, batch):
        server = self._server
        result = asyncio.get_running_loop().create_future()
        run = Run(batch.inputs["X"].copy(), result, server.clock())
        server.runs.append(run)
        server.running.append(run)
        try:
            return await result
        finally:
            run.end_ns = server.clock()
            server.running.remove(run)

    async def close(self):
        pass
