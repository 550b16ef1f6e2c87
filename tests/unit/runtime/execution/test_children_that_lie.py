"""Whatever a child sends, the server goes on: the child is believed, or it is lost with a reason."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.clock import monotonic_ns
from batcher.executor import Capabilities, LoadContext, ModelMetadata, TensorSpec
from batcher.executors.isolated import messages
from batcher.executors.isolated.arena import Arena
from batcher.executors.isolated.frames import MAX_MESSAGE, frame
from batcher.executors.isolated.hosted import ChildEnd
from batcher.executors.isolated.link import MAX_UNSENT, Link
from batcher.executors.isolated.values import plain
from batcher.runtime.execution import process_worker
from batcher.runtime.execution.gather import Slice
from batcher.runtime.execution.process_worker import ProcessWorker
from batcher.runtime.interface.layout import layout_of
from batcher.runtime.request import InferenceRequest
from batcher.telemetry.reasons import LossReason
from batcher.tensors import Tensor

METADATA = ModelMetadata(
    "m",
    (TensorSpec("X", "FP32", (-1, -1)),),
    (TensorSpec("Y", "FP32", (-1, -1)), TensorSpec("B", "BYTES", (-1, -1))),
)
HELLO = [messages.HELLO, messages.VERSION, plain(Capabilities()), False, True, True]
LOADED = [messages.LOADED, msgpack.unpackb(msgpack.packb(plain(METADATA))), False]


class FakeChild:
    """In the place of `HostedChild`: a test sends in its name."""

    made: list[FakeChild] = []  # noqa: RUF012 - emptied by each test

    def __init__(self, loop, received, ended, line):
        self.received, self.ended = received, ended
        self.arena = Arena(1 << 20)
        self.sent = []
        self.killed = []
        self.pid = 4
        self.gone = asyncio.Event()
        FakeChild.made.append(self)

    async def start(self, name):
        pass

    def send(self, message):
        self.sent.append(msgpack.unpackb(frame(message)[4:], strict_map_key=False))

    def says(self, *message):
        self.received(msgpack.unpackb(msgpack.packb(list(message)), strict_map_key=False))

    def kill(self, why=""):
        self.killed.append(why)
        if not self.gone.is_set():
            self.gone.set()
            if why:
                asyncio.get_running_loop().call_soon(self.ended, ChildEnd(LossReason.BROKEN, why))


@pytest.fixture(autouse=True)
def _fake(monkeypatch):
    monkeypatch.setattr(process_worker, "HostedChild", FakeChild)
    FakeChild.made.clear()
    yield
    for child in FakeChild.made:
        child.arena.close()


class Loaded:
    """A worker whose child says that its model is loaded."""

    async def start(self, *, load=True):
        loop = asyncio.get_running_loop()
        self.worker = ProcessWorker("m:C", "m#0", loop, monotonic_ns)
        self.child = FakeChild.made[-1]
        self.lost = []
        self.worker.lost = self.lost.append
        self.loading = loop.create_task(self.worker.load(LoadContext("m", "1", 0, "cpu", 8, {})))
        await asyncio.sleep(0)
        if load:
            self.child.says(*HELLO)
            self.child.says(*LOADED)
            await self.loading
        self.ended = []
        return self

    def run(self, rows=2, columns=1):
        array = np.zeros((rows, columns), np.float32)
        request = InferenceRequest("m", {"X": Tensor("FP32", array)}, 0)
        cancel = self.worker.run([Slice(request, 0, rows)], layout_of(METADATA), self.ended.append)
        return cancel, self.child.sent[-1]

    async def end(self):
        for _ in range(4):
            await asyncio.sleep(0)
        self.worker.abandon()


def y(rows=2):
    return [
        ["Y", "<f4", [rows, 1], -1, bytes(4 * rows)],
        ["B", "|O", [rows, 1], -1, msgpack.packb([b""] * rows)],
    ]


def now():
    return [monotonic_ns()] + [0] + [monotonic_ns()] * 3


async def test_an_answer_is_believed():
    loaded = await Loaded().start()
    _, run = loaded.run()
    assert run[:3] == [messages.RUN, 1, 2]
    loaded.child.says(messages.RESULT, 1, now(), y(), {1: "no"})
    (executed,) = loaded.ended
    assert executed.result.row_errors == {1: "no"}
    assert executed.result.outputs["Y"].tolist() == [[0.0], [0.0]]
    await loaded.end()
    assert not loaded.lost


LIES = {
    "another batch": lambda: [messages.RESULT, 2, now(), y(), {}],
    "the future": lambda: [messages.RESULT, 1, [2**62, 0, 2**62, 2**62, 2**62], y(), {}],
    "the past": lambda: [messages.RESULT, 1, [1, 0, 1, 1, 1], y(), {}],
    "no memory was given": lambda: [
        messages.RESULT,
        1,
        now(),
        [["Y", "<f4", [2, 1], 0, 8]],
        {},
    ],
    "a wrong size": lambda: [messages.RESULT, 1, now(), [["Y", "<f4", [9, 1], -1, bytes(8)]], {}],
    "a row that is none": lambda: [messages.RESULT, 1, now(), y(), {2: "no"}],
    "a cause that is none": lambda: [messages.FAILED, 1, now(), "bored", "no", None],
    "a time that is none": lambda: [messages.FAILED, 1, now(), "overloaded", "no", -5],
    "outputs of no size": lambda: [messages.NEEDS_ROOM, 1, 0],
    "an unknown kind": lambda: [99],
    "a kind of the server's": lambda: [messages.RUN, 1],
    "loaded again": lambda: LOADED,
    "hello again": lambda: HELLO,
    "health without a question": lambda: [messages.HEALTH, 1, ""],
    "an end that was not asked for": lambda: [messages.CLOSED, ""],
    "a text without end": lambda: [messages.FAILED, 1, now(), "unknown", "x" * 70_000, None],
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_child_that_lies_is_lost_and_its_batches_fail(lie):
    loaded = await Loaded().start()
    loaded.run()
    await asyncio.sleep(0)
    loaded.child.says(*LIES[lie]())
    assert len(loaded.child.killed) == 1
    assert loaded.child.killed[0].startswith("it sent ")
    loaded.child.says(messages.RESULT, 1, now(), y(), {})  # believed no more
    assert not loaded.ended
    for _ in range(4):
        await asyncio.sleep(0)
    (end,) = loaded.lost
    assert end.reason is LossReason.BROKEN
    assert loaded.child.killed[0] in end.why
    (executed,) = loaded.ended
    assert executed.result is None
    assert loaded.child.killed[0] in executed.failure
    loaded.run()
    await asyncio.sleep(0)
    assert loaded.ended[1].result is None  # and later ones do not hang
    await loaded.end()


async def test_a_batch_that_is_answered_twice_is_a_lie():
    loaded = await Loaded().start()
    loaded.run()
    for _ in range(2):
        loaded.child.says(messages.RESULT, 1, now(), y(), {})
    assert len(loaded.ended) == 1
    assert loaded.child.killed
    await loaded.end()


@pytest.mark.parametrize("said", [LOADED, [messages.RESULT, 1, [], [], {}], [messages.WATCHED]])
async def test_a_child_that_lies_before_it_has_loaded_ends_the_load(said):
    loaded = await Loaded().start(load=False)
    loaded.child.says(*said)
    with pytest.raises(process_worker.ModelLoadError, match=r"model 'm': .*it sent a"):
        await loaded.loading


async def test_room_is_given_back_however_a_batch_ends():
    loaded = await Loaded().start()
    arena = loaded.child.arena
    for answer in (
        lambda number: [messages.FAILED, number, now(), "unknown", "no", None],
        lambda number: [messages.SKIPPED, number],
        lambda number: [messages.RESULT, number, now(), y(8), {}],
    ):
        _, run = loaded.run(rows=8, columns=8192)
        assert arena.used >= 8 * 8192 * 4
        loaded.child.says(messages.NEEDS_ROOM, run[1], run[10] + 100_000)
        assert loaded.child.sent[-1][:2] == [messages.ROOM, run[1]]
        loaded.child.says(*answer(run[1]))
        loaded.ended.clear()
    loaded.worker._batches._outputs.take_back()
    assert arena.used == 0
    assert not loaded.child.killed
    await loaded.end()


async def test_a_batch_that_cannot_be_sent_keeps_no_room():
    loaded = await Loaded().start()
    arena = loaded.child.arena
    _, run = loaded.run(rows=8)
    loaded.child.says(messages.NEEDS_ROOM, run[1], 20_000)
    loaded.child.says(messages.FAILED, run[1], now(), "unknown", "no", None)
    assert arena.used == 0
    text = "x" * (MAX_MESSAGE + 1)
    array = Tensor("FP32", np.zeros((8, 1), np.float32))
    request = InferenceRequest("m", {"X": array}, 0, parameters={"p": text})
    layout = replace(layout_of(METADATA), parameters=("p",))
    loaded.ended.clear()
    loaded.worker.run([Slice(request, 0, 8)], layout, loaded.ended.append)
    await asyncio.sleep(0)
    (executed,) = loaded.ended
    assert "cannot be sent to its child process" in executed.failure
    assert arena.used == 0
    await loaded.end()


@pytest.mark.parametrize("nbytes", [500_000, (1 << 20) + 1, 1 << 40])
async def test_outputs_without_room_are_refused_and_not_waited_for(nbytes):
    loaded = await Loaded().start()
    loaded.run()
    loaded.child.arena.allocate((1 << 20) - 200_000)
    loaded.child.says(messages.NEEDS_ROOM, 1, nbytes)
    assert loaded.child.sent[-1] == [messages.ROOM, 1, -1, 0]
    await loaded.end()


async def test_inputs_without_room_fail_the_batch_for_lack_of_memory():
    loaded = await Loaded().start()
    array = np.zeros((8, 40_000), np.float32)
    request = InferenceRequest("m", {"X": Tensor("FP32", array)}, 0)
    loaded.worker.run([Slice(request, 0, 8)], layout_of(METADATA), loaded.ended.append)
    while not loaded.ended:  # noqa: ASYNC110 - a thread gathers it
        await asyncio.sleep(0)
    assert "find no room in the memory that the child process shares" in loaded.ended[0].failure
    assert loaded.child.arena.used == 0
    await loaded.end()


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
kinds = st.sampled_from(range(messages.HELLO, messages.CLOSED + 2))
said = st.tuples(kinds, st.lists(st.integers(0, 3) | anything, max_size=6))


@settings(max_examples=300)
@given(st.lists(said, max_size=8), st.integers(0, 8))
def test_no_message_of_a_child_hangs_or_breaks_the_server(all_said, before):
    async def play():
        loaded = await Loaded().start()
        loop_errors = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: loop_errors.append(context)
        )
        for place, (kind, rest) in enumerate(all_said):
            if place == before:
                loaded.run()
            loaded.child.says(kind, *rest)
        runs = loaded.worker._batches.running
        loaded.child.kill("the end")
        for _ in range(6):
            await asyncio.sleep(0)
        assert not loaded.worker._batches.running
        assert len(loaded.ended) >= runs
        assert len(loaded.lost) == 1
        assert not loop_errors
        await loaded.end()
        loaded.child.arena.close()

    asyncio.run(play())


@settings(max_examples=100)
@given(st.lists(st.binary(min_size=1, max_size=40) | said.map(lambda m: frame([m[0], *m[1]]))))
def test_any_bytes_of_a_socket_are_messages_or_its_end(pieces):
    async def play():
        ours, theirs = socket.socketpair()
        found, broken = [], []
        link = Link(ours, asyncio.get_running_loop(), found.append, broken.append)
        theirs.sendall(b"".join(pieces))
        theirs.close()
        async with asyncio.timeout(60):
            while not broken:  # noqa: ASYNC110 - the loop reads
                await asyncio.sleep(0)
        assert len(broken) == 1
        link.close()

    asyncio.run(play())


async def test_a_child_that_does_not_read_is_bounded_and_named():
    ours, theirs = socket.socketpair()
    broken = []
    link = Link(ours, asyncio.get_running_loop(), lambda _: None, broken.append)
    for _ in range(MAX_UNSENT // 1_000_000 + 2):
        link.send([1, bytes(1_000_000)])
    assert broken == [broken[0]]
    assert "it does not read" in broken[0]
    link.close()
    theirs.close()


async def test_what_waits_is_sent_in_order_when_the_child_reads():
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    loop = asyncio.get_running_loop()
    link = Link(ours, loop, lambda _: None, lambda _: None)
    sent = b""
    for number in range(40):
        link.send([number, bytes(50_000)])
        sent += frame([number, bytes(50_000)])
    got = b""
    async with asyncio.timeout(60):
        while len(got) < len(sent):
            got += await loop.sock_recv(theirs, 1 << 20)
    assert got == sent
    link.close()
    theirs.close()
