"""What happens to a batch: the message that is sent, the answer, and every way in which it fails."""

import asyncio
import time

import grpc
import numpy as np
import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.errors import ModelLoadError
from batcher.executor import ExecutionError
from batcher.protocol import inference

X = np.arange(12, dtype=np.float32).reshape(3, 4)


async def test_a_batch_is_one_request_with_the_rows_in_order(neighbor, load, kit):
    neighbor.start()
    executor, _ = await load(model="other", version="7")
    result = await executor.execute(kit.batch_of(X))
    np.testing.assert_array_equal(result.outputs["Y"], 2 * X)
    request = neighbor.call().request
    assert (request.model_name, request.model_version) == ("other", "7")
    assert [(i.name, i.datatype, list(i.shape)) for i in request.inputs] == [("X", "FP32", [3, 4])]
    assert list(request.raw_input_contents) == [X.tobytes()]
    assert neighbor.calls.empty()


async def test_only_the_outputs_that_are_wanted_are_asked_for(neighbor, load, kit):
    neighbor.outputs.append(("Z", "FP32", [-1, 4]))
    neighbor.start()
    executor, _ = await load()
    result = await executor.execute(kit.batch_of(X, outputs=frozenset({"Y"})))
    assert [output.name for output in neighbor.call().request.outputs] == ["Y"]
    assert list(result.outputs) == ["Y"]


async def test_the_rest_of_the_deadline_travels_along(neighbor, load, kit):
    neighbor.start()
    executor, _ = await load()
    await executor.execute(kit.batch_of(X, deadline_ns=time.monotonic_ns() + 5 * SECOND))
    left_s = neighbor.call().left_s
    assert 0 < left_s < 5.1
    await executor.execute(kit.batch_of(X))
    assert neighbor.call().left_s is None


async def test_a_neighbor_that_does_not_answer_in_time_is_unavailable(neighbor, load, kit):
    neighbor.infer = lambda request, call: call.ended.wait(20) and kit.answer_of({})
    neighbor.start()
    executor, _ = await load()
    with pytest.raises(ExecutionError, match="DEADLINE_EXCEEDED") as raised:
        await executor.execute(kit.batch_of(X, deadline_ns=time.monotonic_ns() + 30 * MILLISECOND))
    assert raised.value.cause == "unavailable"


async def test_cancelling_a_batch_cancels_the_call(neighbor, load, kit):
    neighbor.infer = lambda request, call: call.ended.wait(20) and kit.answer_of({})
    neighbor.start()
    executor, _ = await load()
    task = asyncio.ensure_future(executor.execute(kit.batch_of(X)))
    call = await kit.soon(neighbor.call)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await kit.soon(lambda: call.ended.wait(20))


async def test_fixed_headers_and_those_of_the_caller_are_sent(neighbor, load, tmp_path, kit):
    (tmp_path / "token").write_text("secret")
    neighbor.start()
    executor, metadata = await load(
        base_dir=tmp_path,
        metadata={"authorization": {"file": "token", "prefix": "Bearer "}},
        forward_metadata=["x-user", "x-data-bin"],
    )
    assert metadata.metadata == ("x-user", "x-data-bin")
    assert all(each["authorization"] == "Bearer secret" for each in neighbor.metadata)
    await executor.execute(kit.batch_of(X, metadata={"x-user": "a", "x-data-bin": b"\0\1"}))
    sent = neighbor.call().metadata
    assert (sent["authorization"], sent["x-user"]) == ("Bearer secret", "a")
    assert sent["x-data-bin"] == b"\0\1"


async def test_a_neighbor_that_repeats_its_headers_tells_no_caller_of_them(neighbor, load, kit):
    def refuse(request, call):
        raise kit.Refusal(grpc.StatusCode.UNAUTHENTICATED, call.metadata["authorization"])

    neighbor.infer = refuse
    neighbor.start()
    executor, _ = await load(metadata={"authorization": "Bearer abcdefgh"}, health_interval="1ms")
    with pytest.raises(ExecutionError) as failed:
        await executor.execute(kit.batch_of(X))
    assert "UNAUTHENTICATED: ***" in str(failed.value)
    assert failed.value.cause == "unavailable"
    neighbor.refuse = kit.Refusal(grpc.StatusCode.UNAUTHENTICATED, "Bearer abcdefgh is wrong")
    reported = asyncio.get_running_loop().create_future()

    def report(why):
        if why and not reported.done():
            reported.set_result(why)

    watch = asyncio.ensure_future(executor.watch(report))
    assert "*** is wrong" in await reported
    watch.cancel()
    with pytest.raises(ModelLoadError, match=r"\*\*\* is wrong"):
        await load(metadata={"authorization": "Bearer abcdefgh"})


@pytest.mark.parametrize("value", ["a\nb", "\u00e9"])
async def test_a_header_that_cannot_be_sent_is_the_fault_of_its_request(neighbor, load, kit, value):
    neighbor.start()
    executor, _ = await load()
    with pytest.raises(ExecutionError, match="the header x-user must be printable") as raised:
        await executor.execute(kit.batch_of(X, metadata={"x-user": value}))
    assert raised.value.cause == "input"
    await executor.execute(kit.batch_of(X, metadata={"traceparent": value, "baggage": "a"}))
    sent = neighbor.call().metadata
    assert sent["baggage"] == "a"
    assert "traceparent" not in sent


async def test_parameters_are_sent(neighbor, load, kit):
    neighbor.start()
    executor, metadata = await load(forward_parameters=["k"])
    assert metadata.parameters == ("k",)
    for value in (3, True, "a", 0.5, 2**63):
        await executor.execute(kit.batch_of(X, parameters={"k": value}))
        (parameter,) = neighbor.call().request.parameters.values()
        assert getattr(parameter, parameter.WhichOneof("parameter_choice")) == value


async def test_batches_are_in_flight_together(neighbor, load, kit):
    together = asyncio.Barrier(2)
    loop = asyncio.get_running_loop()

    def wait_for_the_other(request, call):
        asyncio.run_coroutine_threadsafe(together.wait(), loop).result(20)
        return kit.double(request)

    neighbor.infer = wait_for_the_other
    neighbor.start()
    executor, _ = await load()
    one, two = await asyncio.gather(
        executor.execute(kit.batch_of(X)), executor.execute(kit.batch_of(-X))
    )
    np.testing.assert_array_equal(one.outputs["Y"], -two.outputs["Y"])


async def test_a_large_batch_and_its_answer(neighbor, load, kit):
    neighbor.inputs, neighbor.outputs = (
        [("X", "FP32", [-1, 500_000])],
        [("Y", "FP32", [-1, 500_000])],
    )
    neighbor.options = [("grpc.max_receive_message_length", -1)]
    neighbor.start()
    executor, _ = await load()
    wide = np.random.default_rng(1).random((3, 500_000), np.float32)
    result = await executor.execute(kit.batch_of(wide))
    np.testing.assert_array_equal(result.outputs["Y"], 2 * wide)


@pytest.mark.parametrize(
    ("refusal", "cause", "hint_ns"),
    [
        ((grpc.StatusCode.INVALID_ARGUMENT, "row 1 is odd"), "input", None),
        (
            (grpc.StatusCode.RESOURCE_EXHAUSTED, "full", [("grpc-retry-pushback-ms", "250")]),
            "overloaded",
            250 * MILLISECOND,
        ),
        ((grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size"), "overloaded", None),
        ((grpc.StatusCode.UNAVAILABLE, "stopping"), "unavailable", None),
        ((grpc.StatusCode.CANCELLED, "stopped"), "unavailable", None),
        ((grpc.StatusCode.NOT_FOUND, "gone"), "unavailable", None),
        ((grpc.StatusCode.INTERNAL, "the model raised"), "unknown", None),
    ],
)
async def test_a_refusal_has_the_right_cause(neighbor, load, refusal, cause, hint_ns, kit):
    def refuse(request, call):
        raise kit.Refusal(*refusal)

    neighbor.infer = refuse
    neighbor.start()
    executor, _ = await load()
    with pytest.raises(ExecutionError, match=refusal[1]) as raised:
        await executor.execute(kit.batch_of(X))
    assert (raised.value.cause, raised.value.retry_after_ns) == (cause, hint_ns)
    neighbor.infer = kit.double
    await executor.execute(kit.batch_of(X))


async def test_a_message_that_is_too_large_for_the_neighbor_is_no_overload(neighbor, load, kit):
    neighbor.options = [("grpc.max_receive_message_length", 60)]
    neighbor.start()
    executor, _ = await load()
    with pytest.raises(ExecutionError, match="larger than max") as raised:
        await executor.execute(kit.batch_of(X))
    assert raised.value.cause == "input"


async def test_a_batch_beyond_max_message_is_not_sent(neighbor, load, kit):
    neighbor.start()
    executor, _ = await load(max_message="60B")
    with pytest.raises(
        ExecutionError, match=r"of 7\d bytes .* options.max_message allows 60"
    ) as raised:
        await executor.execute(kit.batch_of(X))
    assert raised.value.cause == "input"
    assert neighbor.calls.empty()


async def test_an_answer_beyond_max_message_fails(neighbor, load, kit):
    neighbor.infer = lambda request, call: inference.ModelInferResponse(model_name="m" * 1000)
    neighbor.start()
    executor, _ = await load(max_message="900B")
    with pytest.raises(ExecutionError, match="larger than max"):
        await executor.execute(kit.batch_of(X))


async def test_a_lost_connection_is_unavailable_and_the_next_batch_is_answered(neighbor, load, kit):
    neighbor.infer = lambda request, call: call.ended.wait(20) and kit.answer_of({})
    neighbor.start()
    executor, _ = await load()
    task = asyncio.ensure_future(executor.execute(kit.batch_of(X)))
    await kit.soon(neighbor.call)
    await kit.soon(neighbor.stop)
    with pytest.raises(ExecutionError) as raised:
        await task
    assert raised.value.cause == "unavailable"
    with pytest.raises(ExecutionError) as raised:
        await executor.execute(kit.batch_of(X))
    assert raised.value.cause == "unavailable"
    neighbor.infer = kit.double
    neighbor.start()
    async with asyncio.timeout(20):
        while True:
            try:
                result = await executor.execute(kit.batch_of(X))
                break
            except ExecutionError:
                await asyncio.sleep(0)
    np.testing.assert_array_equal(result.outputs["Y"], 2 * X)


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ({}, "no output 'Y'"),
        ({"Y": X, "Q": X}, "an output 'Q' that the model lacks; it has Y"),
        ({"Y": X.astype(np.float64)}, "output 'Y' as 'FP64', not FP32"),
        ({"Y": X[:2]}, r"output 'Y' of shape \[2, 4\] for a batch of 3 rows"),
        ({"Y": X[:, :3]}, r"output 'Y' of shape \[3, 3\], which \[-1, 4\] excludes"),
        ({"Y": X.reshape(-1)}, r"output 'Y' of shape \[12\], which"),
        ({"Y": X[:0]}, "for a batch of 3 rows"),
    ],
)
async def test_a_wrong_answer_is_an_error_that_says_so(neighbor, load, outputs, said, kit):
    neighbor.infer = lambda request, call: kit.answer_of(outputs)
    neighbor.start()
    executor, _ = await load()
    with pytest.raises(ExecutionError, match=said) as raised:
        await executor.execute(kit.batch_of(X))
    assert raised.value.cause == "unknown"
    neighbor.infer = kit.double
    await executor.execute(kit.batch_of(X))


async def test_unix_socket(neighbor, load, tmp_path, kit):
    neighbor.address = f"unix:{tmp_path}/s"
    neighbor.start()
    executor, metadata = await load()
    await executor.execute(kit.batch_of(X))
    assert metadata.properties["neighbor"] == neighbor.address
