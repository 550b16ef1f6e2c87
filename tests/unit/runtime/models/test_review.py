"""What is logged once a minute of a model's last minute."""

from __future__ import annotations

import logging

import pytest
from prometheus_client import CollectorRegistry

from batcher.clock import SECOND
from batcher.core.commands import Blame, MissedTime, Outcome, Reason, RefusalCause
from batcher.core.observation import ModelObservation, Observation
from batcher.errors import ModelUnavailable
from batcher.executor import ModelMetadata
from batcher.runtime.models.review import Reviewer, varying_axes
from batcher.telemetry import Stamps, Telemetry
from batcher.tensors import TensorSpec
from batcher.testing import ManualClock

TOKENS = TensorSpec("TOKENS", "INT64", (-1, -1))
LENGTHS = tuple(((length,),) for length in range(7, 27))


class Served:
    """A model, and what happens to it."""

    def __init__(self, telemetry, key="m/1"):
        self.key = key
        self.telemetry = telemetry.model(key, key, "1")
        self.telemetry.device_known("gpu")
        self.padding = None
        self.inputs = (TOKENS,)
        self.shapes = ()

    @property
    def metadata(self):
        if self.inputs is None:
            raise ModelUnavailable("not loaded yet")
        return ModelMetadata("fake", self.inputs, (TOKENS,))

    def end(self, count, cause=None):
        for _ in range(count):
            stamps = Stamps(1, 1, 1, 1, 1, 1, 1)
            if cause is None:
                self.telemetry.request_ended(Outcome.OK, Reason.NONE, 1, stamps, None)
            else:
                blame = Blame(cause, MissedTime.LIMIT, 1)
                self.telemetry.request_ended(
                    Outcome.REJECTED, Reason.PREDICTED_LATE, 1, stamps, None, blame
                )

    def batches(self, count, requests):
        for _ in range(count):
            self.telemetry.batch_finished(
                rows=requests,
                requests=requests,
                max_batch_size=8,
                started_ns=1,
                execute_start_ns=2,
                execute_end_ns=3,
                scattered_ns=4,
                failed=False,
            )


class Minutes:
    """Models under a clock that is moved a minute at a time, and their reviewer."""

    def __init__(self):
        self.clock = ManualClock(0)
        self.registry = Telemetry(CollectorRegistry(), clock=self.clock)
        self.models = [Served(self.registry), Served(self.registry, "n/1")]
        self.model, self.other = self.models
        self.known = list(self.models)
        self.reviewer = Reviewer(self.models, self.observe, self.clock)

    def observe(self):
        made = [
            ModelObservation(
                m.key, 0, 0, 0, 0, None, None, 1, margin=1.25, drift=2.0, shapes=m.shapes
            )
            for m in self.known
        ]
        return Observation(self.clock(), tuple(made), ())

    def passes(self, busy, model=None):
        """A minute of which the device is busy for this share."""
        counts, began_ns = (model or self.model).telemetry, self.clock()
        counts.execution_started(0, "gpu", began_ns)
        counts.execution_ended(0, began_ns + int(busy * 60 * SECOND))
        self.clock.advance(60 * SECOND)
        self.reviewer.review()


@pytest.fixture
def minutes(caplog):
    caplog.set_level(logging.WARNING, "batcher")
    return Minutes()


def test_refusals_beside_a_device_with_time_are_logged_in_words(minutes, caplog):
    minutes.model.end(97)
    minutes.model.end(2, RefusalCause.MARGIN)
    minutes.model.end(1, RefusalCause.QUEUE_AHEAD)
    minutes.passes(0.12)
    (record,) = caplog.records
    text = record.getMessage()
    assert "m/1: 3 of 100 requests were refused for a prediction in the last minute" in text
    assert "its device was 12 % busy: " in text
    assert "2 for margin" in text
    assert "1 for queue_ahead" in text
    assert "1.25 times as long as expected" in text
    assert text.index("batcher_event_loop_lag_seconds") < text.index("batching.limit")


@pytest.mark.parametrize(
    ("answered", "refused", "cause", "busy"),
    [
        (99, 1, RefusalCause.MARGIN, 0.1),
        (50, 50, RefusalCause.QUEUE_AHEAD, 0.9),
        (50, 50, RefusalCause.DEADLINE, 0.1),
        (100, 0, RefusalCause.MARGIN, 0.1),
        (0, 0, RefusalCause.MARGIN, 0.0),
    ],
)
def test_one_percent_a_busy_device_and_deadlines_too_short_are_no_fault(
    minutes, caplog, answered, refused, cause, busy
):
    minutes.model.end(answered)
    minutes.model.end(refused, cause)
    minutes.passes(busy)
    assert not caplog.records


def test_what_happened_in_an_earlier_minute_is_not_logged_again(minutes, caplog):
    minutes.model.end(10, RefusalCause.MARGIN)
    minutes.passes(0.1)
    assert len(caplog.records) == 1
    minutes.passes(0.1)
    assert len(caplog.records) == 1
    minutes.model.end(1, RefusalCause.SERVICE_TIME)
    minutes.passes(0.1)
    assert "1 of 1 requests" in caplog.records[1].getMessage()
    assert "batcher_prediction_drift_ratio" in caplog.records[1].getMessage()


def test_a_device_that_another_model_keeps_busy_is_busy(minutes, caplog):
    minutes.model.end(10, RefusalCause.QUEUE_AHEAD)
    minutes.passes(0.95, minutes.other)
    assert not caplog.records


def test_a_model_that_the_scheduler_does_not_know_is_left_out(minutes, caplog):
    minutes.model.end(10, RefusalCause.MARGIN)
    minutes.known.remove(minutes.model)
    minutes.passes(0.1)
    assert not caplog.records


def test_different_lengths_without_padding_are_named_once(minutes, caplog):
    minutes.model.shapes = LENGTHS
    for _ in range(2):
        minutes.model.end(100)
        minutes.model.batches(80, requests=1)
        minutes.passes(0.7)
    (record,) = caplog.records
    text = record.getMessage()
    assert "m/1: batches hold 1.0 requests on average" in text
    assert "TOKENS axis 1 (7 to 26)" in text
    assert "under `padding`" in text


def test_nothing_is_said_of_lengths_where_they_are_not_the_cause(minutes, caplog):
    for shapes, requests, busy in (
        (LENGTHS[:3], 1, 0.7),
        (LENGTHS, 2, 0.7),
        (LENGTHS, 1, 0.2),
        ((((16,),),), 1, 0.7),
    ):
        minutes.model.shapes = shapes
        minutes.model.batches(80, requests=requests)
        minutes.passes(busy)
    minutes.model.shapes = LENGTHS
    minutes.passes(0.7)
    minutes.model.batches(80, requests=1)
    minutes.model.padding = object()
    minutes.passes(0.7)
    minutes.model.batches(80, requests=1)
    minutes.model.padding, minutes.model.inputs = None, None
    minutes.passes(0.7)
    assert not caplog.records


def test_axes_that_vary_are_named_as_in_the_tensor():
    inputs = (TOKENS, TensorSpec("IMAGE", "FP32", (3, -1, -1), batched=False))
    shapes = (((7,), (3, 10, 4)), ((7,), (3, 20, 4)), ((), (3, 30, 4)))
    assert varying_axes(inputs, shapes) == ["IMAGE axis 1 (10 to 30)"]


async def test_it_goes_on_after_an_error_until_it_is_cancelled(minutes, caplog):
    class EnoughError(Exception):
        pass

    slept = []

    async def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            raise EnoughError

    minutes.reviewer._observe = None
    with pytest.raises(EnoughError):
        await minutes.reviewer.run(7.0, sleep)
    assert slept == [7.0] * 3
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
