"""Which sequence a request is a step of, how many are open, and when idle ones end."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from batcher.clock import SECOND
from batcher.config import SequenceConfig
from batcher.errors import Overloaded, SequenceError
from batcher.executor import ModelMetadata, TensorSpec
from batcher.runtime.request import InferenceRequest, SequenceParameters
from batcher.runtime.sequences import SequenceTable, resolve_sequence
from batcher.runtime.sequences.table import REMEMBERED_ENDS
from batcher.telemetry.sequences import SequenceCounts
from batcher.tensors import Tensor
from batcher.testing import ManualClock

METADATA = ModelMetadata(
    "test",
    (TensorSpec("x", "FP32", (-1, 1)), TensorSpec("h_in", "FP32", (-1, 1))),
    (TensorSpec("y", "FP32", (-1, 1)), TensorSpec("h_out", "FP32", (-1, 1))),
)
STATE = {"state": [{"input": "h_in", "output": "h_out"}]}
SLOT = {"strategy": "slot"}


class World:
    """A table, a manual clock and the loop's timers, and models by version and generation."""

    def __init__(self):
        self.clock = ManualClock()
        self.timers = []
        self.table = SequenceTable(self.clock, self)
        self.counts = {}

    def call_later(self, delay_s, callback):
        timer = SimpleNamespace(at_ns=self.clock() + round(delay_s * SECOND), callback=callback)
        timer.cancel = lambda: self.timers.remove(timer)
        self.timers.append(timer)
        return timer

    def pass_time(self, seconds):
        self.clock.advance(round(seconds * SECOND))
        for timer in [timer for timer in self.timers if timer.at_ns <= self.clock()]:
            self.timers.remove(timer)
            timer.callback()

    def model(self, version="1", generation=1, section=STATE, **more):
        config = SequenceConfig.model_validate(section | more)
        metadata = METADATA
        if config.strategy == "slot":
            metadata = ModelMetadata("test", METADATA.inputs[:1], METADATA.outputs[:1])
        return SimpleNamespace(
            name="m",
            version=version,
            key=f"m/{version}~{generation}",
            sequences=resolve_sequence("m", config, metadata),
            sequence_counts=self.counts.setdefault(version, SequenceCounts()),
        )

    def step(self, model, sequence=7, *, start=False, end=False, version="", tenant=""):
        request = self.request(sequence, start=start, end=end, version=version, tenant=tenant)
        return self.table.admit(request, 1, model)

    @staticmethod
    def request(sequence=7, *, start=False, end=False, version="", tenant=""):
        return InferenceRequest(
            "m",
            {"x": Tensor("FP32", np.ones((1, 1), np.float32))},
            0,
            version=version,
            tenant=tenant,
            sequence=SequenceParameters(sequence, start, end),
        )


@pytest.fixture
def world():
    return World()


def run(step, value, home=("m#0", 1)):
    """The step is executed, and its state becomes `value`."""
    assert step.begin(home) == ""
    step.take({"h_out": Tensor("FP32", np.array([[value]], np.float32))})
    step.ran()


def answered(step, value=1.0):
    run(step, value)
    step.settle("")
    step.replied(answered=True)


def state_of(step):
    return step.filled(World.request()).inputs["h_in"].array.tolist()


def test_the_state_is_that_of_the_last_answered_step(world):
    model = world.model()
    first = world.step(model, start=True)
    assert state_of(first) == [[0.0]]
    answered(first, 5.0)
    second = world.step(model)
    assert state_of(second) == [[5.0]]
    run(second, 6.0)
    second.settle("caller deadline")
    third = world.step(model)
    assert state_of(third) == [[5.0]]


def test_an_answer_that_was_not_sent_does_not_count(world):
    model = world.model()
    answered(world.step(model, start=True), 5.0)
    unsent = world.step(model, end=True)
    run(unsent, 6.0)
    unsent.settle("")
    with pytest.raises(SequenceError, match=r"has ended: its last step \(sequence_end\) was sent"):
        world.step(model)
    unsent.replied(answered=False)
    assert state_of(world.step(model)) == [[5.0]]
    assert world.counts["1"].open == 1


def test_it_has_counted_if_the_next_step_has_begun(world):
    model = world.model()
    answered(world.step(model, start=True), 5.0)
    unsent, behind = world.step(model), world.step(model)
    run(unsent, 6.0)
    unsent.settle("")
    assert behind.begin(("m#0", 1)) == ""
    unsent.replied(answered=False)
    assert state_of(behind) == [[6.0]]


def test_a_sequence_whose_first_step_was_not_answered_is_not_open(world):
    model = world.model()
    first, behind = world.step(model, start=True), world.step(model)
    first.settle("queue timeout")
    assert "its first step was not answered (queue timeout)" in behind.begin(("m#0", 1))
    behind.settle("sequence")
    with pytest.raises(SequenceError, match="was lost: its first step was not answered"):
        world.step(model)
    assert world.counts["1"].ended == {"ended": 0, "replaced": 0, "expired": 0, "lost": 1}
    assert world.table._kept == {}


def test_a_start_again_leaves_the_steps_before_it_their_state_and_their_turn(world):
    model = world.model()
    answered(world.step(model, start=True), 5.0)
    old = world.step(model)
    new = world.step(model, start=True)
    assert new.sequence.number == old.sequence.number
    assert state_of(old) == [[5.0]]
    assert state_of(new) == [[0.0]]
    answered(old, 6.0)
    answered(new, 1.0)
    assert state_of(world.step(model)) == [[1.0]]
    assert world.counts["1"].ended["replaced"] == 1
    assert world.counts["1"].open == 1


def test_different_sequences_have_different_numbers(world):
    model = world.model()
    numbers = {
        world.step(model, sequence, start=True, tenant=tenant).sequence.number
        for sequence in (7, "7", 8)
        for tenant in ("", "gold")
    }
    assert len(numbers) == 6


def test_a_step_stays_on_its_generation(world):
    old, new = world.model(), world.model(generation=2)
    answered(world.step(old, 1, start=True), 5.0)
    answered(world.step(new, 2, start=True), 6.0)
    assert world.table.serving(world.request(1)) is old
    assert world.table.serving(world.request(2)) is new
    assert world.table.serving(world.request(1, start=True)) is None
    assert world.table.serving(world.request(3)) is None
    # It is started again on the new one.
    answered(world.step(new, 1, start=True), 7.0)
    assert world.table.serving(world.request(1)) is new


def test_a_step_without_a_version_stays_on_the_one_that_its_sequence_began_on(world):
    one, two = world.model("1"), world.model("2")
    answered(world.step(one, start=True))
    assert world.table.serving(world.request()) is one
    assert world.table.serving(world.request(version="1")) is one
    assert world.table.serving(world.request(version="2")) is None
    answered(world.step(two, start=True, version="2"))
    assert world.table.serving(world.request()) is two
    assert world.table.serving(world.request(version="1")) is one
    # A start without a version is one for all of them.
    answered(world.step(two, start=True))
    assert world.table.serving(world.request(version="1")) is None
    assert [world.counts[v].open for v in "12"] == [0, 1]


async def test_a_generation_is_closed_when_its_last_sequence_has_ended(world):
    old = world.model()
    first = world.step(old, 1, start=True)
    answered(first)
    answered(world.step(old, 2, start=True))
    closed = asyncio.ensure_future(world.table.closed(old.key))
    answered(world.step(old, 1, end=True))
    await asyncio.sleep(0)
    assert not closed.done()
    world.pass_time(60)
    await closed
    await world.table.closed("another")


async def test_a_generation_that_closes_loses_its_sequences(world):
    model = world.model()
    answered(world.step(model, 1, start=True))
    waiting = world.step(model, 1)
    closed = asyncio.ensure_future(world.table.closed(model.key))
    await asyncio.sleep(0)
    world.table.drop(model.key, "its model was unloaded")
    await closed
    assert waiting.begin(("m#0", 1)) == "its model was unloaded"
    with pytest.raises(SequenceError, match="was lost: its model was unloaded; start it again"):
        world.step(model, 1)


def test_idle_sequences_end_by_one_timer(world):
    slow, quick = world.model(), world.model("2", idle_timeout="1s")
    for sequence in range(20):
        answered(world.step(slow, sequence + 1, start=True))
        assert len(world.timers) == 1
    answered(world.step(quick, 99, start=True))
    busy = world.step(quick, 100, start=True)
    assert len(world.timers) == 1
    world.pass_time(1)
    assert [world.counts[v].open for v in "12"] == [20, 1]
    world.pass_time(30)
    answered(world.step(slow, 1))
    world.pass_time(29)
    assert [world.counts[v].open for v in "12"] == [1, 1]
    with pytest.raises(SequenceError, match=r"has expired: it was idle for more than 1m"):
        world.step(slow, 2)
    # One with a step that is not answered is not idle, however long that takes.
    answered(busy)
    world.pass_time(1)
    assert world.counts["2"].open == 0
    world.pass_time(60)
    assert world.timers == []
    assert world.table._kept == {}
    assert world.table._found == {}


def test_an_idle_sequence_has_ended_even_where_the_timer_is_late(world):
    model = world.model()
    answered(world.step(model, start=True))
    world.clock.advance(60 * SECOND)
    assert world.table.serving(world.request()) is None
    with pytest.raises(SequenceError, match="has expired"):
        world.step(model)


def test_how_sequences_ended_is_remembered_for_a_while(world):
    model = world.model()
    for sequence in range(1, REMEMBERED_ENDS + 2):
        answered(world.step(model, sequence, start=True, end=True))
    assert len(world.table._ends) == REMEMBERED_ENDS
    with pytest.raises(SequenceError, match="is not open"):
        world.step(model, 1)
    with pytest.raises(SequenceError, match="has ended"):
        world.step(model, 2)


def test_a_slot_is_free_when_its_last_batch_has_ended(world):
    model = world.model(section=SLOT, max_sequences=1)
    first = world.step(model, 1, start=True)
    assert first.row.slot == 0
    assert first.begin(("m#0", 1)) == ""
    first.settle("caller cancelled")
    with pytest.raises(Overloaded, match="1 sequences are open already"):
        world.step(model, 2, start=True)
    first.ran()
    assert world.step(model, 2, start=True).row.slot == 0


def test_a_sequence_whose_slot_was_on_a_replaced_instance_is_lost(world):
    model = world.model(section=SLOT)
    first = world.step(model, 1, start=True)
    assert first.begin(("m#0", 1)) == ""
    first.ran()
    first.settle("")
    first.replied(answered=True)
    second = world.step(model, 1)
    assert second.begin(("m#0", 2)) == "the instance that kept its state was replaced"
    second.settle("sequence")
    with pytest.raises(SequenceError, match="was lost: the instance that kept its state"):
        world.step(model, 1)
    assert world.table._kept == {}
