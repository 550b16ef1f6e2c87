import statistics
import time

import numpy as np
import pytest

from batcher.clock import MILLISECOND
from batcher.errors import ModelLoadError
from batcher.executor import Batch, LoadContext, Pipelines
from batcher.executors.emulated import EmulatedExecutor, EmulatedOptions
from batcher.testing import ExecutorContract


def loaded(*, instance=0, device="gpu0", **options):
    executor = EmulatedExecutor()
    executor.load(LoadContext("m", "1", instance, device, 32, options))
    return executor


def batch(rows, columns=16):
    return Batch({"X": np.ones((rows, columns), np.float32)}, rows)


class TestContract(ExecutorContract):
    def make_executor(self):
        return EmulatedExecutor()

    def make_inputs(self, rows, rng):
        return {"X": rng.standard_normal((rows, 3), np.float32)}

    def batch_dependent(self):
        return {"BATCH"}

    @pytest.fixture
    def options(self):
        return {"columns": 3}

    @pytest.fixture
    def bad_options(self):
        return {
            "base": {"base": 5},
            "per_row": {"per_row": "5 parsecs"},
            "copy": {"copy": 5},
            "copy_per_row": {"copy_per_row": "5 parsecs"},
            "jitter": {"jitter": 1.5},
            "columns": {"columns": 0},
            "seed": {"seed": "x"},
            "perrow": {"perrow": "5ms"},
        }


class TestPipelinedContract(TestContract):
    @pytest.fixture
    def options(self):
        return {"columns": 3, "copy": "0.1ms", "base": "0.1ms"}


def test_answer_is_twice_the_input_and_the_batch_size():
    result = loaded(columns=2).execute(Batch({"X": np.array([[1, 2], [3, 4]], np.float32)}, 2))
    np.testing.assert_array_equal(result.outputs["Y"], [[2, 4], [6, 8]])
    np.testing.assert_array_equal(result.outputs["BATCH"], [[2], [2]])


def test_cost_is_base_and_rows():
    options = EmulatedOptions.model_validate({"base": "5ms", "per_row": "0.5ms"})
    assert options.cost_ns(1) == 5_500_000
    assert options.cost_ns(32) == 21_000_000


def test_default_costs_nothing_and_never_sleeps(monkeypatch):
    executor = loaded()
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("slept"))
    assert executor.execute(batch(3)).outputs["Y"].shape == (3, 16)


class Clock:
    """A time that only sleeping moves. Devices outlive a test, so it goes on in the next one."""

    now_ns = 1

    def sleep(self, seconds):
        Clock.now_ns += round(seconds * 1e9)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "sleep", clock.sleep)
    monkeypatch.setattr(time, "monotonic_ns", lambda: Clock.now_ns)
    return clock


def slept(executor, rows):
    """What a batch costs."""
    began_ns = Clock.now_ns
    executor.execute(batch(rows))
    return Clock.now_ns - began_ns


@pytest.mark.usefixtures("clock")
def test_sleeps_for_its_cost():
    assert slept(loaded(device="faked", base="5ms", per_row="1ms"), 3) == 8 * MILLISECOND


@pytest.mark.usefixtures("clock")
def test_jitter_is_bounded_seeded_and_different_for_each_instance():
    def costs(**options):
        executor = loaded(device="faked", base="10ms", jitter=0.2, **options)
        return [slept(executor, 1) for _ in range(200)]

    first = costs(seed=1)
    assert first == costs(seed=1)
    assert first != costs(seed=2)
    assert first != costs(seed=1, instance=1)
    assert 8 * MILLISECOND <= min(first) < max(first) <= 12 * MILLISECOND
    assert abs(statistics.mean(first) - 10 * MILLISECOND) < MILLISECOND // 2


def test_a_batch_is_never_early():
    executor = loaded(base="2ms")
    for _ in range(5):
        started_ns = time.monotonic_ns()
        executor.execute(batch(1))
        assert time.monotonic_ns() - started_ns >= 2 * MILLISECOND


@pytest.mark.usefixtures("clock")
def test_instances_take_turns_on_one_device():
    first, second = (loaded(device="faked", base="2ms", copy="1ms") for _ in range(2))
    began_ns = Clock.now_ns
    handles = [each.submit(batch(1)) for each in (first, second)]
    assert Clock.now_ns - began_ns == 2 * MILLISECOND
    # In the order in which they asked, whichever is waited for first.
    second.collect(handles[1])
    assert Clock.now_ns - began_ns == 5 * MILLISECOND
    first.collect(handles[0])
    assert Clock.now_ns - began_ns == 5 * MILLISECOND


@pytest.mark.usefixtures("clock")
def test_devices_execute_at_the_same_time():
    executors = [loaded(device=device, base="3ms", copy="1ms") for device in ("faked", "other")]
    began_ns = Clock.now_ns
    handles = [each.submit(batch(1)) for each in executors]
    for each, handle in zip(executors, handles, strict=True):
        each.collect(handle)
    assert Clock.now_ns - began_ns == 5 * MILLISECOND


@pytest.mark.usefixtures("clock")
def test_a_batch_is_copied_while_another_is_computed():
    options = {"base": "3ms", "per_row": "0.5ms", "copy": "1ms", "copy_per_row": "0.25ms"}
    executor = loaded(device="faked", **options)
    assert slept(executor, 4) == 7 * MILLISECOND
    began_ns = Clock.now_ns
    first, second = executor.submit(batch(4)), executor.submit(batch(4))
    assert Clock.now_ns - began_ns == 4 * MILLISECOND
    assert executor.collect(first).outputs["BATCH"].tolist() == [[4]] * 4
    assert Clock.now_ns - began_ns == 7 * MILLISECOND
    executor.collect(second)
    assert Clock.now_ns - began_ns == 12 * MILLISECOND


def test_only_copies_are_worth_pipelining():
    assert isinstance(loaded(copy="1ms"), Pipelines)
    assert isinstance(loaded(copy_per_row="1ms"), Pipelines)
    assert not isinstance(loaded(base="1ms"), Pipelines)


def test_all_wrong_options_are_reported_at_once():
    with pytest.raises(ModelLoadError) as caught:
        loaded(base=5, columnz=3)
    message = str(caught.value)
    assert "model 'm'" in message
    assert "option base: got 5" in message
    assert "option columnz: unknown key; did you mean columns?" in message
