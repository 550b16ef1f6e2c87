"""What a new user tries first, over real sockets."""

import asyncio

import grpc
import pytest
from grpc import aio

WAIT_S = 20
LABELS = {"model": "hello", "version": "1"}
ROWS = {"max_batch_size": 32, "target_p99": "50ms"}


@pytest.fixture
async def served(start, hello, dial):
    """A function from milliseconds of a batch and of a row to (application, stub), target 50 ms."""

    async def make(base_ms, row_ms):
        options = {"columns": 4, "base": f"{base_ms}ms", "per_row": f"{row_ms}ms"}
        made = hello(batching=ROWS, options=options, warmup={"batch_sizes": [1, 8, 32]})
        application = await start(made)
        return application, await dial(application.grpc.addresses[0])

    return make


@pytest.mark.slow
@pytest.mark.parametrize("timeout_s", [WAIT_S, 2])
async def test_300_requests_at_once_are_all_answered(served, request_of, timeout_s):
    _, stub = await served(5, 0.5)
    calls = [stub.ModelInfer(request_of(float(n)), timeout=timeout_s) for n in range(300)]
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert [error for error in ended if isinstance(error, BaseException)] == []


@pytest.mark.slow
async def test_50_callers_in_a_closed_loop_are_all_answered(served, request_of):
    _, stub = await served(5, 1)

    async def call(number):
        for _ in range(10):
            await stub.ModelInfer(request_of(float(number)), timeout=WAIT_S)

    ended = await asyncio.gather(*map(call, range(50)), return_exceptions=True)
    assert [error for error in ended if error is not None] == []


@pytest.mark.slow
async def test_512_rows_are_answered_again_and_again(served, request_of):
    _, stub = await served(5, 0.5)
    for _ in range(4):
        await stub.ModelInfer(request_of(1.0, rows=512), timeout=WAIT_S)


@pytest.mark.slow
async def test_a_deadline_shorter_than_any_batch_is_told_from_load(served, request_of):
    application, stub = await served(400, 0)
    for _ in range(2):
        with pytest.raises(aio.AioRpcError) as caught:
            await stub.ModelInfer(request_of(1.0), timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await application.batcher.idle()
    ended = LABELS | {"outcome": "expired", "reason": "deadline_too_short"}
    assert application.registry.get_sample_value("batcher_requests_total", ended) == 2
