"""The shipped suite catches executors that break the contract, and passes one that keeps it."""

import asyncio
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from batcher.errors import ModelLoadError
from batcher.executor import (
    Batch,
    BatchResult,
    Capabilities,
    ExecutionError,
    ModelMetadata,
    Options,
    TensorSpec,
    read_options,
)
from batcher.testing import ExecutorContract, FakeExecutor


class NoOptions(Options):
    pass


class Honest(FakeExecutor):
    """A fake that also checks its options and refuses negative rows."""

    def load(self, context):
        read_options(context, NoOptions)
        return super().load(context)

    def execute(self, batch):
        if (batch.inputs["X"] < 0).any():
            raise ExecutionError("negative", cause="input")
        return super().execute(batch)


class Remote:
    """The same behind coroutines, three batches at once."""

    capabilities = Capabilities(max_in_flight=3)

    def __init__(self):
        self.inner = Honest()

    async def load(self, context):
        return self.inner.load(context)

    async def execute(self, batch):
        return self.inner.execute(batch)

    async def close(self):
        self.inner.close()


class Healthy(Honest):
    """An executor with a method `healthy`."""

    def healthy(self):
        return None


class HealthyRemote(Remote):
    async def healthy(self):
        return None


class Unhealthy(Honest):
    def healthy(self):
        return "no"


class Sending(Remote):
    """Takes raw inputs, sends metadata on, watches its backend, and can be cancelled."""

    capabilities = Capabilities(raw=True, max_in_flight=2)

    async def load(self, context):
        metadata = await super().load(context)
        return replace(metadata, metadata=("authorization", "x-key-bin"), max_batch_size=64)

    async def execute(self, batch):
        assert batch.inputs == {}
        rows = np.frombuffer(b"".join(batch.raw["X"]), np.float32).reshape(batch.shapes["X"])
        await asyncio.sleep(0)
        return self.inner.execute(Batch({"X": rows}, batch.rows))

    async def watch(self, report):
        report("")
        await asyncio.Event().wait()


class GoesOn(Sending):
    async def execute(self, batch):
        for _ in range(3):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.05)
        return await super().execute(batch)


class StopsWatching(Sending):
    async def watch(self, report):
        report("")


class Complains(Sending):
    async def watch(self, report):
        report("not ready")
        await asyncio.Event().wait()


class RefusesTokens(Sending):
    async def execute(self, batch):
        if batch.metadata:
            raise ExecutionError("no", cause="input")
        return await super().execute(batch)


class Contract(ExecutorContract):
    max_batch_size = 4

    def make_inputs(self, rows, rng):
        return {"X": rng.random((rows, 2), np.float32)}

    def bad_inputs(self):
        return {"X": -np.ones((2, 2), np.float32)}

    @pytest.fixture
    def options(self):
        return {}


class TestHonest(Contract):
    def make_executor(self):
        return Honest()


class TestRemote(Contract):
    def make_executor(self):
        return Remote()


class TestHealthy(Contract):
    def make_executor(self):
        return Healthy()


class TestSending(Contract):
    def make_executor(self):
        return Sending()


class TestHealthyRemote(Contract):
    def make_executor(self):
        return HealthyRemote()


class Breaker(Honest):
    def execute(self, batch):
        return BatchResult(self.break_it(batch, dict(super().execute(batch).outputs)))


class ReversesRows(Breaker):
    def break_it(self, batch, outputs):
        return {"Y": np.sort(outputs["Y"], axis=0)}


class MixesRows(Breaker):
    def break_it(self, batch, outputs):
        return {"Y": outputs["Y"] - outputs["Y"].mean(axis=0)}


class WrongDtype(Breaker):
    def break_it(self, batch, outputs):
        return {"Y": outputs["Y"].astype(np.float64)}


class DropsRow(Breaker):
    def break_it(self, batch, outputs):
        return {"Y": outputs["Y"][:3]}


class ReusesBuffer(Breaker):
    buffer = np.zeros((8, 2), np.float32)

    def break_it(self, batch, outputs):
        self.buffer[: batch.rows] = outputs["Y"]
        return {"Y": self.buffer[: batch.rows]}


class TakesTurnsWithBuffers(Breaker):
    """Two buffers hide it from a look at the next batch alone."""

    buffers = np.zeros((2, 8, 2), np.float32)
    turn = 0

    def break_it(self, batch, outputs):
        self.turn = 1 - self.turn
        self.buffers[self.turn, : batch.rows] = outputs["Y"]
        return {"Y": self.buffers[self.turn, : batch.rows]}


class WritesInputs(Breaker):
    def break_it(self, batch, outputs):
        batch.inputs["X"][:] = 0
        return outputs


class ForgetsOutput(Breaker):
    def break_it(self, batch, outputs):
        return {} if batch.outputs else outputs


class Subset(Contract):
    broken: type

    def make_executor(self):
        return self.broken()


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (ReversesRows, "test_rows_keep_their_order_and_do_not_affect_each_other"),
        (MixesRows, "test_rows_keep_their_order_and_do_not_affect_each_other"),
        (WrongDtype, "test_outputs_match_the_metadata"),
        (DropsRow, "test_outputs_match_the_metadata"),
        (ReusesBuffer, "test_results_stay_valid_until_they_are_released"),
        (TakesTurnsWithBuffers, "test_results_stay_valid_until_they_are_released"),
        (WritesInputs, "test_outputs_match_the_metadata"),
        (ForgetsOutput, "test_only_requested_outputs_are_needed"),
        (Unhealthy, "test_a_loaded_executor_is_healthy"),
        (GoesOn, "test_a_cancelled_batch_ends_and_the_next_one_succeeds"),
        (StopsWatching, "test_a_loaded_executor_watches_its_backend"),
        (Complains, "test_a_loaded_executor_watches_its_backend"),
        (RefusesTokens, "test_a_deadline_and_metadata_change_no_answer"),
    ],
)
def test_broken_execution_is_caught(broken, test, tmp_path, monkeypatch):
    monkeypatch.setattr("batcher.testing.contract_driver.CANCELLED_S", 0.02)
    suite = Subset()
    suite.broken = broken
    with suite._loaded(suite._context({}, tmp_path)) as driver:
        check = getattr(suite, test)
        with pytest.raises((AssertionError, ValueError, ExecutionError)):
            check(driver, np.random.default_rng(1))


GOOD = FakeExecutor().metadata


@pytest.mark.parametrize(
    "metadata",
    [
        replace(GOOD, platform=""),
        replace(GOOD, inputs=GOOD.inputs * 2),
        replace(GOOD, inputs=(TensorSpec("X", "FLOAT", (-1, 2)),)),
        replace(GOOD, outputs=(TensorSpec("Y", "FP32", (1, 2)),)),
        replace(GOOD, outputs=(TensorSpec("Y", "FP32", ()),)),
        replace(GOOD, properties={"threads": 2}),
        replace(GOOD, parameters=("beam", "beam")),
        replace(GOOD, parameters=("",)),
        ModelMetadata("fake", GOOD.inputs, ()),
    ],
)
def test_broken_metadata_is_caught(metadata, tmp_path):
    suite = Subset()
    suite.broken = lambda: FakeExecutor(metadata=metadata)
    with (
        pytest.raises((AssertionError, ModelLoadError)),
        suite._loaded(suite._context({}, tmp_path)) as driver,
    ):
        suite.test_metadata(driver)


def test_options_that_are_not_checked_are_caught(tmp_path):
    suite = Subset()
    suite.broken = FakeExecutor
    with pytest.raises(pytest.fail.Exception):
        suite.test_bad_options_are_named({"typo": {"typo": 1}}, tmp_path)


def test_option_error_that_names_nothing_is_caught(tmp_path):
    suite = Subset()
    suite.broken = lambda: FakeExecutor(load_error=ModelLoadError("no good"))
    with pytest.raises(AssertionError, match="typo is not named"):
        suite.test_bad_options_are_named({"typo": {"typo": 1}}, tmp_path)


def test_bad_input_that_passes_is_caught(tmp_path):
    suite = Subset()
    suite.broken = FakeExecutor
    with suite._loaded(suite._context({}, tmp_path)) as driver:
        check = suite.test_a_batch_that_fails_says_why_and_the_next_one_succeeds
        with pytest.raises(AssertionError, match="nothing failed"):
            check(driver, np.random.default_rng(1))


@pytest.mark.slow
def test_all_but_the_contract_works_without_pytest():
    code = "import sys, batcher.testing; print('pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
