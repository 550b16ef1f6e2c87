from dataclasses import replace

import pytest

from batcher.errors import ModelLoadError
from batcher.executor import LoadContext
from batcher.runtime.instances.plan import InstancePlan
from batcher.runtime.instances.profiling import measure
from batcher.runtime.instances.sample import WarmupPlan
from batcher.testing import FakeExecutor


class Clock:
    now_ns = 0

    def __call__(self):
        self.now_ns += 1
        return self.now_ns


def plan(fake):
    context = LoadContext("m", "1", 0, "cpu", 8, {})
    return InstancePlan("m/1#0", "m/1", context, lambda: fake, 1, 10**9, WarmupPlan((1,), 16))


async def test_every_size_is_warmed_up_and_then_timed_in_turns():
    fake, calls = FakeExecutor(), []
    measured = await measure(plan(fake), (1, 4), 3, Clock(), lambda: calls.append(1))
    assert list(measured) == [None]
    found = measured[None]
    assert list(found) == [1, 4]
    assert all(len(times) == 3 and min(times) > 0 for times in found.values())
    assert fake.batch_sizes == [1] * 4 + [4] * 4 + [1, 4, 1, 4, 1, 4]
    assert fake.released == 14
    assert fake.calls[-1].method == "close"
    assert len(calls) == 6


async def test_a_batch_that_fails_ends_it():
    fake = FakeExecutor()
    fake.fail_next(ValueError("out of memory"))
    with pytest.raises(ModelLoadError, match="warm-up batch of 1 rows failed"):
        await measure(plan(fake), (1,), 3, Clock(), lambda: None)


async def test_a_later_batch_that_fails_ends_it():
    fake, calls = FakeExecutor(), []

    def break_it():
        calls.append(1)
        fake.fail_next(ValueError("out of memory"))

    with pytest.raises(ModelLoadError, match="m: a batch of 4 rows failed: ValueError: out of mem"):
        await measure(plan(fake), (1, 4), 3, Clock(), break_it)
    assert calls == [1]


async def test_sizes_that_the_backend_does_not_take_are_refused():
    metadata = replace(FakeExecutor().metadata, max_batch_size=4)
    with pytest.raises(ModelLoadError, match="takes batches of at most 4 rows"):
        await measure(plan(FakeExecutor(metadata=metadata)), (1, 4), 3, Clock(), lambda: None)
