"""Workers that do not suit what their executor says of batches are gone before others are made."""

from dataclasses import replace

import pytest

from batcher.clock import SECOND
from batcher.executor import Capabilities, LoadContext, ModelMetadata, TensorSpec
from batcher.runtime.instances.fitted_load import load_fitted
from batcher.runtime.instances.plan import InstancePlan
from batcher.runtime.instances.sample import WarmupPlan


class DoesNotClose:
    """A worker whose executor hangs in `close`."""

    capabilities = Capabilities()

    def __init__(self):
        self.abandoned = False

    async def load(self, context):
        return ModelMetadata("m", (TensorSpec("X", "FP32", (-1, 1)),), (), max_batch_size=4)

    async def close(self, timeout_s):
        raise TimeoutError(f"did not close within {timeout_s:g} s")

    def abandon(self):
        self.abandoned = True


async def test_a_worker_that_does_not_close_is_abandoned():
    context = LoadContext("m", "1", 0, "cpu", 8, {})

    def fit(batches):
        return replace(plan, context=replace(context, max_batch_size=batches.most))

    plan = InstancePlan("m#0", "m/1", context, list, 1, SECOND, WarmupPlan((), 1), fit=fit)
    made = []

    def make():
        made.append(DoesNotClose())
        return made[-1]

    with pytest.raises(TimeoutError):
        await load_fitted(plan, make)
    assert [each.abandoned for each in made] == [True]
