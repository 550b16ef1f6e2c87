"""Every answer is of its own request alone: what is the same is shared, and nothing else."""

import asyncio

import grpc
import numpy as np
import pytest

from batcher.executor import BatchResult, ModelMetadata, TensorSpec
from batcher.testing.messages import infer_request, output_arrays


@pytest.fixture
def transport():
    """One: nothing here depends on it."""
    return "builtin"


async def refusal(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details()


class Held:
    """Requests that wait behind a batch that hangs, and are answered when it is let go."""

    def __init__(self, application, stub, fake, eventually):
        self.application, self.stub, self.fake = application, stub, fake
        self.eventually = eventually

    async def answers(self, first, *requests):
        hang = self.fake.hang_next()
        ahead = asyncio.ensure_future(self.stub.ModelInfer(first))
        await asyncio.to_thread(hang.wait_entered)
        calls = [asyncio.ensure_future(self.stub.ModelInfer(each)) for each in requests]
        there = 1 + len(requests)
        await self.eventually(lambda: self.application.batcher.unanswered == there)
        hang.release()
        await ahead
        return [output_arrays(answer) for answer in await asyncio.gather(*calls)]


@pytest.fixture
def held(start, dial, hello, fakes, eventually):
    """A function from a fake's options (and those of its model) to what holds requests up."""

    async def held(options, **model):
        fakes.options = options
        document = hello(executor="fake", **{"batching": {"policy": "fixed"}} | model)
        document["models"][0].pop("options")
        application = await start(document)
        stub = await dial(application.grpc.addresses[0])
        return Held(application, stub, fakes[0], eventually)

    return held


def with_parameters(request, **parameters):
    for name, value in parameters.items():
        request.parameters[name].string_param = value
    return request


async def test_parameters_separate_only_where_the_executor_reads_them(held, request_of):
    seen = []

    def answer(batch):
        seen.append(dict(batch.parameters))
        return BatchResult({"Y": batch.inputs["X"]})

    specs = (TensorSpec("X", "FP32", (-1, 4)),), (TensorSpec("Y", "FP32", (-1, 4)),)
    metadata = ModelMetadata("fake", *specs, parameters=("mode",))
    runs = await held({"metadata": metadata, "answer": answer})
    requests = [
        with_parameters(request_of(n), trace_id=str(n), mode=mode)
        for n, mode in enumerate(["a", "b"] * 6)
    ]
    answers = await runs.answers(request_of(), *requests)
    assert [each["Y"][0, 0] for each in answers] == list(range(12))
    assert runs.fake.batch_sizes == [1, 6, 6]
    assert seen == [{}, {"mode": "a"}, {"mode": "b"}]


async def test_inputs_that_disagree_on_an_axis_are_refused_before_anything_runs(held):
    inputs = tuple(TensorSpec(n, "INT64", (-1, -1), dims=("n", "seq")) for n in ("ids", "mask"))
    outputs = (TensorSpec("Y", "INT64", (-1, 1)),)
    buckets = [{"input": name, "axis": 1, "buckets": [4, 8]} for name in ("ids", "mask")]
    runs = await held({"metadata": ModelMetadata("fake", inputs, outputs)}, padding=buckets)
    ids, mask = np.ones((1, 6), np.int64), np.ones((1, 5), np.int64)
    code, details = await refusal(
        runs.stub.ModelInfer(infer_request("hello", {"ids": ids, "mask": mask}))
    )
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "'ids' has 6 on axis 1, 'mask' has 5 on axis 1" in details
    assert runs.fake.batch_sizes == []
