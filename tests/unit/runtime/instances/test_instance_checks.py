"""When a question that an instance has not answered counts as a hang."""

import asyncio

import pytest

from batcher.clock import SECOND
from batcher.executor import LoadContext, ModelMetadata, TensorSpec
from batcher.runtime.instances.health_checks import HealthCheckPlan
from batcher.runtime.instances.instance_checks import instance_checks
from batcher.runtime.instances.plan import InstancePlan
from batcher.runtime.instances.sample import WarmupPlan
from batcher.runtime.interface.layout import Layout


class SilentChild:
    """A child that was asked at 0, and has not answered."""

    asks = True
    asked_ns = 1
    lost = line = None

    async def healthy(self, timeout_s):
        return f"no answer within {timeout_s:g} s"


@pytest.mark.parametrize(
    ("busy", "now_s", "limit"),
    [
        (False, 5, None),
        (False, 7, "health.interval and health.timeout"),
        # What runs comes before the answer, and may take execute_timeout.
        (True, 7, None),
        (True, 119, None),
        (True, 121, "twice execute_timeout"),
    ],
)
async def test_a_batch_that_runs_comes_before_the_answer_of_a_child(busy, now_s, limit):
    said, told = [], asyncio.Event()
    plan = InstancePlan(
        "m#0",
        "m/1",
        LoadContext("m", "1", 0, "cpu", 8, {}),
        list,
        1,
        60 * SECOND,
        WarmupPlan((), 1),
        checks=HealthCheckPlan(interval_ns=5 * SECOND, timeout_ns=SECOND),
    )
    checks = instance_checks(
        SilentChild(),
        ModelMetadata("m", (TensorSpec("X", "FP32", (-1, 1)),), ()),
        Layout(),
        None,
        plan,
        lambda: now_s * SECOND,
        idle=lambda: not busy,
        changed=told.set,
        hung=lambda *what: said.append(what[2]),
        restart=said.append,
    )
    checks.why = "it said so before"  # such an instance is asked while it runs batches, too
    await checks._check()
    assert told.is_set()
    assert said == ([] if limit is None else [limit])
