"""Each call on the way of a step raises in turn, and nobody but the one concerned notices."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from batcher.clock import MILLISECOND
from batcher.core.commands import Outcome, PolicyFailed
from batcher.core.events import CancelCause, InstanceUp, ModelConfigured, RepliesTook
from batcher.core.scheduler import Scheduler
from batcher.core.settings import FixedWindow, ModelSettings
from batcher.errors import (
    ChangeFailed,
    DeadlineExpired,
    ExecutionFailed,
    InternalError,
    RequestError,
)
from batcher.executor import BatchResult, ExecutionError
from batcher.runtime import runner
from batcher.runtime.execution import results
from batcher.runtime.execution.execute import ExecutedBatch
from batcher.runtime.interface.layout import Layout
from batcher.runtime.interface.signature import RequestSummary
from batcher.runtime.request import InferenceReply, InferenceRequest
from batcher.runtime.runner import REARM_S, Runner
from batcher.tensors import Tensor

MODEL = "m/1"
SETTINGS = ModelSettings(2, FixedWindow(0))


class Boom(Exception):
    """What a test has a call raise."""


class Faults:
    """Which calls raise: by name, the first or a later one of each."""

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
    padding = None


class Port:
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


class Told(Scheduler):
    """A scheduler whose second step reports a failed policy, too."""

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
    """The clock, the loop, the timer and the instance of a runner, all by hand."""

    def __init__(self, faults):
        self.faults = faults
        self.now_ns = 0
        self.soon = []
        self.later = []
        self.armed = None
        self.running = {}
        self.released = {}
        self.policy_failures = []
        self.steps = []
        self.ports = {}
        self.pendings = {}
        self.broken = 0
        self.scheduler = Told(faults)
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

    # Acts

    def submit(self, name, rows, deadline_ms=None):
        deadline_ns = None if deadline_ms is None else deadline_ms * MILLISECOND
        tensor = Tensor("FP32", np.full((rows, 1), len(self.ports), np.float32))
        request = InferenceRequest("m", {"X": tensor}, self.now_ns, deadline_ns=deadline_ns)
        port = self.ports[name] = Port(self.faults)
        summary = RequestSummary(rows, 4 * rows, (), "")
        self.pendings[name] = self.runner.submit(request, Target(), summary, port)

    def turn(self):
        """What the loop has to do, and a timer that is due."""
        while self.soon or self.later:
            callbacks, self.soon, self.later = [*self.soon, *self.later], [], []
            for callback in callbacks:
                callback()
        if self.armed is not None and self.armed <= self.now_ns:
            self.armed = None
            self.runner.wake()

    def finish(self):
        """The oldest batch ends."""
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

    def story(self):
        """A batch of two; then a request in three pieces, and one that waits in vain."""
        self.submit("a", 1)
        self.submit("b", 1)
        self.turn()
        self.submit("in pieces", 5)
        self.submit("in vain", 1, deadline_ms=1)
        self.turn()
        self.now_ns = 2 * MILLISECOND
        self.finish_all()

    def outcomes(self):
        """What became of each, which is one thing alone."""
        for name, port in self.ports.items():
            assert len(port.ends) == 1, f"{name} ended {len(port.ends)} times"
        return {name: port.ends[0] for name, port in self.ports.items()}

    def check_rest(self):
        """Nothing is left behind, and the next request is answered."""
        assert self.runner.unanswered == 0
        assert set(self.released.values()) == {1}
        assert self.armed == self.scheduler.next_wakeup_ns()
        self.submit("afterwards", 1)
        self.finish_all()
        assert isinstance(self.ports["afterwards"].ends[0], InferenceReply)
        assert self.runner._running == {}
        self.scheduler.validate()


@pytest.fixture
def faults():
    return Faults()


@pytest.fixture
def world(faults, monkeypatch):
    for module, name in ((results, "scatter"), (results, "join"), (runner, "error_for")):
        monkeypatch.setattr(module, name, faults.wrap(name, getattr(module, name)))
    return World(faults)


def well(end):
    return isinstance(end, InferenceReply)


def test_without_faults(world):
    world.story()
    ends = world.outcomes()
    assert isinstance(ends.pop("in vain"), DeadlineExpired)
    assert all(well(end) for end in ends.values())
    assert ends["in pieces"].outputs["Y"].array.tolist() == [[2]] * 5
    assert len(world.policy_failures) == 1
    world.check_rest()


# Whom it concerns if the n-th call raises.
CONCERNED = [
    ("scatter", 1, {"a"}),
    ("scatter", 2, {"b"}),
    ("scatter", 3, {"in pieces"}),
    ("scatter", 4, {"in pieces"}),
    ("join", 1, {"in pieces"}),
    ("send", 1, {"a"}),
    ("send", 2, {"b"}),
    ("send", 3, {"in pieces"}),
    ("error_for", 1, {"in vain"}),
    ("fail", 1, {"in vain"}),
]


@pytest.mark.parametrize(("name", "nth", "concerned"), CONCERNED)
def test_one_request_fails_alone(world, faults, name, nth, concerned):
    faults.raises[name] = nth
    world.story()
    assert faults.calls[name] >= nth
    ends = world.outcomes()
    for request, end in ends.items():
        if request in concerned:
            assert isinstance(end, InternalError | ExecutionFailed), request
            assert "Boom: boom" in str(end)
            pending = world.pendings[request]
            assert pending.outcome is Outcome.FAILED
            assert pending.result is None
            assert pending.stamps.settled_ns
        else:
            assert well(end) or request == "in vain", request
    world.check_rest()


UNNOTICED = [
    *(("record", nth) for nth in range(1, 5)),
    *(("arm", nth) for nth in range(1, 5)),
    *(("release", nth) for nth in range(1, 5)),
    ("on_policy_failed", 1),
]


@pytest.mark.parametrize(("name", "nth"), UNNOTICED)
def test_nobody_notices(world, faults, name, nth):
    faults.raises[name] = nth
    world.story()
    assert faults.calls[name] >= nth
    ends = world.outcomes()
    assert isinstance(ends.pop("in vain"), DeadlineExpired)
    assert all(well(end) for end in ends.values())
    world.check_rest()


def test_a_recorder_that_raised_is_told_nothing_more(world, faults):
    faults.raises["record"] = 2
    world.story()
    assert faults.calls["record"] == 2
    assert len(world.steps) == 3  # two of them from before the story


@pytest.mark.parametrize("nth", range(1, 5))
def test_a_batch_that_cannot_be_handed_over_has_failed(world, faults, nth):
    """Its requests run again, like those of any batch that failed."""
    faults.raises["run"] = nth
    world.story()
    ends = world.outcomes()
    assert isinstance(ends.pop("in vain"), DeadlineExpired)
    # What is split is not run again.
    if nth > 1:
        failed = ends.pop("in pieces")
        assert well(failed) or (isinstance(failed, ExecutionFailed) and "Boom: boom" in str(failed))
    assert all(well(end) for end in ends.values())
    world.check_rest()


def test_what_the_caller_of_the_batch_raises_is_told_when_it_never_ends(world, faults):
    world.run = faults.always()
    world.submit("a", 1)
    world.finish_all()
    (end,) = world.ports["a"].ends
    assert isinstance(end, ExecutionFailed)
    assert str(end) == "m: executor failed: Boom: boom"


def test_the_executors_own_word_stays_as_it_is(world, faults):
    faults.raises["join"] = 1
    faults.error = ExecutionError("pieces of different widths")
    world.story()
    end = world.outcomes()["in pieces"]
    assert isinstance(end, InternalError)
    assert str(end) == "m: the answer could not be made: pieces of different widths"
    assert world.pendings["in pieces"].reason == "unknown"


@pytest.mark.parametrize("name", ["handle", "next_wakeup_ns"])
@pytest.mark.parametrize("nth", range(1, 6))
@pytest.mark.parametrize("on_broken", [0, 1])
def test_a_scheduler_that_raises_ends_everything(world, faults, caplog, name, nth, on_broken):
    faults.raises |= {name: nth, "on_broken": on_broken}
    with caplog.at_level(logging.CRITICAL):
        world.story()
    assert world.broken == 1
    assert "Boom: boom" in world.runner.broken
    assert "process is started again" in caplog.text
    failed = [end for end in world.outcomes().values() if isinstance(end, InternalError)]
    assert failed
    assert all("internal error of the scheduler: Boom: boom" in str(end) for end in failed)
    assert world.runner.unanswered == 0
    assert set(world.released.values()) <= {1}

    # It takes nothing more, and says so, for as long as it lives.
    world.submit("afterwards", 1)
    world.finish_all()
    end = world.outcomes()["afterwards"]
    assert isinstance(end, RequestError)
    with pytest.raises(ChangeFailed):
        world.runner.configure(ModelConfigured(MODEL, SETTINGS))
    assert world.broken == 1


async def test_idle_returns_when_the_scheduler_is_broken(world, faults):
    faults.raises["handle"] = 1
    world.submit("a", 1)
    world.turn()
    await world.runner.idle()


def test_the_end_of_a_batch_that_is_not_known_is_ignored(world):
    world.submit("a", 1)
    world.turn()
    _, done = world.running[min(world.running)]
    world.finish_all()
    released = []
    result = BatchResult({"Y": np.zeros((1, 1))}, release=lambda: released.append(1))
    done(ExecutedBatch(0, 0, 0, result))
    assert released == [1]
    world.outcomes()


@pytest.mark.parametrize("lost", ["nobody", "cancelled", "failed"])
def test_a_batch_tells_how_long_its_replies_took(world, faults, lost):
    """Also when one of its members gets none."""
    told = []
    world.runner.record_with(
        lambda _, events, __: told.extend(e for e in events if isinstance(e, RepliesTook))
    )
    world.submit("a", 1)
    world.submit("b", 1)
    world.turn()
    if lost == "cancelled":
        world.runner.cancel(world.pendings["a"], CancelCause.CANCELLED)
    if lost == "failed":
        faults.raises["scatter"] = 1
    world.now_ns = 5
    world.finish()
    for name in "ab":
        assert told == []
        if lost != "cancelled" or name == "b":
            world.runner.replied(world.pendings[name], 9)
            world.runner.replied(world.pendings[name], 9)  # counts once
    assert [(event.rows, event.took_ns) for event in told] == [(2, 4)]
