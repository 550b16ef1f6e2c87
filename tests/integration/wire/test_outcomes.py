"""A request is counted with the outcome that its caller saw."""

import asyncio

import grpc
import numpy as np
import pytest
from grpc import aio

from batcher.server import messages
from batcher.server.messages import classification
from batcher.telemetry.reasons import ENDS, UnreadReason
from batcher.testing.messages import infer_request

LABELS = {"model": "hello", "version": "1"}
ANY_SIZE = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


@pytest.fixture
async def served(start, hello, dial):
    """(application, stub, count): `await count(outcome, reason)` is what was counted of `hello`."""
    batching = {"max_batch_size": 8192}
    application = await start(hello(server={"max_message": "64KiB"}, batching=batching))

    async def count(outcome, reason):
        await application.batcher.idle()  # a call ends for its caller before it does here
        labels = LABELS | {"outcome": outcome, "reason": reason}
        return application.registry.get_sample_value("batcher_requests_total", labels)

    return application, await dial(application.grpc.addresses[0], options=ANY_SIZE), count


def too_many_rows():
    """A request that is just small enough for an answer that is just too large."""
    return infer_request("hello", {"X": np.ones((64 * 1024 // 16 - 10, 4), np.float32)})


async def test_every_end_is_there_before_it_happens(served):
    _, _, count = served
    for outcome, reason in ENDS:
        assert await count(outcome, reason) == 0, (outcome, reason)


async def test_an_answer_that_is_too_large_has_failed(served):
    _, stub, count = served
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.ModelInfer(too_many_rows())
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await count("ok", "") == 0
    assert await count("failed", "answer_too_large") == 1

    stream = stub.ModelStreamInfer()
    await stream.write(too_many_rows())
    assert "can be sent" in (await stream.read()).error_message
    assert await count("ok", "") == 0
    assert await count("failed", "answer_too_large") == 2
    stream.cancel()


async def test_every_end_counts_for_its_tenant(start, hello, dial, request_of):
    application = await start(hello(queue={"tenants": {"gold": 2, "default": 1}}))
    stub = await dial(application.grpc.addresses[0])
    gold, made_up = (("x-batcher-tenant", "gold"),), (("x-llm-d-inference-fairness-id", "made up"),)
    wrong = infer_request("hello", {"Z": np.ones((1, 4), np.float32)})
    wrong_contents = request_of()
    wrong_contents.raw_input_contents[0] = b"1"
    for metadata in (gold, gold, made_up, ()):
        await stub.ModelInfer(request_of(), metadata=metadata)
    for request in (wrong, wrong_contents):
        with pytest.raises(aio.AioRpcError):
            await stub.ModelInfer(request, metadata=gold)

    def count(tenant, outcome):
        labels = LABELS | {"tenant": tenant, "outcome": outcome}
        return application.registry.get_sample_value("batcher_tenant_requests_total", labels)

    await application.batcher.idle()
    assert (count("gold", "ok"), count("other", "ok")) == (2, 2)
    assert (count("gold", "rejected"), count("other", "rejected")) == (2, 0)
    assert count("made up", "ok") is None


async def test_too_many_classes_are_invalid(served, request_of, monkeypatch):
    _, stub, count = served
    monkeypatch.setattr(classification, "MAX_CLASSES", 3)
    request = request_of()
    request.outputs.add(name="Y").parameters["classification"].int64_param = 4

    with pytest.raises(aio.AioRpcError) as caught:
        await stub.ModelInfer(request)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (
        "classification gives at most 3 classes in one answer, got 1 rows of 4"
        in caught.value.details()
    )
    assert await count("ok", "") == 0
    assert await count("failed", "input") == 1


async def test_an_answer_that_cannot_be_encoded_has_failed(served, request_of, monkeypatch):
    _, stub, count = served
    real = messages.response_parts

    def to_response(reply, **options):
        if reply.id == "bad":
            raise ValueError("no bytes for this")
        return real(reply, **options)

    monkeypatch.setattr(messages, "response_parts", to_response)
    calls = [stub.ModelInfer(request_of(id=name)) for name in ("good", "bad", "good too")]
    good, bad, good_too = await asyncio.gather(*calls, return_exceptions=True)
    assert (good.id, good_too.id) == ("good", "good too")
    assert bad.code() is grpc.StatusCode.INTERNAL
    assert await count("ok", "") == 2
    assert await count("failed", "internal") == 1

    stream = stub.ModelStreamInfer()
    for name in ("bad", "good"):
        await stream.write(request_of(id=name))
    first, second = await stream.read(), await stream.read()
    assert "internal error" in first.error_message
    assert second.infer_response.id == "good"
    assert await count("failed", "internal") == 2
    stream.cancel()


async def test_requests_refused_before_they_are_read_are_counted(served, request_of, transport):
    application, stub, _ = served

    def count(reason):
        labels = {"model": "", "version": "", "outcome": "rejected", "reason": reason}
        return application.registry.get_sample_value("batcher_requests_total", labels)

    reasons = [*UnreadReason]
    assert [count(reason) for reason in reasons] == [0] * len(reasons)
    large = infer_request("hello", {"X": np.ones((5000, 4), np.float32)})
    metadata = [("x-much", "m" * 20_000)]
    for call in (
        stub.ModelInfer(large),
        stub.ModelInfer(request_of(), metadata=metadata),
        stub.ModelInfer(request_of(model="unknown")),
    ):
        with pytest.raises(aio.AioRpcError):
            await call
    stream = stub.ModelStreamInfer()
    await stream.write(large)
    assert await stream.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    await application.batcher.idle()
    assert count("unknown_model") == 1
    # The library refuses the others before this server sees them; docs/metrics.md says so.
    seen = transport == "builtin"
    assert count("message_too_large") == 2 * seen
    assert count("metadata_too_large") == seen


async def test_a_message_that_cannot_be_read_is_not_one_for_an_unknown_model(served):
    application, _, _ = served
    async with aio.insecure_channel(application.grpc.addresses[0]) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(aio.AioRpcError):
            await call(b"\xff\xff")
    await application.batcher.idle()
    labels = {"model": "", "version": "", "outcome": "rejected", "reason": "invalid"}
    assert application.registry.get_sample_value("batcher_requests_total", labels) == 1


@pytest.mark.parametrize("place", ["parse", "to_request", "validate"])
async def test_a_defect_of_the_server_before_admission_is_counted(
    served, request_of, monkeypatch, place
):
    application, stub, count = served

    def mistake(*_, **__):
        raise ValueError("ours")

    with monkeypatch.context() as broken:
        if place == "validate":
            broken.setattr(application.models.find("hello").signature, "validate", mistake)
        else:
            broken.setattr(messages, place, mistake)
        with pytest.raises(aio.AioRpcError) as caught:
            await stub.ModelInfer(request_of())
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    labels = {"model": "", "version": "", "outcome": "rejected", "reason": "internal"}
    failed = await count("failed", "internal")
    unread = application.registry.get_sample_value("batcher_requests_total", labels)
    assert (unread, failed) == ((1, 0) if place == "parse" else (0, 1))
    assert await stub.ModelInfer(request_of())


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_does_not_fit_the_buffer_has_failed(
    start, hello, fakes, dial, transport, stream
):
    """The buffer fills up while the request is executed."""
    server = {"max_message": "256KiB", "max_buffered": "512KiB"}
    document = hello(server=server, executor="fake", options={}, batching={"max_batch_size": 8192})
    application = await start(document)
    stub = await dial(application.grpc.addresses[0], options=ANY_SIZE)
    hang = fakes[0].hang_next()
    request = infer_request("hello", {"X": np.ones((8000, 4), np.float32)}, id="full")
    call = stub.ModelStreamInfer(iter([request])) if stream else stub.ModelInfer(request)
    reading = asyncio.ensure_future(call.read() if stream else call)
    await asyncio.to_thread(hang.wait_entered)
    taken = application.buffers.limit - application.buffers.used
    application.buffers.charge(taken)
    if stream:  # the request's bytes are free by then; what says that there is no room finds some
        application.buffers.charge(request.ByteSize() - 1000)
    hang.release()

    refused = True
    if stream:
        message = (await reading).error_message
    elif transport == "builtin":
        with pytest.raises(aio.AioRpcError) as caught:
            await reading
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert int(dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
        message = caught.value.details()
    else:  # the library's own buffers are in no bound
        assert (await reading).id == "full"
        refused, message = False, "server.max_buffered"
    assert "server.max_buffered" in message
    await application.batcher.idle()
    value = application.registry.get_sample_value
    failed = value(
        "batcher_requests_total", LABELS | {"outcome": "failed", "reason": "buffer_full"}
    )
    served = value("batcher_requests_total", LABELS | {"outcome": "ok", "reason": ""})
    assert (failed, served) == (refused, not refused)
    assert value("batcher_buffer_refusals_total") == refused
    application.buffers.release(application.buffers.used)
