"""Requests that make their batch fail, and requests that fit no batch, over the wire."""

import asyncio

import grpc
import numpy as np
import pytest
from grpc import aio

from batcher.executor import ExecutionError
from batcher.testing import nan_on, raise_on
from batcher.testing.fakes import double
from batcher.testing.messages import infer_request, output_arrays

BAD_VALUE = 13.0
INTERNAL = grpc.StatusCode.INTERNAL


@pytest.fixture
async def together(start, hello, fakes, dial, request_of, eventually):
    """Sends requests of these values so that all are in one batch; returns their ends in order."""

    async def run(values, answer, **model):
        fakes.options["answer"] = answer
        document = hello(executor="fake", options={}, **model)
        application = await start(document)
        stub = await dial(application.grpc.addresses[0])
        hang = fakes[0].hang_next()
        first = stub.ModelInfer(request_of(0.0))
        await asyncio.to_thread(hang.wait_entered)
        calls = [stub.ModelInfer(request_of(value)) for value in values]
        await eventually(lambda: application.batcher.unanswered == len(values) + 1)
        hang.release()
        await first
        return application, await asyncio.gather(*calls, return_exceptions=True)

    return run


def check(values, ends, text, code=INTERNAL):
    for value, end in zip(values, ends, strict=True):
        if value == BAD_VALUE:
            assert isinstance(end, aio.AioRpcError)
            assert end.code() is code
            assert text in end.details()
        else:
            assert (output_arrays(end)["Y"] == 2 * value).all()


async def test_a_request_that_makes_the_executor_raise_fails_alone(together, fakes):
    values = [1.0, 2.0, 3.0, BAD_VALUE, 5.0, 6.0, 7.0, 8.0]

    application, ends = await together(values, raise_on(BAD_VALUE))

    check(values, ends, "ValueError: a value that fails")
    assert fakes[0].batch_sizes[:2] == [1, 8]
    extra = len(fakes[0].batch_sizes) - 2
    assert extra < 2 * 3 + 1
    labels = {"model": "hello", "version": "1"}
    value = application.registry.get_sample_value
    assert value("batcher_bisections_total", labels) == 1
    # The half that was cleared ran like any other batch.
    assert value("batcher_bisection_executions_total", labels) == extra - 1
    assert value("batcher_failure_storm", labels) == 0


async def test_a_request_with_nan_fails_alone_and_nothing_is_run_again(together, fakes):
    values = [1.0, BAD_VALUE, 3.0, 4.0]

    _, ends = await together(values, nan_on(BAD_VALUE), on_nan="fail")

    check(values, ends, "row 0: output 'Y' contains NaN", grpc.StatusCode.INVALID_ARGUMENT)
    assert fakes[0].batch_sizes == [1, 4]


def refuse(value):
    """An answer that raises when some value of `X` is `value`, and blames the input."""

    def answer(batch):
        if (batch.inputs["X"] == value).any():
            raise ExecutionError("no such token", cause="input")
        return double(batch)

    return answer


@pytest.mark.parametrize(
    ("style", "code"),
    [("standard", grpc.StatusCode.INVALID_ARGUMENT), ("triton", INTERNAL)],
)
@pytest.mark.parametrize("place", range(5))
async def test_a_value_that_is_refused_has_one_reason_wherever_in_the_batch(
    together, style, code, place
):
    values = [1.0, 2.0, 3.0, 4.0]
    if place == 4:
        values = []
    values.insert(place, BAD_VALUE)

    server = {"status_codes": style}
    application, ends = await together(values, refuse(BAD_VALUE), server=server)

    check(values, ends, "executor refused the input: no such token", code)
    await application.batcher.idle()  # a call ends for its caller before it does here
    labels = {"model": "hello", "version": "1", "outcome": "failed"}
    value = application.registry.get_sample_value
    assert value("batcher_requests_total", labels | {"reason": "input"}) == 1
    assert value("batcher_requests_total", labels | {"reason": "unknown"}) == 0


async def test_nan_is_served_unless_it_is_a_failure(together):
    _, (end,) = await together([BAD_VALUE], nan_on(BAD_VALUE))
    assert np.isnan(output_arrays(end)["Y"]).all()


async def test_a_failure_storm_is_logged_once_and_shows(together, caplog):
    batching = {"max_batch_size": 16}

    application, ends = await together([BAD_VALUE] * 64, raise_on(BAD_VALUE), batching=batching)

    assert all(isinstance(end, aio.AioRpcError) for end in ends)
    assert "each failed batch fails as a whole until one succeeds" in caplog.text
    assert caplog.text.count("failure storm: so many") == 1
    labels = {"model": "hello", "version": "1"}
    assert application.registry.get_sample_value("batcher_failure_storm", labels) == 1


class TestSplitting:
    @pytest.mark.parametrize("reused", [False, True])
    async def test_a_request_of_ten_batches_comes_back_whole(
        self, start, hello, fakes, dial, request_of, reused
    ):
        executor = {"executor": "fake", "options": {}} if reused else {}
        document = hello(batching={"max_batch_size": 8}, **executor)
        application = await start(document)
        stub = await dial(application.grpc.addresses[0])
        rows = np.arange(79 * 4, dtype=np.float32).reshape(79, 4)

        large = stub.ModelInfer(infer_request("hello", {"X": rows}))
        small = [stub.ModelInfer(request_of(float(n))) for n in range(20)]

        assert (output_arrays(await large)["Y"] == 2 * rows).all()
        for n, call in enumerate(small):
            assert (output_arrays(await call)["Y"] == 2 * n).all()
        if reused:
            assert max(fakes[0].batch_sizes) <= 8
            assert fakes[0].released == len(fakes[0].batch_sizes)

    async def test_a_row_that_fails_is_named_as_the_caller_counts_it(
        self, start, hello, fakes, dial
    ):
        document = hello(executor="fake", options={}, batching={"max_batch_size": 8})
        application = await start(document)
        fakes[0].hang_next().release()
        fakes[0].fail_rows_next({3: "no luck"})
        stub = await dial(application.grpc.addresses[0])

        with pytest.raises(aio.AioRpcError) as caught:
            await stub.ModelInfer(infer_request("hello", {"X": np.ones((20, 4), np.float32)}))

        assert "row 11: no luck" in caught.value.details()
        assert len(fakes[0].batch_sizes) == 2

    async def test_max_batches_per_request_is_the_limit(self, start, hello, dial):
        document = hello(batching={"max_batch_size": 4}, queue={"max_batches_per_request": 3})
        stub = await dial((await start(document)).grpc.addresses[0])

        twelve, thirteen = (
            infer_request("hello", {"X": np.ones((rows, 4), np.float32)}) for rows in (12, 13)
        )
        assert output_arrays(await stub.ModelInfer(twelve))["Y"].shape == (12, 4)
        with pytest.raises(aio.AioRpcError) as caught:
            await stub.ModelInfer(thirteen)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "the request has 13 rows; allowed: at most 12" in caught.value.details()
        assert "queue.max_batches_per_request" in caught.value.details()
