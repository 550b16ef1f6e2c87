"""A server whose executor can run certain batch sizes only, and refuses all others."""

import asyncio

import numpy as np
import pytest

from batcher.errors import InvalidRequest, ModelLoadError
from batcher.executor import BatchResult, Capabilities, ExecutionError, ModelMetadata, TensorSpec
from batcher.protocol import inference
from batcher.testing import FakeExecutor

WAIT_S = 20
SIZES = (1, 2, 4, 8)
AXIS = (TensorSpec("X", "FP32", (-1, 4)),), (TensorSpec("Y", "FP32", (-1, 4)),)


def picky(sizes):
    """What an engine for certain sizes does: other batches fail, and the device with them."""

    def answer(batch):
        if batch.rows not in sizes:
            raise ExecutionError(f"no engine for {batch.rows} rows", cause="device")
        return BatchResult({"Y": 2 * batch.inputs["X"]})

    return answer


@pytest.fixture
def serve_sizes(start, hello, fakes):
    """A function from the sizes that the executor names, and settings, to a started application."""

    async def serve(sizes, *, can=None, **model):
        fakes.options = {
            "metadata": ModelMetadata("fake", *AXIS, batch_sizes=sizes),
            "answer": picky(can or sizes),
        }
        server = {"http": "127.0.0.1:0"}
        document = hello(executor="fake", options={}, **({"warmup": {}} | model))
        return await start(document | {"server": server})

    return serve


async def test_every_batch_has_a_size_that_can_run(serve_sizes, fakes, dial, request_of, scrape):
    application = await serve_sizes(SIZES)
    (model,) = application.models
    (fake,) = fakes[1:]  # the first was loaded with the default of 32 rows
    assert fake.context.max_batch_size == model.max_batch_size == 8
    warmed = len(fake.batch_sizes)
    assert set(fake.batch_sizes) == set(SIZES), "the warm-up"
    stub = await dial(application.grpc.addresses[0])
    requests = [request_of(float(n), rows=1 + n % 11) for n in range(60)]
    answers = await asyncio.gather(*[stub.ModelInfer(each, timeout=WAIT_S) for each in requests])
    for n, answer in enumerate(answers):
        assert answer.outputs[0].shape == [1 + n % 11, 4]
        values = np.frombuffer(answer.raw_output_contents[0], np.float32)
        assert set(values.tolist()) == {2.0 * n}
    assert set(fake.batch_sizes) <= set(SIZES)
    metrics = await scrape(application.http.address)
    own = metrics.sum("batcher_batch_elements_total", kind="request")
    padding = metrics.sum("batcher_batch_elements_total", kind="padding")
    assert own == 4 * sum(1 + n % 11 for n in range(60))
    assert own + padding == 4 * sum(fake.batch_sizes[warmed:])
    assert metrics.sum("batcher_batch_rows_sum") == own / 4


async def test_one_row_is_filled_up_and_the_filling_counted(
    serve_sizes, fakes, dial, request_of, scrape
):
    application = await serve_sizes((4, 16), warmup={"batch_sizes": []})
    stub = await dial(application.grpc.addresses[0])
    answer = await stub.ModelInfer(request_of(3.0), timeout=WAIT_S)
    assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [6.0] * 4
    assert fakes[-1].batch_sizes == [4]
    fakes[-1].fail_rows_next({1: "a row that no request has", 3: "another"})
    assert await stub.ModelInfer(request_of(3.0), timeout=WAIT_S) == answer
    metrics = await scrape(application.http.address)
    assert metrics.sum("batcher_batch_elements_total", kind="request") == 2 * 4
    assert metrics.sum("batcher_batch_elements_total", kind="padding") == 2 * 3 * 4


async def test_the_configuration_chooses_among_the_executors_sizes(
    serve_sizes, fakes, dial, request_of
):
    application = await serve_sizes(SIZES, can=(2, 8), batching={"batch_sizes": [2, 8]})
    assert fakes[-1].context.batch_sizes == (2, 8)
    stub = await dial(application.grpc.addresses[0])
    await stub.ModelInfer(request_of(rows=3), timeout=WAIT_S)
    await stub.ModelInfer(request_of(), timeout=WAIT_S)
    assert fakes[-1].batch_sizes[-2:] == [8, 2]
    config = (await stub.ModelConfig(inference.ModelConfigRequest(name="hello"))).config
    assert config.max_batch_size == 8
    assert config.parameters["batch_sizes"].string_value == "2,8"


async def test_an_executor_that_names_no_sizes_gets_the_configured_ones(
    serve_sizes, fakes, dial, request_of
):
    application = await serve_sizes((), can=(1, 6), batching={"batch_sizes": [1, 6]})
    stub = await dial(application.grpc.addresses[0])
    await stub.ModelInfer(request_of(rows=2), timeout=WAIT_S)
    assert fakes[-1].context.batch_sizes == (1, 6)
    assert fakes[-1].batch_sizes[-1] == 6
    assert len(fakes) == 1


@pytest.mark.parametrize(
    ("batching", "said"),
    [
        (
            {"batch_sizes": [1, 16]},
            r"batching.batch_sizes: got 16; allowed: sizes among 1, 2, 4, 8",
        ),
        ({"max_batch_size": 5}, r"batching.max_batch_size: got 5; allowed: one of 1, 2, 4, 8"),
        ({"max_batch_size": 0}, r"without a batch axis\); allowed: one of 1, 2, 4, 8"),
    ],
)
async def test_a_load_names_both_sides_where_they_disagree(serve_sizes, batching, said):
    with pytest.raises(ModelLoadError, match=said):
        await serve_sizes(SIZES, batching=batching)


async def test_an_executor_that_names_wrong_sizes_is_not_loaded(serve_sizes):
    with pytest.raises(ModelLoadError, match="the executor's batch_sizes: got 4, 2; allowed: asc"):
        await serve_sizes((4, 2))


async def test_the_most_rows_change_in_place_among_the_sizes(serve_sizes, fakes, dial, request_of):
    application = await serve_sizes(SIZES)
    (model,) = application.models
    live = application.live_settings
    await live.update("hello", "", {"batching.max_batch_size": "4"})
    assert (model.settings.max_batch_size, model.settings.batch_sizes) == (4, (1, 2, 4))
    stub = await dial(application.grpc.addresses[0])
    await stub.ModelInfer(request_of(rows=7), timeout=WAIT_S)
    assert fakes[-1].batch_sizes[-2:] == [4, 4]
    with pytest.raises(InvalidRequest, match="got 3; allowed: one of 1, 2, 4, 8, the batch sizes"):
        await live.update("hello", "", {"batching.max_batch_size": "3"})
    with pytest.raises(
        InvalidRequest, match=r"batching.batch_sizes: a change loads the model again"
    ):
        await live.update("hello", "", {"batching.batch_sizes": "[1, 4]"})
    assert len(fakes) == 2


async def test_full_batches_stay_full_when_settings_change(
    serve_sizes, monkeypatch, dial, request_of, fakes
):
    monkeypatch.setattr(FakeExecutor, "capabilities", Capabilities(dynamic_rows=False))
    application = await serve_sizes((), can=(8,), batching={"max_batch_size": 8})
    (model,) = application.models
    assert model.settings.batch_sizes == (8,)
    with pytest.raises(InvalidRequest, match="got 4; allowed: one of 8, the batch sizes"):
        await application.live_settings.update("hello", "", {"batching.max_batch_size": "4"})
    stub = await dial(application.grpc.addresses[0])
    await stub.ModelInfer(request_of(), timeout=WAIT_S)
    assert set(fakes[-1].batch_sizes) == {8}


@pytest.mark.parametrize(
    ("policy", "isolation"),
    [
        ("adaptive", "thread"),
        ("fixed", "thread"),
        ("none", "thread"),
        ("adaptive", "inline"),
        ("adaptive", "process"),
    ],
)
async def test_emulated_runs_the_sizes_of_the_configuration(
    start, hello, dial, request_of, policy, isolation
):
    batching = {"policy": policy, "batch_sizes": [2, 4, 16]}
    application = await start(hello(batching=batching, base="1ms", isolation=isolation))
    stub = await dial(application.grpc.addresses[0])
    requests = [request_of(float(n)) for n in range(40)]
    answers = await asyncio.gather(*[stub.ModelInfer(each, timeout=WAIT_S) for each in requests])
    for n, answer in enumerate(answers):
        values, sizes = (
            np.frombuffer(raw, kind)
            for raw, kind in zip(answer.raw_output_contents, (np.float32, np.int32), strict=True)
        )
        assert values.tolist() == [2.0 * n] * 4
        assert set(sizes.tolist()) <= {2, 4, 16}
