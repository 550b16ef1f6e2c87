"""Requests of different lengths to a padded model, over the wire."""

import asyncio
from dataclasses import replace

import grpc
import numpy as np
import pytest

from batcher.errors import ModelLoadError
from batcher.executor import BatchResult, ModelMetadata, TensorSpec
from batcher.runtime.interface.padding_rules import AxisRule, PaddingRules
from batcher.testing.messages import infer_request, output_arrays

METADATA = ModelMetadata(
    "fake",
    (
        TensorSpec("ids", "INT64", (-1, -1), dims=(None, "seq")),
        TensorSpec("mask", "INT64", (-1, -1), dims=(None, "seq")),
        TensorSpec("scale", "FP32", (-1, 1)),
    ),
    (
        TensorSpec("scaled", "FP32", (-1, -1), dims=(None, "seq")),
        TensorSpec("sums", "INT64", (-1, 1)),
        TensorSpec("length", "INT64", (-1, 1)),
    ),
)
PADDING = [{"input": name, "axis": 1, "value": 0, "buckets": [4, 8]} for name in ("ids", "mask")]


def answer(batch):
    ids, mask = batch.inputs["ids"], batch.inputs["mask"]
    return BatchResult(
        {
            "scaled": ids.astype(np.float32) * batch.inputs["scale"],
            "sums": (ids * mask).sum(axis=1, keepdims=True),
            "length": np.full((len(ids), 1), ids.shape[1]),
        }
    )


@pytest.fixture
def document(hello, fakes):
    fakes.options = {"metadata": METADATA, "answer": answer}
    config = hello(
        executor="fake", padding=PADDING, batching={"policy": "fixed"}, warmup={"batch_sizes": [1]}
    )
    config["models"][0].pop("options")
    return config


def request(length, *, rows=1, start=0):
    ids = start + np.arange(rows * length, dtype=np.int64).reshape(rows, length)
    scale = np.full((rows, 1), 0.5, np.float32)
    return ids, infer_request("hello", {"ids": ids, "mask": np.ones_like(ids), "scale": scale})


async def test_each_caller_gets_its_own_rows_in_its_own_shape(
    start, dial, fakes, document, eventually
):
    application = await start(document)
    stub = await dial(application.grpc.addresses[0])
    hang = fakes[0].hang_next()
    first = asyncio.ensure_future(stub.ModelInfer(request(1)[1]))
    await asyncio.to_thread(hang.wait_entered)
    sent = [request(n % 8 + 1, rows=n % 3 + 1, start=1000 * n) for n in range(12)]
    calls = [asyncio.ensure_future(stub.ModelInfer(message)) for _, message in sent]
    await eventually(lambda: application.batcher.unanswered == 13)
    hang.release()
    await first
    for (ids, _), reply in zip(sent, await asyncio.gather(*calls), strict=True):
        outputs = output_arrays(reply)
        assert outputs["scaled"].tolist() == (ids * 0.5).tolist()
        assert outputs["sums"][:, 0].tolist() == ids.sum(axis=1).tolist()
        assert outputs["length"][0, 0] in {4, 8}
        assert outputs["length"][0, 0] >= ids.shape[1]
    assert len(fakes[0].batch_sizes) < 2 * 4 + 13, "the warm-up of two buckets, and few batches"


async def test_a_longer_request_is_refused_with_the_longest_length(start, dial, document):
    application = await start(document)
    stub = await dial(application.grpc.addresses[0])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(request(9)[1])
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (
        "length 9 on axis 1; allowed: at most 8, the largest bucket (padding)"
        in caught.value.details()
    )


async def test_padding_shows_in_the_metrics(start, dial, document, scrape):
    document["server"] = {"http": "127.0.0.1:0"}
    application = await start(document)
    stub = await dial(application.grpc.addresses[0])
    await stub.ModelInfer(request(3, rows=2)[1])
    metrics = await scrape(application.http.address)
    elements = "batcher_batch_elements_total"
    assert metrics.sum(elements, kind="request") == 2 * 2 * 3
    assert metrics.sum(elements, kind="padding") == 2 * 2 * 1


async def test_rules_that_do_not_fit_the_model_stop_the_start(start, document):
    scale = {"input": "scale", "axis": 1, "buckets": [4]}
    document["models"][0]["padding"] = [*PADDING, scale]
    with pytest.raises(ModelLoadError, match=r"models\[0\]\.padding\[2\]\.axis: got 1; allowed"):
        await start(document)


async def test_an_output_of_another_length_fails_only_the_batch(start, dial, fakes, document):
    application = await start(document)
    stub = await dial(application.grpc.addresses[0])

    def shorter(batch):
        outputs = answer(batch).outputs
        return BatchResult({**outputs, "scaled": outputs["scaled"][:, :-1]})

    fakes[0].answer_next(shorter)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(request(3)[1])
    assert "'scaled'" in caught.value.details()
    assert "axis 1 should be 4 long" in caught.value.details()
    reply = await stub.ModelInfer(request(3)[1])
    assert output_arrays(reply)["scaled"].shape == (1, 3)


async def test_new_rules_apply_from_the_next_request(start, dial, fakes, document, eventually):
    application = await start(document)
    stub = await dial(application.grpc.addresses[0])
    (model,) = application.models
    hang = fakes[0].hang_next()
    before = asyncio.ensure_future(stub.ModelInfer(request(3)[1]))
    await asyncio.to_thread(hang.wait_entered)
    waits = asyncio.ensure_future(stub.ModelInfer(request(5)[1]))
    await eventually(lambda: application.batcher.unanswered == 2)
    axes = tuple(AxisRule(name, 1, 0, (6, 12)) for name in ("ids", "mask"))
    model.configure(model.settings, PaddingRules(axes, (), "models[0]."))
    hang.release()
    replies = [await before, await waits, await stub.ModelInfer(request(12)[1])]
    outputs = [output_arrays(reply) for reply in replies]
    assert [each["scaled"].shape for each in outputs] == [(1, 3), (1, 5), (1, 12)]
    assert [each["length"][0, 0] for each in outputs] == [4, 6, 12]
    with pytest.raises(ModelLoadError, match="scale"):
        model.configure(
            model.settings, PaddingRules((*axes, AxisRule("scale", 1, 0, (4,))), (), "models[0].")
        )
    assert (await stub.ModelInfer(request(12)[1])) is not None
    model.configure(model.settings, PaddingRules((), (), "models[0]."))
    plain = output_arrays(await stub.ModelInfer(request(13)[1]))
    assert plain["length"][0, 0] == 13


async def test_other_settings_leave_the_padding_as_it_is(start, dial, document):
    application = await start(document)
    stub = await dial(application.grpc.addresses[0])
    (model,) = application.models
    model.configure(replace(model.settings, max_batch_size=16))
    outputs = output_arrays(await stub.ModelInfer(request(3)[1]))
    assert outputs["scaled"].shape == (1, 3)
    assert outputs["length"][0, 0] == 4
    with pytest.raises(grpc.aio.AioRpcError, match="the largest bucket"):
        await stub.ModelInfer(request(9)[1])
