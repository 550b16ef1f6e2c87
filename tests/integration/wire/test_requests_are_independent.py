"""Every answer depends on its own request alone."""

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


WIDE = ModelMetadata(
    "fake", (TensorSpec("X", "FP32", (-1, 4)),), (TensorSpec("Y", "FP32", (-1, -1)),)
)


async def test_parts_of_different_widths_cannot_be_joined_and_no_call_hangs(held, request_of):
    def answer(batch):
        width = int(batch.inputs["X"][0, 0])
        return BatchResult({"Y": np.ones((batch.rows, width), np.float32)})

    batching = {"policy": "fixed", "max_batch_size": 2}
    runs = await held({"metadata": WIDE, "answer": answer}, batching=batching)
    wider = np.repeat(np.arange(1, 5, dtype=np.float32)[:, np.newaxis], 4, axis=1)
    code, details = await refusal(runs.stub.ModelInfer(infer_request("hello", {"X": wider})))
    assert code is grpc.StatusCode.INTERNAL
    assert "output 'Y' has different shapes in them, [-1, 1] and [-1, 3]" in details
    same = await runs.stub.ModelInfer(request_of(3.0, rows=4))
    assert output_arrays(same)["Y"].shape == (4, 3)
    assert runs.application.batcher.unanswered == 0


async def test_the_outputs_of_others_do_not_decide_whether_nan_fails_a_request(held):
    names = ("Y", "Z")
    outputs = tuple(TensorSpec(name, "FP32", (-1, 4)) for name in names)
    metadata = ModelMetadata("fake", WIDE.inputs, outputs)

    def answer(batch):
        nan = np.full((batch.rows, 4), np.nan, np.float32)
        return BatchResult({"Y": batch.inputs["X"], "Z": nan})

    runs = await held({"metadata": metadata, "answer": answer}, on_nan="fail")

    def asking(*wanted):
        arrays = {"X": np.ones((1, 4), np.float32)}
        request = infer_request("hello", arrays)
        for name in wanted:
            request.outputs.add(name=name)
        return request

    hang = runs.fake.hang_next()
    ahead = asyncio.ensure_future(runs.stub.ModelInfer(asking("Y")))
    await asyncio.to_thread(hang.wait_entered)
    calls = [runs.stub.ModelInfer(asking(*wanted)) for wanted in (["Y"], ["Z"], [])]
    ends = asyncio.gather(*calls, return_exceptions=True)
    await runs.eventually(lambda: runs.application.batcher.unanswered == 4)
    hang.release()
    await ahead
    only_y, only_z, both = await ends
    assert runs.fake.batch_sizes == [1, 3]
    assert output_arrays(only_y)["Y"].tolist() == [[1.0] * 4]
    assert only_z.code() is both.code() is grpc.StatusCode.INVALID_ARGUMENT
