import threading

import numpy as np
import pytest

from batcher.executor import Batch, BatchResult, LoadContext
from batcher.testing import FakeExecutor, ManualClock

BATCH = Batch({"X": np.ones((2, 2), np.float32)}, 2)


def test_fake_answers_and_records():
    fake = FakeExecutor()
    fake.load(LoadContext("m", "1", 0, "cpu", 8, {}))
    result = fake.execute(BATCH)
    np.testing.assert_array_equal(result.outputs["Y"], [[2, 2], [2, 2]])
    assert fake.released == 0
    result.release()
    assert fake.released == 1
    fake.close()
    assert [call.method for call in fake.calls] == ["load", "execute", "close"]
    assert fake.batch_sizes == [2]
    assert {call.thread for call in fake.calls} == {threading.get_ident()}


def test_fake_follows_its_script_in_order():
    fake = FakeExecutor()
    fake.fail_next(ValueError("first"))
    fake.nan_next()
    fake.fail_rows_next({1: "second row"})
    fake.answer_next(lambda batch: BatchResult({"Y": np.zeros(1)}))
    with pytest.raises(ValueError, match="first"):
        fake.execute(BATCH)
    assert np.isnan(fake.execute(BATCH).outputs["Y"]).all()
    assert fake.execute(BATCH).row_errors == {1: "second row"}
    assert fake.execute(BATCH).outputs["Y"].shape == (1,)
    np.testing.assert_array_equal(fake.execute(BATCH).outputs["Y"], 2)


def test_fake_releases_what_a_scripted_answer_holds():
    held = []
    fake = FakeExecutor()
    fake.answer_next(lambda batch: BatchResult({}, release=lambda: held.append("freed")))
    fake.execute(BATCH).release()
    assert held == ["freed"]


def test_hang_lasts_until_it_is_released():
    fake = FakeExecutor()
    hang = fake.hang_next()
    outputs = []
    thread = threading.Thread(target=lambda: outputs.append(fake.execute(BATCH)))
    thread.start()
    hang.wait_entered()
    assert outputs == []
    hang.release()
    thread.join(10)
    assert len(outputs) == 1


def test_a_hang_that_is_never_entered_is_noticed():
    with pytest.raises(TimeoutError):
        FakeExecutor().hang_next().wait_entered(0.001)


def test_manual_clock_moves_only_forwards_and_only_when_advanced():
    clock = ManualClock(5)
    assert clock() == clock() == 5
    assert clock.advance(3) == clock() == 8
    with pytest.raises(ValueError, match="never goes back"):
        clock.advance(-1)
