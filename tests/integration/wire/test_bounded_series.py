"""However many names callers make up, the number of series stays."""

import asyncio

import numpy as np
import pytest

from batcher.errors import RequestError
from batcher.runtime.request import InferenceRequest
from batcher.tensors import Tensor

pytestmark = pytest.mark.slow

MANY = 10_000

ONCE_KNOWN = {
    ("batcher_desired_ratio",),
    ("batcher_device_load_ratio", ("device", "cpu")),
    ("batcher_device_headroom_ratio", ("device", "cpu")),
    ("batcher_model_load_ratio", ("device", "cpu"), ("model", "hello"), ("version", "1")),
}
"""Series that are absent until there has been some load."""


async def test_names_that_callers_make_up_are_no_series(start, hello):
    application = await start(hello(queue={"tenants": {"gold": 2}, "max_requests": 10 * MANY}))
    batcher, registry = application.batcher, application.registry

    inputs = {"X": Tensor("FP32", np.ones((1, 4), np.float32))}

    def request(number, model="hello", version="", **fields):
        fields = {"tenant": f"tenant-{number}", "id": f"id-{number}", **fields}
        return InferenceRequest(
            model, arrival_ns=0, version=version, **({"inputs": inputs} | fields)
        )

    def series():
        return {
            (sample.name, *sorted(sample.labels.items()))
            for metric in registry.collect()
            for sample in metric.samples
        }

    async def send(number):
        metadata = ((f"x-caller-{number}", "me"),)
        await batcher.infer(request(number, metadata=metadata))
        for unknown in (request(number, f"model-{number}"), request(number, version=f"v{number}")):
            with pytest.raises(RequestError):
                await batcher.infer(unknown)
        with pytest.raises(RequestError):
            await batcher.infer(request(number, inputs={f"input-{number}": inputs["X"]}))

    await send(0)
    before = series()
    for first in range(1, MANY, 500):
        await asyncio.gather(*(send(number) for number in range(first, first + 500)))
    assert series() | ONCE_KNOWN == before | ONCE_KNOWN
    labels = {"model": "hello", "version": "1", "tenant": "other", "outcome": "ok"}
    assert registry.get_sample_value("batcher_tenant_requests_total", labels) > MANY
