"""`ModelStreamInfer`: many requests on one call, each with its own answer."""

import asyncio

import grpc
import pytest
from grpc import aio

from batcher.executor import ExecutionError
from batcher.protocol import inference
from batcher.testing.messages import output_arrays

WAIT_S = 20
"""A call that takes this long has failed: so a mistake is no hanging test."""

NUMBERS = [str(n) for n in range(4)]


@pytest.fixture
async def served(start, hello, fakes, dial):
    """(application, stub) of a server with two instances, whose batches hold one request each."""
    document = hello(executor="fake", options={}, instances=2, batching={"policy": "none"})
    application = await start(document)
    return application, await dial(application.grpc.addresses[0])


@pytest.fixture
def both_hang(fakes):
    """A function that makes each of the two instances hang in its next batch, and returns how."""
    return lambda: [fake.hang_next() for fake in fakes]


async def entered(hangs):
    for hang in hangs:
        await asyncio.to_thread(hang.wait_entered)


def first_of(fakes, value):
    """The number of the instance that was given the rows of this value."""
    for number, fake in enumerate(fakes):
        for call in fake.calls:
            if call.batch is not None and call.batch.inputs["X"].max() == value:
                return number
    raise AssertionError(f"no executor ran {value}")


async def test_answers_keep_the_order_of_the_requests(served, fakes, both_hang, request_of):
    _, stub = served
    hangs = both_hang()
    call = stub.ModelStreamInfer(timeout=WAIT_S)
    for number in NUMBERS:
        await call.write(request_of(float(number), id=number))
    await call.done_writing()
    await entered(hangs)

    # All but the first are answered before it; they wait for it.
    slow = first_of(fakes, 0)
    hangs[1 - slow].release()
    assert await stub.ModelInfer(request_of(9.0))
    hangs[slow].release()

    answers = [answer.infer_response async for answer in call]
    assert [answer.id for answer in answers] == NUMBERS
    assert [output_arrays(a)["Y"].max() for a in answers] == [0, 2, 4, 6]
    assert all(answer.parameters["triton_final_response"].bool_param for answer in answers)
    assert await call.code() is grpc.StatusCode.OK


async def test_answers_of_any_order_come_as_they_are_ready(served, fakes, both_hang, request_of):
    _, stub = served
    hangs = both_hang()
    call = stub.ModelStreamInfer(timeout=WAIT_S, metadata=[("x-batcher-stream-order", "any")])
    for number in NUMBERS:
        await call.write(request_of(float(number), id=number))
    await call.done_writing()
    await entered(hangs)

    slow = first_of(fakes, 0)
    hangs[1 - slow].release()
    answers = [(await call.read()).infer_response for _ in NUMBERS[1:]]
    assert sorted(answer.id for answer in answers) == NUMBERS[1:]

    hangs[slow].release()
    answers.append((await call.read()).infer_response)
    assert answers[-1].id == "0"
    assert [output_arrays(a)["Y"].max() for a in answers] == [2 * int(a.id) for a in answers]
    assert await call.read() is aio.EOF


async def test_an_error_is_an_answer_with_its_request_id(served, fakes, request_of):
    """Refused at admission or failed by the executor: the stream goes on."""
    _, stub = served
    for fake in fakes:
        fake.fail_next(RuntimeError("the device is on fire"))
    call = stub.ModelStreamInfer(timeout=WAIT_S)

    await call.write(request_of(id="wrong", model="unknown"))
    answer = await call.read()
    assert "unknown" in answer.error_message
    assert answer.infer_response.id == "wrong"

    for number in ("first", "second"):
        await call.write(request_of(id=number))
        answer = await call.read()
        assert "the device is on fire" in answer.error_message
        assert answer.infer_response.id == number
        assert not answer.infer_response.outputs

    await call.write(request_of(id="right"))
    answer = await call.read()
    assert not answer.error_message
    assert answer.infer_response.id == "right"
    call.cancel()


@pytest.mark.parametrize("how", ["raises", "row", "of_ours"])
async def test_a_text_that_cannot_be_sent_fails_only_its_own_request(
    served, fakes, request_of, how
):
    _, stub = served
    call = stub.ModelStreamInfer(timeout=WAIT_S)
    text = "no file \udcff"
    for fake in fakes:
        if how == "row":
            fake.fail_rows_next({0: text})
        else:
            fake.fail_next(ExecutionError(text) if how == "of_ours" else OSError(text))
    for number in ("first", "second"):
        await call.write(request_of(id=number))
        answer = await call.read()
        assert "no file ?" in answer.error_message
        assert answer.infer_response.id == number
    await call.write(request_of(id="right"))
    assert not (await call.read()).error_message
    call.cancel()


async def test_half_close_ends_the_stream_after_the_last_answer(served, both_hang, request_of):
    _, stub = served
    hangs = both_hang()
    call = stub.ModelStreamInfer(timeout=WAIT_S)
    for number in ("0", "1"):
        await call.write(request_of(id=number))
    await call.done_writing()
    await entered(hangs)
    assert not call.done()

    for hang in hangs:
        hang.release()
    assert [answer.infer_response.id async for answer in call] == ["0", "1"]
    assert await call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("order", ["any", "kept"])
async def test_a_stream_without_requests_ends_well(served, order):
    _, stub = served
    call = stub.ModelStreamInfer(timeout=WAIT_S, metadata=[("x-batcher-stream-order", order)])
    await call.done_writing()
    assert await call.read() is aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_a_cancelled_stream_cancels_only_its_own_requests(
    served, fakes, both_hang, request_of, eventually
):
    application, stub = served
    hangs = both_hang()
    leaving, staying = stub.ModelStreamInfer(timeout=WAIT_S), stub.ModelStreamInfer(timeout=WAIT_S)
    await leaving.write(request_of(50.0, id="executing"))
    await staying.write(request_of(1.0, id="executing"))
    await entered(hangs)
    await leaving.write(request_of(51.0, id="waiting"))
    await staying.write(request_of(2.0, id="waiting"))
    await eventually(lambda: application.batcher.unanswered == 4)

    leaving.cancel()
    await eventually(lambda: application.batcher.unanswered == 2)
    await staying.done_writing()
    for hang in hangs:
        hang.release()

    answers = [answer.infer_response async for answer in staying]
    assert [output_arrays(a)["Y"].max() for a in answers] == [2, 4]
    executed = [c.batch.inputs["X"].max() for f in fakes for c in f.calls if c.batch is not None]
    assert 51 not in executed
    await application.batcher.idle()
    count = application.registry.get_sample_value
    cancelled = {"outcome": "cancelled", "reason": "caller_cancelled"}
    labels = {"model": "hello", "version": "1"}
    assert count("batcher_requests_total", labels | cancelled) == 2
    assert (await stub.ServerLive(inference.ServerLiveRequest())).live


async def test_the_deadline_of_a_stream_is_that_of_each_request(
    served, both_hang, request_of, eventually
):
    application, stub = served
    hangs = both_hang()
    busy = [asyncio.ensure_future(stub.ModelInfer(request_of(n))) for n in range(2)]
    await entered(hangs)
    call = stub.ModelStreamInfer(timeout=0.2)
    await call.write(request_of(id="late"))

    assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await eventually(lambda: application.batcher.unanswered == 2)
    for hang in hangs:
        hang.release()
    for number, answer in enumerate(await asyncio.gather(*busy)):
        assert output_arrays(answer)["Y"].max() == 2 * number


async def test_a_defect_ends_the_stream_with_internal_and_the_log_alone_has_it(
    served, monkeypatch, caplog
):
    async def broken(_):
        raise ValueError("secret")

    _, stub = served
    monkeypatch.setattr("batcher.server.services.streams.StreamPump.run", broken)
    call = stub.ModelStreamInfer(timeout=WAIT_S)
    assert await call.code() is grpc.StatusCode.INTERNAL
    assert "the log of the server has details" in await call.details()
    assert "secret" not in await call.details()
    assert any(record.exc_info for record in caplog.records)
