"""A runner whose every dependency can be made to raise at a chosen call."""

from __future__ import annotations

import numpy as np
import pytest

from batcher.clock import MILLISECOND
from batcher.core.commands import PolicyFailed
from batcher.core.events import InstanceUp, ModelConfigured
from batcher.core.scheduler import Scheduler
from batcher.core.settings import FixedWindow, ModelSettings
from batcher.executor import BatchResult
from batcher.runtime import replies
from batcher.runtime.execution import results
from batcher.runtime.execution.execute import ExecutedBatch
from batcher.runtime.interface.layout import Layout
from batcher.runtime.interface.signature import RequestSummary
from batcher.runtime.request import InferenceReply, InferenceRequest
from batcher.runtime.runner import REARM_S, Runner
from batcher.tensors import Tensor
from batcher.testing.invariants import validate

MODEL = "m/1"
SETTINGS = ModelSettings(2, FixedWindow(0))


class Boom(Exception):
    """Raised by a call that a test makes fail."""


class Faults:
    """Calls that raise: name -> which call of that name (1: the first)."""

    def __init__(self):
        self.raises = {}
        self.calls = {}
        self.error = Boom("boom")

    def call(self, name):
        count = self.calls[name] = self.calls.get(name, 0) + 1
        if self.raises.get(name) == count:
            raise self.error

    def always(self):
        """A call that raises every time."""

        def raises(*_):
            raise self.error

        return raises

    def wrap(self, name, function):
        def called(*args, **kwargs):
            self.call(name)
            return function(*args, **kwargs)

        return called


class Target:
    key = MODEL
    name = "m"
    version = "1"
    layout = Layout({"Y": "FP32"})
    settings = SETTINGS
    padding = None


class Sink:
    def __init__(self, faults):
        self.faults = faults
        self.ends = []

    def send(self, part, *, last):
        assert last
        self.faults.call("send")
        self.ends.append(part)

    def fail(self, error):
        self.faults.call("fail")
        self.ends.append(error)


class ReportingScheduler(Scheduler):
    """A scheduler whose second step also reports a failed policy."""

    def __init__(self, faults):
        super().__init__()
        self.faults = faults
        self.steps = 0

    def handle(self, events, now_ns):
        self.faults.call("handle")
        commands = super().handle(events, now_ns)
        self.steps += 1
        if self.steps == 2:
            commands.append(PolicyFailed(MODEL, "no luck"))
        return commands

    def next_wakeup_ns(self):
        self.faults.call("next_wakeup_ns")
        return super().next_wakeup_ns()


class World:
    """A runner with a manual clock, event loop, timer and instance."""

    def __init__(self, faults):
        self.faults = faults
        self.now_ns = 0
        self.soon = []
        self.later = []
        self.armed = None
        self.running = {}
        self.cancelled = []
        self.released = {}
        self.policy_failures = []
        self.steps = []
        self.sinks = {}
        self.pendings = {}
        self.broken = 0
        self.scheduler = ReportingScheduler(faults)
        self.runner = Runner(
            self.scheduler,
            self,
            lambda: self.now_ns,
            lambda wake: self,
            on_policy_failed=faults.wrap("on_policy_failed", self.policy_failures.append),
            on_broken=self._on_broken,
        )
        self.runner.record_with(faults.wrap("record", lambda *step: self.steps.append(step)))
        self.runner.feed(ModelConfigured(MODEL, SETTINGS))
        self.runner.instance_up(InstanceUp("i", 1, MODEL, "cpu"), self)
        self.scheduler.steps = 0
        self.policy_failures.clear()
        faults.calls.clear()

    def _on_broken(self):
        self.broken += 1
        self.faults.call("on_broken")

    # The loop, the timer, the instance

    def call_soon(self, callback):
        self.soon.append(callback)

    def call_later(self, delay_s, callback):
        assert delay_s == REARM_S
        self.later.append(callback)

    def arm(self, at_ns):
        self.faults.call("arm")
        self.armed = at_ns

    def close(self):
        self.armed = None

    def run(self, batch_id, slices, done):
        self.faults.call("run")
        self.running[batch_id] = (slices, done)

    def cancel(self, batch_id):
        self.faults.call("cancel")
        self.cancelled.append(batch_id)

    # Acts

    def submit(self, name, rows, deadline_ms=None):
        deadline_ns = None if deadline_ms is None else deadline_ms * MILLISECOND
        tensor = Tensor("FP32", np.full((rows, 1), len(self.sinks), np.float32))
        request = InferenceRequest("m", {"X": tensor}, self.now_ns, deadline_ns=deadline_ns)
        sink = self.sinks[name] = Sink(self.faults)
        summary = RequestSummary(rows, 4 * rows, (), "")
        self.pendings[name] = self.runner.submit(request, Target(), summary, sink)

    def turn(self):
        """Run the callbacks of the loop, and the timer if it is due."""
        while self.soon or self.later:
            callbacks, self.soon, self.later = [*self.soon, *self.later], [], []
            for callback in callbacks:
                callback()
        if self.armed is not None and self.armed <= self.now_ns:
            self.armed = None
            self.runner.wake()

    def finish(self):
        """End the oldest batch."""
        batch_id = min(self.running)
        slices, done = self.running.pop(batch_id)
        outputs = np.concatenate([s.request.inputs["X"].array[s.start : s.stop] for s in slices])
        self.released[batch_id] = 0

        def release():
            self.released[batch_id] += 1
            self.faults.call("release")

        result = BatchResult({"Y": outputs}, release=release)
        done(ExecutedBatch(self.now_ns, self.now_ns, self.now_ns, result))

    def finish_all(self):
        self.turn()
        while self.running:
            self.finish()
            self.turn()

    def play(self):
        """A batch of two; then a request that is split in three, and one that expires."""
        self.submit("a", 1)
        self.submit("b", 1)
        self.turn()
        self.submit("split", 5)
        self.submit("too late", 1, deadline_ms=1)
        self.turn()
        self.now_ns = 2 * MILLISECOND
        self.finish_all()

    def outcomes(self):
        """Name -> how the request ended. Each must have ended exactly once."""
        for name, sink in self.sinks.items():
            assert len(sink.ends) == 1, f"{name} ended {len(sink.ends)} times"
        return {name: sink.ends[0] for name, sink in self.sinks.items()}

    def check_idle(self):
        """Check that nothing is left behind and that the next request is answered."""
        assert self.runner.unanswered == 0
        assert set(self.released.values()) == {1}
        assert self.armed == self.scheduler.next_wakeup_ns()
        self.submit("afterwards", 1)
        self.finish_all()
        assert isinstance(self.sinks["afterwards"].ends[0], InferenceReply)
        assert self.runner._running == {}
        validate(self.scheduler)


@pytest.fixture
def faults():
    return Faults()


@pytest.fixture
def world(faults, monkeypatch):
    for module, name in ((results, "scatter"), (results, "join"), (replies, "error_for")):
        monkeypatch.setattr(module, name, faults.wrap(name, getattr(module, name)))
    return World(faults)
