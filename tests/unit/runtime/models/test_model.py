"""Loads that are repeated, cancelled, reloaded, and the state of the model meanwhile."""

from __future__ import annotations

import asyncio
import threading

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.errors import BackendUnavailable, InstanceUnavailable, ModelLoadError, ModelUnavailable
from batcher.executor import BatchResult, Capabilities, ModelMetadata, TensorSpec
from batcher.runtime.health import ModelState
from batcher.runtime.instances.health_checks import HealthCheckPlan
from batcher.runtime.instances.sample import WarmupPlan
from batcher.runtime.interface.padding_rules import AxisRule, PaddingRules
from batcher.runtime.models import model as models
from batcher.testing import FakeExecutor
from batcher.testing.fakes import Hang

HOUR_NS = 3600 * SECOND


@pytest.fixture(autouse=True)
def _no_delay(monkeypatch):
    monkeypatch.setattr(models, "FIRST_RETRY_S", 0.0001)


async def until(condition):
    async with asyncio.timeout(10):
        while True:
            if condition():
                return
            await asyncio.sleep(0.001)


def state(middle):
    return middle.model.health.state, middle.model.health.reason


class TestRetries:
    async def test_a_load_waits_for_its_backend(self, make_middle, caplog):
        middle = make_middle(load_retry_ns=HOUR_NS)
        errors = [BackendUnavailable("m: no server listens")] * 3
        seen = []

        def make():
            seen.append(state(middle))
            return FakeExecutor(load_error=errors.pop() if errors else None)

        middle.make_executor = make
        await middle.model.load()
        assert state(middle) == (ModelState.READY, "")
        again = (ModelState.LOADING, "m: no server listens; trying again")
        assert seen == [(ModelState.LOADING, "loading"), again, again, again]
        assert middle.model.telemetry.load_failures == 3
        assert caplog.text.count("trying again in") == 3
        assert await middle.batcher.infer(middle.request())

    async def test_callers_get_the_reason_meanwhile(self, make_middle):
        middle = make_middle(load_retry_ns=HOUR_NS)
        middle.make_executor = lambda: FakeExecutor(load_error=BackendUnavailable("m: not up"))
        loading = asyncio.create_task(middle.model.load())
        await until(lambda: len(middle.fakes) > 1)
        with pytest.raises(ModelUnavailable, match="not up; trying again") as caught:
            await middle.batcher.infer(middle.request())
        assert caught.value.retry_after_ns
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        assert state(middle)[0] is ModelState.FAILED

    @pytest.mark.parametrize("retry_ns", [0, MILLISECOND])
    async def test_the_load_fails_when_the_retry_time_is_over(self, make_middle, retry_ns):
        middle = make_middle(load_retry_ns=retry_ns)
        middle.make_executor = lambda: FakeExecutor(load_error=BackendUnavailable("m: not up"))
        with pytest.raises(BackendUnavailable):
            await middle.model.load()
        assert state(middle) == (ModelState.FAILED, "m: not up")
        assert len(middle.fakes) == 1 or retry_ns

    async def test_other_errors_are_not_retried(self, make_middle):
        middle = make_middle(load_retry_ns=HOUR_NS)
        middle.make_executor = lambda: FakeExecutor(load_error=ModelLoadError("m: no such file"))
        with pytest.raises(ModelLoadError):
            await middle.model.load()
        assert len(middle.fakes) == 1


class TestDrain:
    async def test_what_was_accepted_is_answered_before_it_closes(self, middle):
        hang = middle.fake.hang_next()
        accepted = [asyncio.create_task(middle.batcher.infer(middle.request())) for _ in range(3)]
        await asyncio.to_thread(hang.wait_entered)
        draining = asyncio.create_task(middle.model.drain(60.0))
        await asyncio.sleep(0)
        assert not draining.done()
        hang.release()
        assert [(await each).outputs["Y"].array.sum() for each in accepted] == [4, 4, 4]
        await draining
        assert middle.fake.calls[-1].method == "close"
        assert not middle.runner.observe().models
        assert not middle.runner.observe().instances

    async def test_what_is_left_at_the_timeout_is_refused(self, middle, monkeypatch, caplog):
        monkeypatch.setattr(models, "CLOSE_TIMEOUT_S", 0.01)
        hang = middle.fake.hang_next()
        accepted = [asyncio.create_task(middle.batcher.infer(middle.request())) for _ in range(2)]
        await asyncio.to_thread(hang.wait_entered)
        await middle.model.drain(0.01)
        ends = await asyncio.gather(*accepted, return_exceptions=True)
        assert all(isinstance(end, InstanceUnavailable | ModelUnavailable) for end in ends)
        assert "unanswered after 0.01 s of draining (drain_timeout)" in caplog.text
        hang.release()

    async def test_without_requests_it_closes_at_once(self, middle):
        await middle.model.drain(60.0)
        await middle.model.drain(60.0)
        assert [call.method for call in middle.fake.calls] == ["load", "close"]

    async def test_a_cancelled_load_leaves_nothing(self, make_middle):
        middle = make_middle(load_retry_ns=HOUR_NS)
        middle.make_executor = lambda: FakeExecutor(load_error=BackendUnavailable("m: not up"))
        loading = asyncio.create_task(middle.model.load())
        await until(lambda: middle.fakes)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        assert state(middle) == (ModelState.FAILED, "its load was cancelled")
        assert not middle.runner.observe().models

    async def test_counts_of_the_scheduler_outlive_it(self, middle):
        middle.fake.fail_next(ValueError("no"))
        hang = middle.fake.hang_next()
        calls = [asyncio.create_task(middle.batcher.infer(middle.request())) for _ in range(2)]
        hang.release()
        await asyncio.gather(*calls, return_exceptions=True)
        before = middle.runner.observe().models[0]
        await middle.model.drain(1.0)
        counted = middle.model.telemetry
        assert counted.bisected_batches == before.bisected_batches
        assert counted.bisect_executions == before.bisect_executions


class Telling(FakeExecutor):
    """An executor with a `healthy` method."""

    healthy_returns = None

    def healthy(self):
        if isinstance(self.healthy_returns, BaseException):
            raise self.healthy_returns
        return self.healthy_returns


class TestHealth:
    async def test_an_executor_that_reports_itself_unhealthy(self, make_middle):
        middle = make_middle(checks=HealthCheckPlan(interval_ns=MILLISECOND))
        middle.make_executor = Telling
        await middle.model.load()
        for healthy_returns, why in (
            ("the backend is down", "the backend is down"),
            (ValueError("lost"), "ValueError: lost"),
            (False, "healthy() returned False, not a text or None"),
        ):
            middle.fake.healthy_returns = healthy_returns
            await until(lambda why=why: state(middle) == (ModelState.UNREADY, why))
            # It is asked all the same.
            assert await middle.batcher.infer(middle.request())
        middle.fake.healthy_returns = None
        await until(lambda: state(middle) == (ModelState.READY, ""))
        assert middle.problems == []

    async def test_an_executor_whose_healthy_call_hangs(self, make_middle):
        middle = make_middle(checks=HealthCheckPlan(MILLISECOND, 50 * MILLISECOND))
        middle.make_executor = Telling
        await middle.model.load()
        fake = middle.fake
        hang = fake.hang_next()
        fake.healthy = hang.block
        await until(
            lambda: middle.model.health.reason == "healthy() has not answered within 0.05 s"
        )
        fake.healthy = lambda: None
        hang.release()
        await until(lambda: middle.model.ready)

    async def test_a_question_that_is_never_answered_costs_its_instance(self, make_middle):
        middle = make_middle(checks=HealthCheckPlan(MILLISECOND, MILLISECOND))
        middle.make_executor = Telling
        await middle.model.load()
        first, hang = middle.fake, Hang()
        first.healthy = hang.block
        await until(lambda: not middle.model.ready)
        assert len(middle.fakes) == 1
        middle.clock.advance(2 * 10**12 + 1)
        await until(lambda: middle.model.ready)
        assert middle.fake is not first
        assert await middle.batcher.infer(middle.request())
        hang.release()
        await until(lambda: first.calls[-1].method == "close")

    async def test_batches_that_fail_make_it_unready_if_a_canary_fails_too(self, make_middle):
        checks = HealthCheckPlan(interval_ns=MILLISECOND, failure_threshold=2)
        middle = make_middle(checks=checks)
        middle.model._instances[0].plan = models.replace(
            middle.model._instances[0].plan, warmup=WarmupPlan((1,), 16)
        )
        dead = False

        def answer(batch):
            if dead:
                raise RuntimeError("the backend is gone")
            return BatchResult({"Y": batch.inputs["X"]})

        middle.make_executor = lambda: FakeExecutor(answer=answer)
        await middle.model.load()
        dead = True
        for _ in range(2):
            with pytest.raises(Exception, match="gone"):
                await middle.batcher.infer(middle.request())
        await until(lambda: not middle.model.ready)
        assert "RuntimeError: the backend is gone" in middle.model.health.reason
        # Without any traffic it comes back.
        dead = False
        await until(lambda: middle.model.ready)
        assert middle.problems == []


async def test_a_canary_batch_that_hangs_costs_its_instance(make_middle):
    middle = make_middle(checks=HealthCheckPlan(interval_ns=MILLISECOND, failure_threshold=1))
    (instance,) = middle.model._instances
    instance.plan = models.replace(
        instance.plan, warmup=WarmupPlan((1,), 16), execute_timeout_ns=20 * MILLISECOND
    )
    await middle.model.load()
    first = middle.fake
    first.fail_next(RuntimeError("no luck"))
    hang = first.hang_next()
    with pytest.raises(Exception, match="no luck"):
        await middle.batcher.infer(middle.request())
    await asyncio.to_thread(hang.wait_entered)
    await until(lambda: middle.fake is not first and middle.model.ready)
    assert await middle.batcher.infer(middle.request())
    hang.release()
    await until(lambda: first.calls[-1].method == "close")
    assert middle.problems == []


async def test_metadata_of_a_model_that_never_loaded(make_middle):
    middle = make_middle()
    assert state(middle) == (ModelState.LOADING, "not loaded yet")
    with pytest.raises(ModelUnavailable):
        _ = middle.model.metadata
    await middle.model.close(1.0)


class TestInstancesThatDiffer:
    async def test_a_replacement_that_takes_other_tensors_does_not_come_up(self, middle):
        """Requests are checked against what was loaded: the file must not change behind it."""
        instance = middle.model._instances[0]
        middle.make_executor = lambda: FakeExecutor(columns=3)
        with pytest.raises(ModelLoadError, match="other inputs or outputs than the first"):
            await instance.load()
        middle.make_executor = FakeExecutor
        await instance.load()
        assert await middle.batcher.infer(middle.request())


@pytest.mark.parametrize(("most", "loads"), [(1, False), (2, True), (3, True)])
async def test_more_batches_at_once_than_the_executor_can_take_are_refused(
    make_middle, most, loads
):
    class Remote:
        capabilities = Capabilities(max_in_flight=most)

        async def load(self, context):
            return FakeExecutor().metadata

        async def execute(self, batch):
            return FakeExecutor().execute(batch)

        async def close(self):
            pass

    middle = make_middle(max_in_flight=2)
    middle.make_executor = Remote
    if loads:
        await middle.model.load()
    else:
        with pytest.raises(ModelLoadError, match="'m': max_in_flight: got 2; allowed: 1 to 1"):
            await middle.model.load()


@pytest.mark.parametrize("fixed", [False, True])
async def test_buckets_that_change_while_it_is_loaded_are_not_mistaken(make_middle, fixed):
    spec = {"datatype": "FP32", "shape": (-1, -1), "dims": (None, "length")}
    inputs, outputs = TensorSpec("X", **spec), TensorSpec("Y", **spec)
    metadata = ModelMetadata("fake", (inputs,), (outputs,), fixed_buckets=fixed)
    begun, held = threading.Event(), threading.Event()

    class Slow(FakeExecutor):
        def load(self, context):
            begun.set()
            assert held.wait(10)
            return super().load(context)

    middle = make_middle()
    middle.make_executor = lambda: Slow(metadata=metadata)
    loading = asyncio.create_task(middle.model.load())
    assert await asyncio.to_thread(begun.wait, 10)
    rules = PaddingRules((AxisRule("X", 1, 0, (4, 8)),), (), "")
    middle.model.configure(middle.model.settings, rules)
    held.set()
    if fixed:
        with pytest.raises(ModelLoadError, match="padding was changed while it was loaded"):
            await loading
        return
    await loading
    (instance,) = middle.model._instances
    assert instance.plan.context.buckets == {"X": {1: (4, 8)}}
    assert middle.model.padding.axes[0].buckets == (4, 8)
