"""Requests that will miss the target, and targets that cannot be met, as a client and a scrape see them."""

import asyncio
import logging

import grpc
import pytest
from grpc import aio

from batcher import protocol
from batcher.testing.messages import output_arrays

WAIT_S = 20
LABELS = {"model": "hello", "version": "1"}
WARM = {"batch_sizes": [1]}
BASE_MS = 300


@pytest.fixture
async def served(start, hello, dial):
    """A function from a target to (application, stub); a batch takes 300 ms."""

    async def make(target, **batching):
        batching |= {"target_p99": target}
        made = hello(base=f"{BASE_MS}ms", batching=batching, warmup=WARM)
        application = await start(made)
        return application, await dial(application.grpc.addresses[0])

    return make


async def refusal(call):
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value


@pytest.mark.slow
async def test_a_request_that_will_miss_the_target_is_refused_at_once_with_a_retry_hint(
    served, request_of, eventually
):
    application, stub = await served("450ms", limit="target")
    running = asyncio.ensure_future(stub.ModelInfer(request_of(1.0), timeout=WAIT_S))
    count = application.registry.get_sample_value
    await eventually(lambda: count("batcher_batches_in_flight", LABELS) == 1)

    error = await refusal(stub.ModelInfer(request_of(2.0), timeout=WAIT_S))

    assert not running.done()
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "after its target of" in error.details()
    metadata = dict(error.trailing_metadata())
    assert 0 < int(metadata["grpc-retry-pushback-ms"]) <= 2 * BASE_MS
    details = protocol.status.Status.FromString(metadata["grpc-status-details-bin"])
    info = protocol.error_details.RetryInfo()
    assert details.details[0].Unpack(info)
    assert info.retry_delay.ToMilliseconds() == int(metadata["grpc-retry-pushback-ms"])
    assert output_arrays(await running)["Y"].max() == 2
    late = LABELS | {"outcome": "rejected", "reason": "predicted_late"}
    await eventually(lambda: count("batcher_requests_total", late) == 1)


@pytest.mark.slow
async def test_the_deadline_of_a_caller_counts_on_arrival_whatever_the_target(
    served, request_of, eventually
):
    application, stub = await served("5s")
    running = asyncio.ensure_future(stub.ModelInfer(request_of(1.0), timeout=WAIT_S))
    count = application.registry.get_sample_value
    await eventually(lambda: count("batcher_batches_in_flight", LABELS) == 1)

    error = await refusal(stub.ModelInfer(request_of(2.0), timeout=1.4 * BASE_MS / 1000))

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "the caller's deadline" in error.details()
    await running


@pytest.mark.slow
@pytest.mark.parametrize("target", ["5s", None])
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_a_deadline_shorter_than_one_batch_alone_is_no_overload(
    served, request_of, eventually, target, busy
):
    application, stub = await served(target)
    count = application.registry.get_sample_value
    running = []
    if busy:
        running.append(asyncio.ensure_future(stub.ModelInfer(request_of(1.0), timeout=WAIT_S)))
        await eventually(lambda: count("batcher_batches_in_flight", LABELS) == 1)

    error = await refusal(stub.ModelInfer(request_of(2.0), timeout=0.9 * BASE_MS / 1000))

    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "one batch alone takes" in error.details()
    assert "allow more time" in error.details()
    assert "grpc-retry-pushback-ms" not in dict(error.trailing_metadata())
    short = LABELS | {"outcome": "expired", "reason": "deadline_too_short"}
    await eventually(lambda: count("batcher_requests_total", short) == 1)
    assert count("batcher_predicted_refusals_total", LABELS | {"cause": "deadline"}) == 1
    await asyncio.gather(*running)


@pytest.mark.slow
async def test_a_burst_is_answered_late_and_not_refused(served, request_of):
    """Eight batches of 300 ms, one row each, of which the target leaves time for one."""
    application, stub = await served("450ms", max_batch_size=1)
    calls = [stub.ModelInfer(request_of(float(n)), timeout=WAIT_S) for n in range(8)]
    answers = await asyncio.gather(*calls)
    assert [output_arrays(answer)["Y"].max() for answer in answers] == [2.0 * n for n in range(8)]
    await application.batcher.idle()  # the last answer may be here before its end is counted
    assert application.registry.get_sample_value("batcher_latency_target_missed_total", LABELS) == 7


@pytest.mark.slow
async def test_what_a_limit_leaves_no_time_for_is_refused_at_once_with_the_key_to_change(
    served, request_of, eventually
):
    application, stub = await served("450ms", limit="500ms")
    running = asyncio.ensure_future(stub.ModelInfer(request_of(1.0), timeout=WAIT_S))
    count = application.registry.get_sample_value
    await eventually(lambda: count("batcher_batches_in_flight", LABELS) == 1)

    error = await refusal(stub.ModelInfer(request_of(2.0), timeout=WAIT_S))

    assert not running.done()
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "after its limit of 500 ms (batching.limit); a longer batching.limit" in error.details()
    assert 0 < int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) <= 2 * BASE_MS
    refused = LABELS | {"cause": "queue_ahead"}
    await eventually(lambda: count("batcher_predicted_refusals_total", refused) == 1)
    await running


@pytest.mark.slow
async def test_with_a_target_that_one_row_cannot_meet_requests_are_served_and_a_warning_is_logged(
    served, request_of, caplog
):
    caplog.set_level(logging.WARNING, "batcher")
    application, stub = await served("100ms")
    assert "hello/1 cannot meet its target of 100 ms: a batch of one row takes" in caplog.text
    assert "all late, and served in order of arrival up to batching.limit" in caplog.text
    count = application.registry.get_sample_value
    assert count("batcher_latency_target_reachable", LABELS) == 0

    calls = [stub.ModelInfer(request_of(float(n)), timeout=WAIT_S) for n in range(1, 4)]
    answers = await asyncio.gather(*calls)

    assert [output_arrays(answer)["Y"].max() for answer in answers] == [2, 4, 6]
