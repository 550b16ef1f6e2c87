"""An `execute` that never returns costs its own batch, and one `execute_timeout`."""

import asyncio

import grpc
import pytest
from grpc import aio

from batcher.executor import Capabilities
from batcher.protocol import inference
from batcher.runtime.instances import fitted_load
from batcher.testing import FakeExecutor
from batcher.testing.messages import output_arrays

WAIT_S = 20
LABELS = {"model": "hello", "version": "1"}


@pytest.fixture
async def served(start, hello, fakes, dial):
    """A function from settings of the model to (application, stub)."""

    async def make(**model):
        application = await start(hello(executor="fake", options={}, **model))
        return application, await dial(application.grpc.addresses[0])

    return make


@pytest.mark.slow
async def test_the_batch_fails_and_the_instance_is_replaced(served, fakes, request_of, eventually):
    application, stub = await served(execute_timeout="300ms")
    hang = fakes[0].hang_next()
    lost = [stub.ModelInfer(request_of(n), timeout=WAIT_S) for n in range(3)]
    await asyncio.to_thread(hang.wait_entered)
    waiting = stub.ModelInfer(request_of(8.0), timeout=WAIT_S)

    ends = await asyncio.gather(*lost, return_exceptions=True)
    errors = [end for end in ends if isinstance(end, aio.AioRpcError)]
    # Those that were not in the first batch were served by the replacement.
    assert errors
    for error in errors:
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "the instance that ran the request went down" in error.details()
        assert int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
    assert output_arrays(await waiting)["Y"].max() == 16

    assert len(fakes) == 2
    assert (await stub.ModelReady(inference.ModelReadyRequest(name="hello"))).ready
    assert output_arrays(await stub.ModelInfer(request_of(5.0), timeout=WAIT_S))["Y"].max() == 10
    await application.batcher.idle()  # a call ends for its caller before it does here
    count = application.registry.get_sample_value
    assert count("batcher_instances", LABELS | {"state": "up"}) == 1
    failed = LABELS | {"outcome": "failed", "reason": "instance_down"}
    assert count("batcher_requests_total", failed) == len(errors)

    # The call that was given up comes back at last: its answer is dropped, its executor closed.
    hang.release()
    await eventually(lambda: fakes[0].calls[-1].method == "close")
    assert fakes[0].released == 1
    assert count("batcher_requests_total", failed) == len(errors)
    assert count("batcher_batches_in_flight", LABELS) == 0


@pytest.mark.slow
async def test_a_test_batch_that_hangs_is_logged_with_the_limit_that_applied(
    served, fakes, request_of, eventually, caplog
):
    _, stub = await served(
        execute_timeout="200ms",
        warmup={"batch_sizes": [1]},
        health={"failure_threshold": 1, "interval": "1h"},
    )
    fakes[0].fail_next(RuntimeError("no luck"))
    hang = fakes[0].hang_next()
    with pytest.raises(aio.AioRpcError, match="no luck"):
        await stub.ModelInfer(request_of(), timeout=WAIT_S)
    await eventually(lambda: len(fakes) == 2)
    assert "a test batch did not end within 400 ms (twice execute_timeout)" in caplog.text
    hang.release()


@pytest.mark.slow
async def test_waiting_for_the_previous_batch_is_not_hanging(
    served, fakes, request_of, monkeypatch
):
    """`execute_timeout` counts from when a batch can begin: here the second one is given to a busy thread."""
    monkeypatch.setattr(fitted_load, "check_executor", lambda *_: None)
    monkeypatch.setattr(FakeExecutor, "capabilities", Capabilities(max_in_flight=2))
    _, stub = await served(execute_timeout="1s", max_in_flight=2, batching={"policy": "none"})
    calls = []
    for number, hang in enumerate([fakes[0].hang_next(), fakes[0].hang_next()]):
        calls.append(asyncio.ensure_future(stub.ModelInfer(request_of(number), timeout=WAIT_S)))
        asyncio.get_running_loop().call_later(0.7 * (number + 1), hang.release)
    answers = await asyncio.gather(*calls)
    assert [output_arrays(answer)["Y"].max() for answer in answers] == [0, 2]
    assert len(fakes) == 1


@pytest.mark.slow
async def test_a_hung_instance_does_not_delay_another(served, fakes, request_of):
    _, stub = await served(execute_timeout="1s", instances=2, batching={"policy": "none"})
    hangs = [fake.hang_next() for fake in fakes]
    calls = [
        asyncio.ensure_future(stub.ModelInfer(request_of(n), timeout=WAIT_S)) for n in range(10)
    ]
    for hang in hangs:
        await asyncio.to_thread(hang.wait_entered)
    hangs[0].release()

    answers = await asyncio.gather(*calls, return_exceptions=True)
    failed = [answer for answer in answers if isinstance(answer, aio.AioRpcError)]
    assert [error.code() for error in failed] == [grpc.StatusCode.UNAVAILABLE]
    for number, answer in enumerate(answers):
        if answer not in failed:
            assert output_arrays(answer)["Y"].max() == 2 * number
    hangs[1].release()


@pytest.mark.slow
async def test_a_replacement_that_cannot_load_is_tried_again(served, fakes, request_of, eventually):
    application, stub = await served(execute_timeout="100ms")
    hang = fakes[0].hang_next()
    fakes.options["load_error"] = RuntimeError("the device is lost")
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.ModelInfer(request_of(), timeout=WAIT_S)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    await eventually(lambda: len(fakes) == 2)
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.ModelInfer(request_of(), timeout=WAIT_S)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "no instance is up" in caught.value.details()
    assert not application.health().ready

    del fakes.options["load_error"]
    await eventually(lambda: application.health().ready)
    assert (await stub.ModelInfer(request_of(), timeout=WAIT_S)).model_name == "hello"
    hang.release()


@pytest.mark.slow
async def test_with_too_many_abandoned_threads_it_stays_down_until_one_returns(
    served, fakes, request_of, eventually
):
    application, stub = await served(
        execute_timeout="100ms",
        max_abandoned_threads=1,
        restart={"backoff": "1ms", "max_backoff": "10ms"},
    )
    hangs = []
    for number in range(2):
        hangs.append(fakes[number].hang_next())
        with pytest.raises(aio.AioRpcError):
            await stub.ModelInfer(request_of(), timeout=WAIT_S)
        if not number:
            await eventually(lambda: application.health().ready)

    def health():
        [model] = application.health().models
        [instance] = model.instances
        return instance

    await eventually(lambda: health().state == "failed")
    assert "2 threads that were abandoned are still in a call" in health().why
    assert len(fakes) == 2
    assert not application.health().ready
    count = application.registry.get_sample_value
    assert count("batcher_abandoned_threads", LABELS) == 2
    assert count("batcher_instance_losses_total", LABELS | {"reason": "hung"}) == 2
    hangs[0].release()
    await eventually(lambda: application.health().ready)
    assert len(fakes) == 3
    hangs[1].release()
    await eventually(lambda: count("batcher_abandoned_threads", LABELS) == 0)


@pytest.mark.slow
async def test_what_waits_is_refused_when_no_instance_will_come(
    served, fakes, request_of, eventually
):
    _, stub = await served(execute_timeout="200ms", restart={"limit": 1, "backoff": "1ms"})
    hang = fakes[0].hang_next()
    fakes.options["load_error"] = RuntimeError("the device is lost")
    running = asyncio.ensure_future(stub.ModelInfer(request_of()))
    await asyncio.to_thread(hang.wait_entered)
    waiting = asyncio.ensure_future(stub.ModelInfer(request_of(2.0)))
    ends = await asyncio.wait_for(asyncio.gather(running, waiting, return_exceptions=True), WAIT_S)
    assert [end.code() for end in ends] == [grpc.StatusCode.UNAVAILABLE] * 2
    assert "no instance is up" in ends[1].details()
    index = await stub.RepositoryIndex(inference.RepositoryIndexRequest())
    [model] = index.models
    assert model.state == "UNAVAILABLE"
    assert "a batch did not end within 200 ms" in model.reason
    assert "restart.limit" in model.reason
    hang.release()


@pytest.mark.slow
async def test_one_instance_of_several_that_is_down_is_named(served, fakes, request_of, eventually):
    # Long enough for the other instance on a busy machine.
    application, stub = await served(execute_timeout="2s", instances=2, idempotent=True)
    hang = fakes[0].hang_next()
    fakes.options["load_error"] = RuntimeError("the device is lost")
    entered = asyncio.ensure_future(asyncio.to_thread(hang.wait_entered))
    while True:
        calls = [stub.ModelInfer(request_of(n), timeout=WAIT_S) for n in range(4)]
        answers = asyncio.gather(*calls)
        # All four may come as one batch, to the other instance.
        await asyncio.wait({entered, answers}, return_when=asyncio.FIRST_COMPLETED)
        # Those that hung on one instance were executed once more on the other.
        assert [output_arrays(answer)["Y"].max() for answer in await answers] == [0, 2, 4, 6]
        if entered.done():
            break
    assert application.health().ready
    [model] = application.health().models
    assert model.reason.startswith(("instance 0 is restarting: ", "instance 1 is restarting: "))
    count = application.registry.get_sample_value
    assert count("batcher_repeated_requests_total", LABELS) >= 1
    hang.release()


async def test_timings_are_sent_to_callers_that_ask_for_them(served, request_of):
    _, stub = await served()
    call = stub.ModelInfer(request_of(rows=3), metadata=[("x-batcher-timings", "1")])
    await call
    trailers = dict(await call.trailing_metadata())
    told = dict(part.split("=") for part in trailers["x-batcher-timings"].split(","))
    stages = ["admission", "queue", "gather", "execute", "scatter", "reply"]
    assert list(told) == [*stages, "batch_rows"]
    assert all(int(told[stage]) >= 0 for stage in stages)
    assert told["batch_rows"] == "3"

    call = stub.ModelInfer(request_of(), timeout=WAIT_S)
    await call
    assert "x-batcher-timings" not in dict(await call.trailing_metadata())
