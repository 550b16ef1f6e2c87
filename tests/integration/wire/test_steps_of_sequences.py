"""What a client of a model with sequences sees: answers, refusals, limits, and the model's description."""

import asyncio
import threading
from dataclasses import replace

import grpc
import numpy as np
import pytest

from batcher import plugins
from batcher.executor import BatchResult, Capabilities, ModelMetadata, TensorSpec
from batcher.protocol import inference, model_config
from batcher.testing.messages import infer_request, output_arrays

INVALID, EXHAUSTED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED
STATE = [{"input": "h_in", "output": "h_out", "initial": [1.0, 2.0]}]
CONTROLS = {
    "start": {"input": "START"},
    "end": {"input": "END"},
    "ready": {"input": "READY", "values": [-1, 1]},
    "id": "ID",
}


def fp32(name, size):
    return TensorSpec(name, "FP32", (-1, size))


COUNTER = ModelMetadata(
    "fake",
    (
        fp32("X", 4),
        fp32("h_in", 2),
        TensorSpec("START", "INT32", (-1, 1)),
        TensorSpec("END", "BOOL", (-1, 1)),
        TensorSpec("READY", "FP32", (-1, 1)),
        TensorSpec("ID", "UINT64", (-1, 1)),
    ),
    (fp32("Y", 1), fp32("seen", 4), fp32("h_out", 2)),
)
SLOTTED = ModelMetadata("fake", (fp32("X", 4),), (fp32("Y", 1),))


def count(batch):
    """`Y` sums up the first elements of X; `seen` are the controls."""
    given = batch.inputs
    h_out = given["h_in"] + given["X"][:, :1] * np.array([[1, 0]], np.float32)
    seen = [given[name].astype(np.float32) for name in ("START", "END", "READY", "ID")]
    return BatchResult({"Y": h_out[:, :1], "seen": np.hstack(seen), "h_out": h_out})


class Slots:
    """An executor that keeps sums in slots itself; a row with a negative sum fails."""

    capabilities = Capabilities()

    def load(self, context):
        self.sums = np.zeros(context.sequence_slots, np.float32)
        return SLOTTED

    def execute(self, batch):
        errors = {}
        for row, step in enumerate(batch.sequences):
            if step.start:
                self.sums[step.slot] = 0
            self.sums[step.slot] += batch.inputs["X"][row, 0]
            if self.sums[step.slot] < 0:
                errors[row] = "negative"
        if not batch.sequences:
            # A warm-up batch: its rows are steps of nothing.
            return BatchResult({"Y": np.zeros((batch.rows, 1), np.float32)})
        slots = [step.slot for step in batch.sequences]
        return BatchResult({"Y": self.sums[slots][:, None]}, errors)

    def close(self):
        pass


def step(
    sequence, value=1.0, *, start=False, end=False, rows=1, columns=4, model="counter", **fields
):
    x = np.full((rows, columns), value, np.float32)
    request = infer_request(model, {"X": x}, **fields)
    kind = "string_param" if isinstance(sequence, str) else "int64_param"
    if sequence is not None:
        setattr(request.parameters["sequence_id"], kind, sequence)
    request.parameters["sequence_start"].bool_param = start
    request.parameters["sequence_end"].bool_param = end
    return request


@pytest.fixture
def counter(start, fakes):
    """A function that starts a server with the model `counter`, or `slots`, and a plain one."""

    async def serve(*, server=None, model="counter", **sequence):
        fakes.options = {"metadata": COUNTER, "answer": count}
        section = {"state": STATE, "controls": CONTROLS} | sequence
        return await start(
            {
                "server": server or {},
                "models": [
                    {"name": model, "executor": "fake", "sequence": section},
                    {"name": "hello", "executor": "emulated", "options": {"columns": 4}},
                ],
            }
        )

    return serve


@pytest.fixture
async def stub(counter, dial):
    application = await counter()
    return await dial(application.grpc.addresses[0])


async def ask(stub, *given, **rest):
    return float(output_arrays(await stub.ModelInfer(step(*given, **rest)))["Y"][0, 0])


async def refusal(stub, *given, metadata=(), **rest):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.ModelInfer(step(*given, **rest), metadata=metadata)
    return refused.value.code(), refused.value.details()


async def test_state_is_kept_from_step_to_step(stub):
    assert await ask(stub, 5, 10.0, start=True) == 11.0
    assert await ask(stub, 6, 1.0, start=True) == 2.0
    assert await ask(stub, 5, 20.0) == 31.0
    assert await ask(stub, 5, 1.0, end=True) == 32.0
    assert await ask(stub, 6, 1.0, end=True) == 3.0


async def test_the_model_is_told_which_step_it_is(stub):
    async def told(**flags):
        response = await stub.ModelInfer(step(2**40, **flags))
        return output_arrays(response)["seen"][0].tolist()

    assert await told(start=True) == [1, 0, 1, 2.0**40]
    assert await told() == [0, 0, 1, 2.0**40]
    assert await told(end=True) == [0, 1, 1, 2.0**40]


async def test_state_is_returned_only_where_it_is_named(stub):
    response = await stub.ModelInfer(step(1, start=True))
    assert [output.name for output in response.outputs] == ["Y", "seen"]
    request = step(1)
    request.outputs.add(name="h_out")
    response = await stub.ModelInfer(request)
    assert {k: v.tolist() for k, v in output_arrays(response).items()} == {"h_out": [[3.0, 2.0]]}
    request = step(1)
    request.outputs.add(name="Y")
    response = await stub.ModelInfer(request)
    assert [output.name for output in response.outputs] == ["Y"]
    assert await ask(stub, 1) == 5.0


async def test_clients_do_not_send_state_or_controls(stub):
    for name in ("h_in", "START", "ID"):
        request = step(1, start=True)
        request.inputs.add(name=name, datatype="FP32", shape=(1, 2))
        request.raw_input_contents.append(bytes(8))
        with pytest.raises(grpc.aio.AioRpcError, match=f"unknown input '{name}'; the inputs are X"):
            await stub.ModelInfer(request)


async def test_the_description_shows_clients_what_they_send(stub):
    metadata = await stub.ModelMetadata(inference.ModelMetadataRequest(name="counter"))
    assert [spec.name for spec in metadata.inputs] == ["X"]
    assert [spec.name for spec in metadata.outputs] == ["Y", "seen"]
    server = await stub.ServerMetadata(inference.ServerMetadataRequest())
    assert "sequence" in server.extensions
    answer = await stub.ModelConfig(inference.ModelConfigRequest(name="counter"))
    described = answer.config.sequence_batching
    assert described.max_sequence_idle_microseconds == 60_000_000
    assert described.WhichOneof("strategy_choice") == "oldest"
    (state,) = described.state
    assert (state.input_name, state.output_name, list(state.dims)) == ("h_in", "h_out", [2])
    kinds = model_config.ModelSequenceBatching.Control.Kind
    controls = {c.name: c.control[0] for c in described.control_input}
    assert {name: kinds.Name(control.kind) for name, control in controls.items()} == {
        "START": "CONTROL_SEQUENCE_START",
        "END": "CONTROL_SEQUENCE_END",
        "READY": "CONTROL_SEQUENCE_READY",
        "ID": "CONTROL_SEQUENCE_CORRID",
    }
    assert list(controls["START"].int32_false_true) == [0, 1]
    assert list(controls["END"].bool_false_true) == [False, True]
    assert list(controls["READY"].fp32_false_true) == [-1, 1]
    plain = await stub.ModelConfig(inference.ModelConfigRequest(name="hello"))
    assert not plain.config.HasField("sequence_batching")


async def test_each_refusal_says_what_to_do(stub):
    code, text = await refusal(stub, 5)
    assert (code, "sequence 5 is not open" in text) == (INVALID, True)
    assert text.endswith("its first step must have sequence_start")
    for none in (None, 0, ""):
        code, text = await refusal(stub, none, start=True)
        assert (code, "names no sequence" in text) == (INVALID, True)
    code, text = await refusal(stub, 5, start=True, rows=2)
    assert (code, "2 rows; a step of a sequence has one row" in text) == (INVALID, True)
    code, text = await refusal(stub, "five", start=True)
    assert (code, "takes a whole number" in text) == (INVALID, True)
    await ask(stub, 5, start=True, end=True)
    code, text = await refusal(stub, 5)
    assert (code, "has ended: its last step" in text) == (INVALID, True)
    assert text.endswith("start it again, with sequence_start")


async def test_a_plain_model_says_how_to_have_sequences(stub):
    for request in (step(5), step(None, start=True), step(None, end=True)):
        request.model_name = "hello"
        with pytest.raises(grpc.aio.AioRpcError, match="no section `sequence`; configure one"):
            await stub.ModelInfer(request)
    zero = step(0)
    zero.model_name = "hello"
    await stub.ModelInfer(zero)


async def test_the_texts_are_tritons_where_that_is_asked_for(counter, dial):
    application = await counter(server={"status_codes": "triton"})
    stub = await dial(application.grpc.addresses[0])
    assert await refusal(stub, 5) == (
        INVALID,
        (
            "inference request for sequence 5 to model 'counter' must specify the START flag on the first"
            " request of the sequence"
        ),
    )
    assert await refusal(stub, None) == (
        INVALID,
        "inference request to model 'counter' must specify a non-zero or non-empty correlation ID",
    )
    assert await refusal(stub, 5, start=True, rows=2) == (
        INVALID,
        (
            "inference request to model 'counter' must specify batch-size 1 due to requirements of sequence"
            " batcher"
        ),
    )


async def test_a_start_begins_anew(stub):
    await ask(stub, 5, 10.0, start=True)
    assert await ask(stub, 5, 1.0, start=True) == 2.0


async def test_a_tenant_has_sequences_of_its_own(stub):
    gold = (("x-batcher-tenant", "gold"),)
    await stub.ModelInfer(step(5, 10.0, start=True), metadata=gold)
    code, _ = await refusal(stub, 5)
    assert code is INVALID
    assert await ask(stub, 5, 1.0, start=True) == 2.0
    response = await stub.ModelInfer(step(5, 1.0), metadata=gold)
    assert output_arrays(response)["Y"].tolist() == [[12.0]]


async def test_the_number_of_sequences_is_limited(counter, dial):
    application = await counter(max_sequences=2)
    stub = await dial(application.grpc.addresses[0])
    await ask(stub, 1, start=True)
    await ask(stub, 2, start=True)
    code, text = await refusal(stub, 3, start=True)
    assert (code, "2 sequences are open already (sequence.max_sequences)" in text) == (
        EXHAUSTED,
        True,
    )
    await ask(stub, 2, start=True)
    await ask(stub, 1, end=True)
    await ask(stub, 3, start=True)


async def test_the_memory_of_state_is_limited(counter, dial):
    application = await counter(max_state="20B")
    stub = await dial(application.grpc.addresses[0])
    await ask(stub, 1, start=True)
    await ask(stub, 2, start=True)
    code, text = await refusal(stub, 3, start=True)
    assert (code, "(sequence.max_state)" in text) == (EXHAUSTED, True)
    await ask(stub, 2, start=True)


async def test_an_idle_sequence_expires(counter, dial, eventually):
    application = await counter(idle_timeout="20ms")
    stub = await dial(application.grpc.addresses[0])
    await ask(stub, 1, start=True)
    counts = next(iter(application.models)).sequence_counts
    await eventually(lambda: counts.open == 0)
    code, text = await refusal(stub, 1)
    assert (code, "has expired: it was idle for more than 20ms" in text) == (INVALID, True)
    assert counts.ended == {"ended": 0, "replaced": 0, "expired": 1, "lost": 0}
    assert counts.state_bytes == 0


async def test_the_waiting_steps_of_a_sequence_are_limited(counter, dial, fakes, eventually):
    application = await counter(max_waiting_steps=2)
    stub = await dial(application.grpc.addresses[0])
    hang = fakes[0].hang_next()
    calls = [asyncio.ensure_future(ask(stub, 1, 1.0, start=True))]
    await asyncio.to_thread(hang.wait_entered)
    calls += [asyncio.ensure_future(ask(stub, 1, 1.0)) for _ in range(2)]
    await eventually(lambda: application.runner.observe().models[0].held_requests == 2)
    code, text = await refusal(stub, 1)
    assert (code, "2 steps of sequence 1 wait already" in text) == (EXHAUSTED, True)
    hang.release()
    await calls[0]
    assert {await call for call in calls[1:]} == {3.0, 4.0}


async def test_steps_behind_a_first_one_that_fails_are_steps_of_nothing(
    counter, dial, fakes, eventually
):
    application = await counter()
    stub = await dial(application.grpc.addresses[0])
    failing = threading.Event()

    def fail(_):
        failing.wait(10)
        raise RuntimeError("no luck")

    fakes[0].answer_next(fail)
    calls = [asyncio.ensure_future(ask(stub, 1, 1.0, start=True))]
    await eventually(lambda: application.runner.observe().models[0].executing_requests == 1)
    calls += [asyncio.ensure_future(ask(stub, 1, 1.0)) for _ in range(2)]
    await eventually(lambda: application.runner.observe().models[0].held_requests == 2)
    failing.set()
    with pytest.raises(grpc.aio.AioRpcError, match="no luck"):
        await calls[0]
    for call in calls[1:]:
        with pytest.raises(grpc.aio.AioRpcError, match="its first step was not answered") as lost:
            await call
        assert lost.value.code() is INVALID
    _, text = await refusal(stub, 1)
    assert "was lost: its first step was not answered (unknown)" in text


async def test_a_failed_step_leaves_the_state_as_it_was(stub, fakes):
    await ask(stub, 1, 10.0, start=True)
    fakes[0].fail_next(RuntimeError("no luck"))
    code, _ = await refusal(stub, 1, 5.0)
    assert code is grpc.StatusCode.INTERNAL
    assert await ask(stub, 1, 1.0) == 12.0


async def test_a_state_of_another_shape_fails_the_step(stub, fakes):
    await ask(stub, 1, 10.0, start=True)

    def wrong(batch):
        result = count(batch)
        return BatchResult({**result.outputs, "h_out": np.zeros((batch.rows, 3), np.float32)})

    fakes[0].answer_next(wrong)
    code, text = await refusal(stub, 1, 5.0)
    assert code is grpc.StatusCode.INTERNAL
    assert "output 'h_out': its shape is [1, 3], and the model's is [1, 2]" in text
    assert await ask(stub, 1, 1.0) == 12.0


async def test_an_answer_that_is_too_large_leaves_the_state_as_it_was(
    counter, dial, fakes, monkeypatch
):
    varying = (fp32("Y", 1), fp32("seen", -1), fp32("h_out", 2))
    monkeypatch.setitem(globals(), "COUNTER", replace(COUNTER, outputs=varying))
    application = await counter(server={"max_message": "64KiB"})
    stub = await dial(application.grpc.addresses[0])
    await ask(stub, 1, 10.0, start=True)

    def large(batch):
        result = count(batch)
        return BatchResult({**result.outputs, "seen": np.zeros((batch.rows, 40_000), np.float32)})

    fakes[0].answer_next(large)
    code, _ = await refusal(stub, 1, 5.0, end=True)
    assert code is EXHAUSTED
    assert await ask(stub, 1, 1.0) == 12.0


async def test_steps_on_one_stream_keep_their_order_whatever_their_size(counter, dial, monkeypatch):
    varying = (TensorSpec("X", "FP32", (-1, -1)), *COUNTER.inputs[1:])
    monkeypatch.setitem(globals(), "COUNTER", replace(COUNTER, inputs=varying))
    application = await counter()
    stub = await dial(application.grpc.addresses[0])

    def steps():
        for place in range(40):
            # Large messages are read on a thread.
            columns = 1 if place % 3 else 300_000
            yield step(1, float(place), start=not place, columns=columns)

    sums = []
    async for answer in stub.ModelStreamInfer(steps()):
        assert not answer.error_message, answer.error_message
        sums.append(float(output_arrays(answer.infer_response)["Y"][0, 0]))
    assert sums == [1.0 + sum(range(place + 1)) for place in range(40)]


@pytest.fixture
async def slots(start, monkeypatch):
    find = plugins.find_executor
    monkeypatch.setattr(
        plugins, "find_executor", lambda name: Slots if name == "slots" else find(name)
    )

    async def serve(**sequence):
        section = {"strategy": "slot"} | sequence
        return await start(
            {"models": [{"name": "counter", "executor": "slots", "sequence": section}]}
        )

    return serve


async def test_an_executor_keeps_state_by_slot(slots, dial):
    application = await slots(max_sequences=3)
    stub = await dial(application.grpc.addresses[0])
    for _ in range(3):
        await asyncio.gather(*(ask(stub, n, float(n), start=True) for n in (1, 2, 3)))
        code, _ = await refusal(stub, 4, start=True)
        assert code is EXHAUSTED
        sums = await asyncio.gather(*(ask(stub, n, 1.0, end=True) for n in (1, 2, 3)))
        assert sums == [2.0, 3.0, 4.0]


async def test_a_failed_step_ends_a_sequence_whose_state_the_executor_keeps(slots, dial):
    application = await slots()
    stub = await dial(application.grpc.addresses[0])
    await ask(stub, 1, 1.0, start=True)
    code, text = await refusal(stub, 1, -5.0)
    assert (code, "negative" in text) == (INVALID, True)
    code, text = await refusal(stub, 1, 1.0)
    assert code is INVALID
    assert "was lost: a step that was executed was not answered (input); start it again" in text
    assert await ask(stub, 1, 1.0, start=True) == 1.0


async def test_a_reload_keeps_open_sequences_on_their_generation(start, dial, fakes):
    fakes.options = {"metadata": COUNTER, "answer": count}
    section = {"state": STATE, "controls": CONTROLS}
    model = {"name": "counter", "executor": "fake", "sequence": section}
    server = {"admin": ["127.0.0.1:0"]}
    application = await start({"server": server, "models": [model]})
    stub = await dial(application.grpc.addresses[0])
    admin = await dial(application.grpc.admin_addresses[0])
    await ask(stub, 1, 10.0, start=True)
    await admin.RepositoryModelLoad(inference.RepositoryModelLoadRequest(model_name="counter"))
    assert await ask(stub, 2, 1.0, start=True) == 2.0
    assert await ask(stub, 1, 1.0) == 12.0
    ran = [
        len([call for call in fake.calls if call.batch is not None and call.batch.sequences])
        for fake in fakes
    ]
    assert ran == [2, 1]
    assert await ask(stub, 1, 1.0, end=True) == 13.0
    # Then nothing keeps the old generation.
    await asyncio.wait_for(application.runner.sequences.closed("counter/1"), 10)
    assert await ask(stub, 2, 1.0) == 3.0


async def test_steps_of_different_lengths_share_padded_batches(start, dial, fakes, eventually):
    varying = (TensorSpec("X", "FP32", (-1, -1)), *COUNTER.inputs[1:])
    fakes.options = {"metadata": replace(COUNTER, inputs=varying), "answer": count}
    application = await start(
        {
            "models": [
                {
                    "name": "counter",
                    "executor": "fake",
                    "sequence": {"state": STATE, "controls": CONTROLS},
                    "padding": [{"input": "X", "axis": 1, "buckets": [8]}],
                }
            ]
        }
    )
    stub = await dial(application.grpc.addresses[0])
    hang = fakes[0].hang_next()
    first = asyncio.ensure_future(ask(stub, 9, 1.0, start=True))
    await asyncio.to_thread(hang.wait_entered)
    calls = [
        asyncio.ensure_future(ask(stub, n, float(n), start=True, columns=n)) for n in (1, 3, 7)
    ]
    await eventually(lambda: application.runner.observe().models[0].waiting_requests == 3)
    hang.release()
    await first
    assert await asyncio.gather(*calls) == [2.0, 4.0, 8.0]
    assert fakes[0].calls[-1].batch.inputs["X"].shape == (3, 8)
    assert await ask(stub, 3, 1.0, columns=8) == 5.0
    code, text = await refusal(stub, 3, columns=9)
    assert (code, "9" in text) == (INVALID, True)
