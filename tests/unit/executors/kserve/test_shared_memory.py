"""Large tensors through shared memory, and what becomes of a region when something goes wrong."""

import asyncio
import errno
import fcntl
import logging
import os
import threading

import grpc
import numpy as np
import pytest

from batcher.executor import ExecutionError
from batcher.executors.kserve import regions, shared_memory
from batcher.executors.kserve.regions import PREFIX, Region

X = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture(autouse=True)
def small_is_worth_it(monkeypatch):
    monkeypatch.setattr(shared_memory, "WORTH_BYTES", 1)
    monkeypatch.setattr(regions, "PREFIX", f"{PREFIX}test-{os.getpid()}-")
    monkeypatch.setattr(shared_memory, "PREFIX", f"{PREFIX}test-{os.getpid()}-")


@pytest.fixture
def sharing(neighbor):
    """A neighbor with shared memory."""
    neighbor.regions = {}
    neighbor.infer = neighbor.double_in_memory
    return neighbor.start()


def files():
    return sorted(path.name for path in regions.FOLDER.glob(f"{regions.PREFIX}*"))


async def test_inputs_and_outputs_are_in_a_region(sharing, load, kit):
    executor, _ = await load()
    for batch in (X, -X, X[:1]):
        result = await executor.execute(kit.batch_of(batch))
        np.testing.assert_array_equal(result.outputs["Y"], 2 * batch)
        request = sharing.call().request
        assert not request.raw_input_contents
        assert sharing.memory(request.outputs[0]) is not None
    assert len(sharing.regions) == 1
    assert files() == list(sharing.regions)
    await executor.close()
    assert not sharing.regions
    assert not files()


async def test_results_do_not_change_with_the_next_batch(sharing, load, kit):
    executor, _ = await load()
    first = await executor.execute(kit.batch_of(X))
    await executor.execute(kit.batch_of(-X))
    np.testing.assert_array_equal(first.outputs["Y"], 2 * X)


async def test_outputs_of_unknown_size_come_in_the_message(sharing, load, kit):
    sharing.outputs = [("Y", "FP32", [-1, -1])]
    executor, _ = await load()
    result = await executor.execute(kit.batch_of(X))
    np.testing.assert_array_equal(result.outputs["Y"], 2 * X)
    request = sharing.call().request
    assert "shared_memory_region" in request.inputs[0].parameters
    assert not request.outputs[0].parameters


async def test_a_batch_that_is_too_large_for_its_region_gets_a_larger_one(sharing, load, kit):
    sharing.inputs, sharing.outputs = [("X", "FP32", [-1, -1])], [("Y", "FP32", [-1, -1])]
    executor, _ = await load()
    for columns in (4, 4000, 4):
        wide = np.ones((2, columns), np.float32)
        result = await executor.execute(kit.batch_of(wide))
        np.testing.assert_array_equal(result.outputs["Y"], 2 * wide)
    await executor.close()
    assert not sharing.regions
    assert not files()


async def test_batches_in_flight_have_regions_of_their_own(sharing, load, kit):
    together = asyncio.Barrier(2)
    loop = asyncio.get_running_loop()

    def wait_for_the_other(request, call):
        asyncio.run_coroutine_threadsafe(together.wait(), loop).result(20)
        return sharing.double_in_memory(request, call)

    executor, _ = await load()
    sharing.infer = wait_for_the_other
    one, two = await asyncio.gather(
        executor.execute(kit.batch_of(X)), executor.execute(kit.batch_of(-X))
    )
    np.testing.assert_array_equal(one.outputs["Y"], -two.outputs["Y"])
    assert len(sharing.regions) == 2


async def test_the_region_of_a_cancelled_call_is_not_used_again(sharing, load, kit):
    sharing.infer = lambda request, call: call.ended.wait(20) and kit.answer_of({})
    executor, _ = await load()
    task = asyncio.ensure_future(executor.execute(kit.batch_of(X)))
    first = (await kit.soon(sharing.call)).request.inputs[0].parameters
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    sharing.infer = sharing.double_in_memory
    await executor.execute(kit.batch_of(X))
    second = sharing.call().request.inputs[0].parameters
    assert first["shared_memory_region"] != second["shared_memory_region"]
    assert len(files()) == 2
    await executor.close()
    assert not files()
    assert not sharing.regions


async def test_a_region_that_was_made_for_a_call_that_was_cancelled_is_the_next_ones(
    sharing, load, kit, monkeypatch
):
    executor, _ = await load()
    begun, go_on, made = threading.Event(), threading.Event(), asyncio.Event()
    make, keep = shared_memory._new_region, executor._shared._put_back

    def slow(needed, best):
        begun.set()
        go_on.wait(20)
        return make(needed, best)

    def kept(region):
        keep(region)
        made.set()

    monkeypatch.setattr(executor._shared, "_put_back", kept)
    monkeypatch.setattr(shared_memory, "_new_region", slow)
    task = asyncio.ensure_future(executor.execute(kit.batch_of(X)))
    await kit.soon(begun.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    await made.wait()
    await executor.execute(kit.batch_of(X))
    assert len(files()) == 1
    await executor.close()
    assert not files()


async def test_what_ends_after_it_was_closed_leaves_nothing(sharing, load, kit, monkeypatch):
    sharing.infer = lambda request, call: call.ended.wait(20) and kit.answer_of({})
    executor, _ = await load()
    task = asyncio.ensure_future(executor.execute(kit.batch_of(X)))
    await kit.soon(sharing.call)
    await executor._shared.close()
    assert len(files()) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not files()


async def test_a_region_whose_registration_got_no_answer_is_unregistered(sharing, load, kit):
    executor, _ = await load()
    register = sharing._SystemSharedMemoryRegister

    def too_late(request, context):
        register(request, context)
        raise kit.Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, "late")

    sharing._SystemSharedMemoryRegister = too_late
    result = await executor.execute(kit.batch_of(X))
    np.testing.assert_array_equal(result.outputs["Y"], 2 * X)
    await asyncio.gather(*executor._shared._last)
    assert not sharing.regions
    assert not files()


async def test_a_region_that_was_set_aside_is_removed_after_a_while(
    sharing, load, kit, monkeypatch
):
    monkeypatch.setattr(shared_memory, "ASIDE_S", -1.0)
    executor, _ = await load()
    refuse = kit.Refusal(grpc.StatusCode.UNAVAILABLE, "lost")

    def fail(request, call):
        raise refuse

    sharing.infer = fail
    with pytest.raises(ExecutionError):
        await executor.execute(kit.batch_of(X))
    (aside,) = files()
    sharing.infer = sharing.double_in_memory
    await executor.execute(kit.batch_of(X))
    await asyncio.wait(executor._shared._last or {asyncio.ensure_future(asyncio.sleep(0))})
    assert aside not in files()
    assert len(files()) == 1


async def test_after_many_cancelled_calls_tensors_travel_in_messages(
    sharing, load, kit, monkeypatch
):
    monkeypatch.setattr(shared_memory, "MAX_ASIDE", 0)
    executor, _ = await load()
    result = await executor.execute(kit.batch_of(X))
    np.testing.assert_array_equal(result.outputs["Y"], 2 * X)
    assert sharing.call().request.raw_input_contents


@pytest.mark.parametrize(
    ("code", "aside"),
    [
        (grpc.StatusCode.UNAVAILABLE, 1),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 1),
        (grpc.StatusCode.INTERNAL, 1),
        (grpc.StatusCode.INVALID_ARGUMENT, 0),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 0),
    ],
)
async def test_a_call_that_may_still_run_keeps_its_region(sharing, load, kit, code, aside):
    def refuse(request, call):
        raise kit.Refusal(code, "why")

    executor, _ = await load()
    sharing.infer = refuse
    with pytest.raises(ExecutionError, match="why"):
        await executor.execute(kit.batch_of(X))
    assert len(executor._shared._aside) == aside


async def test_a_neighbor_that_forgot_the_region_gets_the_batch_in_a_message(sharing, load, kit):
    executor, _ = await load()
    await executor.execute(kit.batch_of(X))
    sharing.regions.clear()
    result = await executor.execute(kit.batch_of(-X))
    np.testing.assert_array_equal(result.outputs["Y"], -2 * X)
    await executor.execute(kit.batch_of(X))
    sent = [sharing.call().request for _ in range(4)]
    assert [bool(each.raw_input_contents) for each in sent] == [False, False, True, False]


async def test_a_region_is_registered_again_after_the_connection_was_lost(sharing, load, kit):
    executor, _ = await load()
    await executor.execute(kit.batch_of(X))
    before = dict(sharing.regions)
    executor._shared.forget()
    await executor.execute(kit.batch_of(X))  # the neighbor still knows it
    sharing.regions.clear()
    executor._shared.forget()
    await executor.execute(kit.batch_of(X))
    assert sharing.regions == before


async def test_a_neighbor_that_refuses_regions_gets_messages(sharing, load, kit, caplog):
    def refuse(request, context):
        raise kit.Refusal(grpc.StatusCode.INVALID_ARGUMENT, "Unable to open shared memory region")

    sharing._SystemSharedMemoryRegister = refuse
    executor, _ = await load()
    for _ in range(2):
        result = await executor.execute(kit.batch_of(X))
        np.testing.assert_array_equal(result.outputs["Y"], 2 * X)
    assert sharing.asked.count("SystemSharedMemoryRegister") == 1
    (said,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "does not take system shared memory (INVALID_ARGUMENT: Unable to open" in said
    while executor._shared._last:  # the file is removed beside the batches
        await asyncio.wait(executor._shared._last)
    assert not files()


async def test_regions_are_registered_with_the_headers_of_now(sharing, load, kit, tmp_path):
    (tmp_path / "token").write_text("one")
    executor, _ = await load(base_dir=tmp_path, metadata={"a": {"file": "token"}})
    (tmp_path / "token").write_text("two!")
    executor._headers.refresh()
    await executor.execute(kit.batch_of(X))
    assert "SystemSharedMemoryRegister" in sharing.asked
    assert sharing.metadata[-1]["a"] == sharing.metadata[-2]["a"] == "two!"


async def test_a_header_that_cannot_be_sent_costs_no_region(sharing, load, kit):
    executor, _ = await load()
    with pytest.raises(ExecutionError, match="must be printable"):
        await executor.execute(kit.batch_of(X, metadata={"x-user": "a\nb"}))
    assert not files()
    assert not executor._shared._aside


async def test_without_room_for_a_region_tensors_travel_in_messages(
    sharing, load, kit, monkeypatch, caplog
):
    def full(nbytes):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shared_memory, "Region", full)
    executor, _ = await load()
    await executor.execute(kit.batch_of(X))
    assert sharing.call().request.raw_input_contents
    assert "No space left on device" in caplog.text
    assert "options.shared_memory: off" in caplog.text


async def test_what_the_neighbor_leaves_out_is_not_an_earlier_answer(sharing, load, kit):
    executor, _ = await load()
    await executor.execute(kit.batch_of(X + 1))
    empty = kit.answer_of({"Y": X})
    empty.raw_output_contents[0] = b""
    sharing.infer = lambda request, call: empty
    result = await executor.execute(kit.batch_of(X + 1))
    assert not result.outputs["Y"].any()


async def test_shared_memory_can_be_turned_off(sharing, load, kit):
    executor, _ = await load(shared_memory="off")
    await executor.execute(kit.batch_of(X))
    assert sharing.call().request.raw_input_contents
    assert not any("SharedMemory" in name for name in sharing.asked)


async def test_a_neighbor_without_the_extension_is_told_in_the_log(neighbor, load, caplog):
    caplog.set_level(logging.INFO)
    neighbor.start()
    await load()
    assert "has no system shared memory" in caplog.text


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("localhost:1", True),
        ("127.0.0.2:1", True),
        ("[::1]:1", True),
        ("unix:/run/s", True),
        ("triton:8001", False),
        ("10.0.0.1:8001", False),
    ],
)
def test_addresses_of_this_host(url, local):
    assert shared_memory.is_local(url) is local


async def test_what_a_crash_left_behind_is_removed_at_the_next_load(sharing, load):
    left, used = regions.PREFIX + "left", Region(64)
    (regions.FOLDER / left).write_bytes(b"x")
    sharing.regions |= {left: f"/{left}", used.name: used.key, "other": "/other"}
    await load()
    assert files() == [used.name]
    assert set(sharing.regions) == {used.name, "other"}
    used.close()
    assert not files()


def test_a_region_is_locked_while_its_owner_lives():
    region = Region(64)
    with (regions.FOLDER / region.name).open("rb") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    kept = np.frombuffer(region.view, np.uint8)
    region.close()
    assert kept.nbytes == 64
    assert not files()


def test_a_region_without_room_leaves_no_file():
    with pytest.raises(OSError, match=r"."):
        Region(2**60)
    assert not files()


def test_a_region_that_is_being_made_is_not_taken_for_one_that_was_left_behind(monkeypatch):
    lock = fcntl.flock

    def lock_late(fd, how):
        monkeypatch.setattr(fcntl, "flock", lock)
        assert not regions.remove_left_behind()
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    region = Region(64)
    assert files() == [region.name]
    region.close()
    assert not files()
    assert not list(regions.FOLDER.glob(f".{regions.PREFIX}*"))
