"""What follows from the service times of a model's buckets."""

import pytest

from batcher.clock import MILLISECOND
from batcher.core.bucket_times import BucketTimes
from batcher.core.settings import Adaptive, ModelSettings

MS = MILLISECOND


@pytest.fixture
def times():
    return BucketTimes(ModelSettings(1, Adaptive(), target_ns=50 * MS), lambda _: 1)


def test_the_best_rate_follows_a_batch_that_takes_less_and_is_copied_for_longer(times):
    times.seed((), [(1, 4 * MS)], [(1, 2 * MS)])
    assert times.best_rate() == 1 / (4 * MS)
    times.seed((), [(1, 2 * MS)], [(1, 4 * MS)])
    [only] = times.values()
    assert only.alone[1] == 6 * MS  # as before
    assert times.best_rate() == 1 / (3 * MS)
    assert times.cost_ns((), 1) == 3 * MS
