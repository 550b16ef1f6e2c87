import statistics
import threading
import time

import numpy as np
import pytest

from batcher.clock import MILLISECOND
from batcher.errors import ModelLoadError
from batcher.executor import Batch, LoadContext
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
            "jitter": {"jitter": 1.5},
            "columns": {"columns": 0},
            "seed": {"seed": "x"},
            "perrow": {"perrow": "5ms"},
        }


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


def slept(monkeypatch, executor, rows):
    """What a batch costs: the time it slept for and the time it worked for."""
    asked = []
    monkeypatch.setattr(time, "sleep", asked.append)
    monkeypatch.setattr(time, "monotonic_ns", lambda: 7)
    executor.execute(batch(rows))
    monkeypatch.undo()
    return round(sum(asked) * 1e9)


def test_sleeps_for_its_cost(monkeypatch):
    assert slept(monkeypatch, loaded(base="5ms", per_row="1ms"), 3) == 8 * MILLISECOND


def test_jitter_is_bounded_seeded_and_different_for_each_instance(monkeypatch):
    def costs(**options):
        executor = loaded(base="10ms", jitter=0.2, **options)
        return [slept(monkeypatch, executor, 1) for _ in range(200)]

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


def execute_together(executors):
    threads = [threading.Thread(target=e.execute, args=(batch(1),)) for e in executors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_instances_take_turns_on_one_device(monkeypatch):
    busy, most = 0, 0
    never = threading.Event()

    def sleep(_):
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        # Leaves the other instance time to come in, were it allowed to.
        never.wait(0.02)
        busy -= 1

    monkeypatch.setattr(time, "sleep", sleep)
    execute_together([loaded(device="gpu0", base="1ms") for _ in range(2)])
    assert most == 1


def test_devices_execute_at_the_same_time(monkeypatch):
    both = threading.Barrier(2, timeout=10)
    passed = []
    monkeypatch.setattr(time, "sleep", lambda _: passed.append(both.wait()))
    execute_together([loaded(device=device, base="1s") for device in ("gpu0", "gpu1")])
    assert sorted(passed) == [0, 1]


def test_all_wrong_options_are_reported_at_once():
    with pytest.raises(ModelLoadError) as caught:
        loaded(base=5, columnz=3)
    message = str(caught.value)
    assert "model 'm'" in message
    assert "option base: got 5" in message
    assert "option columnz: unknown key; did you mean columns?" in message
