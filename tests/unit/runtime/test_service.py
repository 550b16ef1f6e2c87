"""Admission and replies: each request is counted once, by how it ended."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest

from batcher.clock import MILLISECOND
from batcher.config import ModelConfig
from batcher.errors import AnswerTooLarge, BufferFull, ExecutionFailed
from batcher.telemetry.budget import Hop


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (AnswerTooLarge("large"), ("failed", "answer_too_large")),
        (BufferFull("full"), ("failed", "buffer_full")),
        (ValueError("no"), ("failed", "internal")),
    ],
)
async def test_a_reply_that_cannot_be_encoded_counts_as_failed(middle, error, end):
    async def encode(_):
        raise error

    with pytest.raises(type(error)):
        await middle.answer(middle.request(), encode)
    assert middle.counted() == {end: 1}


@pytest.mark.parametrize("late", [False, True])
async def test_a_request_cancelled_while_its_reply_is_encoded_counts_as_cancelled(middle, late):
    reached = asyncio.Event()

    async def encode(_):
        reached.set()
        await asyncio.Event().wait()

    request = middle.request(deadline_ns=middle.clock() + 5 if late else None)
    call = asyncio.create_task(middle.answer(request, encode))
    await reached.wait()
    middle.clock.advance(10)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    end = ("expired", "caller_deadline") if late else ("cancelled", "caller_cancelled")
    assert middle.counted() == {end: 1}


@pytest.mark.parametrize(
    ("at_ms", "end"), [(490, "expired"), (484, "cancelled"), (250, "cancelled"), (500, "expired")]
)
async def test_a_reset_just_before_the_deadline_means_that_the_caller_saw_it_pass(
    middle, at_ms, end
):
    reached = asyncio.Event()

    async def encode(_):
        reached.set()
        await asyncio.Event().wait()

    request = middle.request(deadline_ns=middle.clock() + 500_000_000)
    call = asyncio.create_task(middle.answer(request, encode))
    await reached.wait()
    middle.clock.advance(request.arrival_ns + at_ms * 1_000_000 - middle.clock())
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    ((outcome, _),) = middle.counted()
    assert outcome == end


async def test_an_exception_in_the_metrics_does_not_fail_a_request(middle, monkeypatch):
    monkeypatch.setattr(middle.model.telemetry, "request_ended", boom)
    reply = await middle.batcher.infer(middle.request())
    assert reply.outputs["Y"].array.tolist() == [[2, 2]]


@pytest.mark.parametrize("name", ["execution_ended", "batch_finished"])
async def test_an_exception_in_the_metrics_does_not_fail_a_batch(middle, monkeypatch, name):
    with monkeypatch.context() as broken:
        broken.setattr(middle.model.telemetry, name, boom)
        assert await middle.batcher.infer(middle.request())
    assert await middle.batcher.infer(middle.request())
    assert [str(problem["exception"]) for problem in middle.problems] == ["boom"]
    assert middle.fake.released == 2


async def test_a_batch_that_cannot_start_is_removed(middle, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(middle.model.telemetry, "execution_started", boom)
        with pytest.raises(Exception, match="boom"):
            await middle.batcher.infer(middle.request())
    assert await middle.batcher.infer(middle.request())
    assert middle.counted() == {("failed", "unknown"): 1, ("ok", ""): 1}
    assert middle.problems == []


async def test_the_fill_ratio_follows_a_changed_batch_size(middle):
    filled = middle.model.telemetry.batch_fill
    await middle.batcher.infer(middle.request())
    assert filled.total == 1 / 8
    middle.model.configure(replace(middle.model.settings, max_batch_size=2))
    await middle.batcher.infer(middle.request())
    assert filled.total == 1 / 8 + 1 / 2


async def test_debug_shows_the_traceback_of_an_executors_error(middle, caplog):
    def break_down():
        raise ValueError("no luck")

    def answer(_):
        break_down()

    for level, shown in ((logging.INFO, False), (logging.DEBUG, True)):
        middle.fake.answer_next(answer)
        caplog.clear()
        with caplog.at_level(level), pytest.raises(ExecutionFailed):
            await middle.batcher.infer(middle.request())
        assert "a batch failed: ValueError: no luck" in caplog.text
        assert ("in break_down" in caplog.text) == shown


def boom(*_, **__):
    raise RuntimeError("boom")


async def test_a_generation_that_does_not_serve_does_not_change_how_answers_are_judged(middle):
    shares = {"queue": "1ms"}
    of_model = {"name": "m", "executor": "fake", "batching": {"target_p99": "5ms"}}
    judged = middle.model.telemetry.budget
    middle.model.telemetry.serves("m/1", 1)
    middle.model.tuned(ModelConfig.model_validate(of_model | {"budget": shares}))
    assert judged.shares == {Hop.QUEUE: MILLISECOND}
    middle.model.telemetry.serves("m/1~2", 2)  # and what follows is of a generation that has gone
    middle.model.tuned(ModelConfig.model_validate(of_model))
    assert judged.shares == {Hop.QUEUE: MILLISECOND}
