"""Each call in a step raises in turn, and only the request that it was made for is affected."""

from __future__ import annotations

import math

import numpy as np
import pytest

from batcher.core.commands import Outcome
from batcher.core.events import CancelCause, InstanceDown, RepliesTook
from batcher.errors import (
    DeadlineExpired,
    ExecutionFailed,
    InternalError,
)
from batcher.executor import BatchResult, ExecutionError
from batcher.runtime.execution.execute import ExecutedBatch
from batcher.runtime.request import InferenceReply


def answered(end):
    return isinstance(end, InferenceReply)


def test_without_faults(world):
    world.play()
    ends = world.outcomes()
    assert isinstance(ends.pop("too late"), DeadlineExpired)
    assert all(answered(end) for end in ends.values())
    assert ends["split"].outputs["Y"].array.tolist() == [[2]] * 5
    assert len(world.policy_failures) == 1
    world.check_idle()


# (call, n): the request that fails if the n-th such call raises.
AFFECTED = [
    ("scatter", 1, {"a"}),
    ("scatter", 2, {"b"}),
    ("scatter", 3, {"split"}),
    ("scatter", 4, {"split"}),
    ("join", 1, {"split"}),
    ("send", 1, {"a"}),
    ("send", 2, {"b"}),
    ("send", 3, {"split"}),
    ("error_for", 1, {"too late"}),
    ("fail", 1, {"too late"}),
]


@pytest.mark.parametrize(("name", "nth", "affected"), AFFECTED)
def test_one_request_fails_alone(world, faults, name, nth, affected):
    faults.raises[name] = nth
    world.play()
    assert faults.calls[name] >= nth
    ends = world.outcomes()
    for request, end in ends.items():
        if request in affected:
            assert isinstance(end, InternalError | ExecutionFailed), request
            assert "Boom: boom" in str(end)
            pending = world.pendings[request]
            assert pending.outcome is Outcome.FAILED
            assert pending.result is None
            assert pending.stamps.settled_ns
        else:
            assert answered(end) or request == "too late", request
    world.check_idle()


HARMLESS = [
    *(("record", nth) for nth in range(1, 5)),
    *(("arm", nth) for nth in range(1, 5)),
    *(("release", nth) for nth in range(1, 5)),
    ("on_policy_failed", 1),
]


@pytest.mark.parametrize(("name", "nth"), HARMLESS)
def test_no_request_is_affected(world, faults, name, nth):
    faults.raises[name] = nth
    world.play()
    assert faults.calls[name] >= nth
    ends = world.outcomes()
    assert isinstance(ends.pop("too late"), DeadlineExpired)
    assert all(answered(end) for end in ends.values())
    world.check_idle()


@pytest.mark.parametrize("raises", [0, 1])
def test_a_batch_that_no_request_waits_for_is_cancelled(world, faults, raises):
    faults.raises["cancel"] = raises
    world.submit("a", 1)
    world.submit("b", 1)
    world.turn()
    world.runner.cancel(world.pendings["a"], CancelCause.CANCELLED)
    assert world.cancelled == []
    world.runner.cancel(world.pendings["b"], CancelCause.DEADLINE)
    assert world.cancelled == ([] if raises else [1])
    world.finish_all()
    world.check_idle()


def test_a_batch_is_cancelled_when_the_last_of_its_requests_failed_elsewhere(world):
    world.submit("split", 5)
    world.turn()
    assert world.runner.unanswered == 1
    world.runner.cancel(world.pendings["split"], CancelCause.CANCELLED)
    assert world.cancelled == list(world.running)


def test_a_recorder_that_raised_is_not_called_again(world, faults):
    faults.raises["record"] = 2
    world.play()
    assert faults.calls["record"] == 2
    assert len(world.steps) == 3  # two of them from before the story


@pytest.mark.parametrize("nth", range(1, 5))
def test_a_batch_that_cannot_be_started_has_failed(world, faults, nth):
    """Its requests are retried, like those of any failed batch."""
    faults.raises["run"] = nth
    world.play()
    ends = world.outcomes()
    assert isinstance(ends.pop("too late"), DeadlineExpired)
    # A request that is split is not retried.
    if nth > 1:
        failed = ends.pop("split")
        assert answered(failed) or (
            isinstance(failed, ExecutionFailed) and "Boom: boom" in str(failed)
        )
    assert all(answered(end) for end in ends.values())
    world.check_idle()


def test_the_reason_is_given_when_no_batch_can_be_started(world, faults):
    world.run = faults.always()
    world.submit("a", 1)
    world.finish_all()
    (end,) = world.sinks["a"].ends
    assert isinstance(end, ExecutionFailed)
    assert str(end).startswith("m: the executor failed: Boom: boom")


def test_the_message_of_an_execution_error_is_kept(world, faults):
    faults.raises["join"] = 1
    faults.error = ExecutionError("pieces of different widths")
    world.play()
    end = world.outcomes()["split"]
    assert isinstance(end, InternalError)
    assert str(end) == "m: the reply could not be made: pieces of different widths"
    assert world.pendings["split"].reason == "unknown"


def test_the_end_of_an_unknown_batch_is_ignored(world):
    world.submit("a", 1)
    world.turn()
    _, done = world.running[min(world.running)]
    world.finish_all()
    released = []
    result = BatchResult({"Y": np.zeros((1, 1))}, release=lambda: released.append(1))
    done(ExecutedBatch(0, 0, 0, result))
    assert released == [1]
    world.outcomes()


@pytest.mark.parametrize("lost", ["none", "cancelled", "failed"])
def test_the_time_of_a_batchs_replies_is_fed(world, faults, lost):
    """Also when one of its requests gets no reply."""
    fed = []
    world.runner.record_with(
        lambda _, events, __: fed.extend(e for e in events if isinstance(e, RepliesTook))
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
        assert fed == []
        if lost != "cancelled" or name == "b":
            world.runner.replied(world.pendings[name], 9)
            world.runner.replied(world.pendings[name], 9)  # counts once
    assert [(event.rows, event.took_ns) for event in fed] == [(2, 4)]


def test_how_long_instances_have_begun_no_batch(world):
    assert world.runner.idle_ns(("i", "another")) == math.inf
    assert world.runner.idle_ns(()) == math.inf
    world.submit("a", 1)
    world.turn()
    assert world.runner.idle_ns(("i", "another")) == 0
    world.now_ns += 5
    assert world.runner.idle_ns(("another", "i")) == 5
    world.runner.instance_down(InstanceDown("i", 1))
    assert world.runner.idle_ns(("i",)) == math.inf
