"""500 interleaved sequences, whose steps are cancelled, expire and fail, against each of them alone.

The model is the recurrent one of examples/sequences. Its results do not depend on the batch, so that each answer
must be equal, to the last bit, to what the same steps alone give in a session of their own.
"""

import asyncio
import random
import runpy
from pathlib import Path

import grpc
import numpy as np
import pytest

from batcher.protocol import INFERENCE, Stub, inference

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

EXAMPLE = Path(__file__).parents[3] / "examples" / "sequences"
SEQUENCES, LONGEST = 500, 12
PATIENCE_S = 60.0

UNANSWERED = 45
"""Steps that one of 20 streams sends ahead: together fewer than may wait in the queue."""

pytestmark = pytest.mark.slow


class Alone:
    """What a sequence alone would have come to: every state that it may be in now.

    There are several after steps of which the client cannot know whether they were answered.
    """

    def __init__(self, session):
        self._session = session
        self.states = [np.zeros((1, 16), np.float32)]

    def _after(self, state, frame):
        return self._session.run(None, {"frame": frame, "h_in": state})

    def answered(self, frame, speech):
        """The answer to a step, as bytes; it must be right for one of the states."""
        results = [self._after(state, frame) for state in self.states]
        self.states = [state for found, state in results if found.tobytes() == speech]
        assert self.states, "not what the sequence alone gives"

    def unknown(self, frame):
        """A step that may have counted or not."""
        self.states += [self._after(state, frame)[1] for state in self.states]


@pytest.fixture(scope="session")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("detector") / "detector.onnx"
    build = runpy.run_path(str(EXAMPLE / "make_model.py"))["build_model"]
    path.write_bytes(build().SerializeToString())
    return path


@pytest.fixture(scope="session")
def session(model_file):
    return onnxruntime.InferenceSession(str(model_file), providers=["CPUExecutionProvider"])


@pytest.fixture
def detector(serve, model_file):
    return serve(
        {
            "models": [
                {
                    "name": "detector",
                    "executor": "onnxruntime",
                    "options": {"path": str(model_file), "providers": ["cpu"]},
                    "instances": 2,
                    "on_nan": "fail",
                    "sequence": {"state": [{"input": "h_in", "output": "h_out"}]},
                }
            ]
        }
    )


def step(sequence, frame, *, start, end, timeout_us=0):
    request = inference.ModelInferRequest(model_name="detector", id=str(sequence))
    request.inputs.add(name="frame", datatype="FP32", shape=frame.shape)
    request.raw_input_contents.append(frame.tobytes())
    if sequence % 2:
        request.parameters["sequence_id"].int64_param = sequence
    else:
        request.parameters["sequence_id"].string_param = f"recording {sequence}"
    request.parameters["sequence_start"].bool_param = start
    request.parameters["sequence_end"].bool_param = end
    if timeout_us:
        request.parameters["timeout"].int64_param = timeout_us
    return request


def frame_of(draw):
    frame = np.array([[draw.gauss(0, 1) for _ in range(8)]], np.float32)
    if draw.random() < 0.05:
        frame[0, draw.randrange(8)] = np.nan
    return frame


async def in_calls(stub, sequence, alone):
    """One sequence in unary calls, of which some are cancelled and some have too short a deadline."""
    draw = random.Random(sequence)
    open_, right = False, 0
    for _ in range(draw.randint(1, LONGEST)):
        frame, start, before = frame_of(draw), not open_, []
        if start:
            # If it never arrives, the sequence that may be open goes on.
            before, alone.states = alone.states, [np.zeros((1, 16), np.float32)]
        chance = draw.random()
        timeout_us = 1 if chance < 0.05 else 0
        timeout_s = draw.choice([0.0005, 0.002, 0.01]) if 0.05 < chance < 0.15 else PATIENCE_S
        request = step(sequence, frame, start=start, end=False, timeout_us=timeout_us)
        call = stub.ModelInfer(request, timeout=timeout_s)
        if 0.15 < chance < 0.25:
            asyncio.get_running_loop().call_later(draw.random() * 0.01, call.cancel)
        try:
            response = await call
        except asyncio.CancelledError:
            known = False
        except grpc.aio.AioRpcError as error:
            code, text = error.code(), error.details()
            if "sequence_start" in text:
                # Its first step did not count after all.
                if code is not grpc.StatusCode.INVALID_ARGUMENT or len(alone.states) == 1:
                    raise
                open_ = False
                continue
            wrong = code is grpc.StatusCode.INVALID_ARGUMENT and np.isnan(frame).any()
            refused = code is grpc.StatusCode.RESOURCE_EXHAUSTED and "deadline" in text
            if not (wrong or refused) and code is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
            # What waited for longer than its own `timeout` was never executed.
            known = wrong or refused or "own timeout" in text
        else:
            alone.answered(frame, response.raw_output_contents[0])
            assert [output.name for output in response.outputs] == ["speech"]
            open_, right = True, right + 1
            continue
        if not known:
            alone.unknown(frame)
            alone.states += before
            if start:
                # It may be open now, or not.
                open_ = draw.random() < 0.5
    return right


async def on_a_stream(stub, sequences, make_alone, draw):
    """Several sequences on one stream, with steps sent before those before them were answered."""
    sent, right = {}, 0
    room = asyncio.Semaphore(UNANSWERED)
    stream = stub.ModelStreamInfer(timeout=PATIENCE_S)
    plan = [s for s in sequences for _ in range(draw.randint(1, LONGEST))]
    draw.shuffle(plan)
    left = {s: plan.count(s) for s in sequences}

    async def write():
        for sequence in plan:
            left[sequence] -= 1
            frames = sent.setdefault(sequence, [])
            start, end = not frames, not left[sequence]
            frame = frame_of(draw)
            timeout_us = 1 if draw.random() < 0.05 else 0
            if start:
                frame, timeout_us = np.nan_to_num(frame), 0
            frames.append(frame)
            await room.acquire()
            await stream.write(step(sequence, frame, start=start, end=end, timeout_us=timeout_us))
        await stream.done_writing()

    writing = asyncio.create_task(write())
    alone = {sequence: make_alone() for sequence in sequences}
    place = dict.fromkeys(sequences, 0)
    async for answer in stream:
        sequence = int(answer.infer_response.id)
        frame = sent[sequence][place[sequence]]
        place[sequence] += 1
        room.release()
        if answer.error_message:
            text = answer.error_message
            assert ("NaN" in text and np.isnan(frame).any()) or "own timeout" in text, text
        else:
            alone[sequence].answered(frame, answer.infer_response.raw_output_contents[0])
            right += 1
    await writing
    assert sum(place.values()) == len(plan)
    return right


async def test_in_calls_each_sequence_gets_what_it_alone_would_get(detector, session, scrape):
    async with grpc.aio.insecure_channel(detector.grpc) as channel:
        stub = Stub(channel, INFERENCE)
        right = await asyncio.gather(
            *(in_calls(stub, n, Alone(session)) for n in range(1, SEQUENCES + 1))
        )
    assert sum(right) > 2 * SEQUENCES
    metrics = await scrape(detector.http)
    assert metrics.sum("batcher_batch_rows_count") < metrics.sum("batcher_batch_rows_sum")
    started = metrics.sum("batcher_sequences_started_total")
    ended = metrics.sum("batcher_sequences_ended_total")
    assert started == ended + metrics.sum("batcher_sequences_open") > SEQUENCES
    assert metrics.sum("batcher_sequence_state_bytes") == 64 * metrics.sum("batcher_sequences_open")


async def test_on_streams_each_sequence_gets_what_it_alone_would_get(detector, session, scrape):
    draw = random.Random(7)
    groups = [range(n, n + 25) for n in range(1, SEQUENCES + 1, 25)]
    async with grpc.aio.insecure_channel(detector.grpc) as channel:
        stub = Stub(channel, INFERENCE)
        right = await asyncio.gather(
            *(
                on_a_stream(stub, group, lambda: Alone(session), random.Random(draw.random()))
                for group in groups
            )
        )
    assert sum(right) > 4 * SEQUENCES
    metrics = await scrape(detector.http)
    assert metrics.sum("batcher_sequences_started_total") == SEQUENCES
    assert metrics.sum("batcher_sequence_steps_held") == 0
