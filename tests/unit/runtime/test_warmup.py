"""The warm-up of a padded model: every bucket, the outermost first, and never for too long."""

import asyncio

import pytest

from batcher.clock import SECOND, monotonic_ns
from batcher.executor import LoadContext, ModelMetadata, TensorSpec
from batcher.runtime import warmup
from batcher.runtime.dispatch import output_datatypes
from batcher.runtime.padding import AxisRule, PaddingRules, resolve
from batcher.runtime.warmup import TIMED_BATCHES, WarmupPlan, warm_up_buckets
from batcher.runtime.workers import make_worker
from batcher.testing import FakeExecutor

METADATA = ModelMetadata(
    "fake",
    (TensorSpec("X", "FP32", (-1, -1, -1), dims=("n", "a", "b")),),
    (TensorSpec("Y", "FP32", (-1, -1, -1), dims=("n", "a", "b")),),
)
RULES = PaddingRules((AxisRule("X", 1, 0, (2, 4, 6, 8)),), (), "models[0].")


@pytest.fixture
def warm_up():
    """`warm_up(sizes)`: the profiles of the buckets of a fake, and the shapes of its batches."""

    async def call(*sizes):
        fake = FakeExecutor(metadata=METADATA)
        worker = make_worker(fake, "fake", asyncio.get_running_loop(), monotonic_ns)
        metadata = await worker.load(LoadContext("m", "1", 0, "cpu", 8, {}))
        profiles = await warm_up_buckets(
            worker,
            "m",
            metadata,
            output_datatypes(metadata),
            WarmupPlan(sizes, 3),
            resolve("m", RULES, metadata),
        )
        await worker.close(5.0)
        shapes = [call.batch.inputs["X"].shape for call in fake.calls if call.batch is not None]
        return profiles, shapes

    return call


async def test_every_bucket_the_largest_and_the_smallest_first(warm_up):
    profiles, shapes = await warm_up(1, 4)
    assert [bucket for bucket, _ in profiles] == [((n, 3),) for n in (8, 2, 4, 6)]
    assert [[rows for rows, _ in profile] for _, profile in profiles] == [[1, 4]] * 4
    each = 1 + TIMED_BATCHES
    assert shapes[: 2 * each] == [(1, 8, 3)] * each + [(4, 8, 3)] * each


async def test_no_sizes_no_warm_up(warm_up):
    assert await warm_up() == ((), [])


async def test_after_so_long_no_further_bucket_is_begun(warm_up, monkeypatch):
    clock = iter(range(0, 10_000 * SECOND, SECOND))
    monkeypatch.setattr(warmup, "monotonic_ns", lambda: next(clock))
    monkeypatch.setattr(warmup, "BUCKETS_NS", 6 * SECOND)
    profiles, shapes = await warm_up(1)
    # A look at the clock at the start, before each bucket, and three for a bucket of one size.
    assert [bucket for bucket, _ in profiles] == [((8, 3),), ((2, 3),)]
    assert len(shapes) == 4, "a size that has taken its time is not timed again"
