"""The thread that reads NVML: what it finds, what hangs, what comes back."""

import threading

import pytest
from fake_nvml import FakeGpu, FakeMig, Machine

from batcher.clock import SECOND
from batcher.telemetry.devices.nvml import LibraryMissingError
from batcher.telemetry.devices.reader import (
    MOST_WAITS,
    OPEN_LIMIT_NS,
    READ_LIMIT_NS,
    REOPEN_NS,
    Problem,
)
from batcher.telemetry.devices.records import LARGEST_XID, MOST_XIDS, OTHER_XID, Record
from batcher.telemetry.devices.statistics import DeviceState, FailureCause

OK, LOST, NOT_FOUND = DeviceState.OK, DeviceState.LOST, DeviceState.NOT_FOUND
REOPEN_S = REOPEN_NS // SECOND


def test_it_reads_each_gpu_once_a_second(reading):
    play = reading(Machine([FakeGpu(0), FakeGpu(1, utilization=5)]))
    play.read(0, 1)
    play.until(lambda: play.state("gpu1") is OK)
    assert play.record("gpu1").known.statistics.utilization == 0.05
    assert play.record("gpu0").known.read_ns == play.now_ns
    play.machine.set(1, utilization=50)
    play.next_reading()
    play.until(lambda: play.record("gpu1").known.statistics.utilization == 0.5)


def test_two_devices_that_are_one_gpu(reading):
    play = reading(Machine([FakeGpu(0)]))
    play.read(a=0, b="GPU-1b2c3d4e-0000-4000-8000-000000000000", c="18:00.0")
    play.until(lambda: play.state("c") is OK)
    assert play.record("a") is play.record("b") is play.record("c")
    assert play.calls() == 1, "it is read once"


def test_sixteen_gpus(reading):
    play = reading(Machine([FakeGpu(n) for n in range(16)]))
    play.read(*range(16))
    play.until(lambda: all(play.state(f"gpu{n}") is OK for n in range(16)))
    assert {play.record(f"gpu{n}").uuid for n in range(16)} == {
        each.uuid for each in play.machine.gpus
    }


def test_instances_of_a_split_gpu(reading):
    migs = [FakeMig("MIG-0", 1, memory_used=1), FakeMig("MIG-1", 2, memory_used=2)]
    play = reading(Machine([FakeGpu(0, split=True, migs=migs)]))
    play.read(a="MIG-0", b="MIG-1")
    play.until(lambda: play.state("b") is OK)
    play.next_reading()
    play.until(lambda: play.record("b").known.statistics.sm_utilization == 0.2)
    assert play.record("a").mig
    assert [play.record(name).known.statistics.memory_used for name in "ab"] == [1, 2]
    play.machine.xid(0, 119, 2, 0)
    play.until(lambda: play.record("b").xids)
    assert play.record("b").xids == {119: 1}
    assert play.record("a").xids == {}, "it is of the other instance"
    play.machine.xid(0, 79)
    play.until(lambda: play.record("a").xids)
    assert FailureCause.LOST in play.record("b").faults.failures, "the whole GPU is concerned"


def test_cuda_numbers_of_an_executor(reading):
    play = reading(Machine([FakeGpu(0), FakeGpu(1)]), CUDA_VISIBLE_DEVICES="1")
    play.read(dev=0, by_executor=True)
    play.until(lambda: play.state("dev") is OK)
    assert play.record("dev").uuid == play.machine.gpus[1].uuid


def test_without_nvidia_ml_py(reading, caplog):
    play = reading()
    play.reader.load = missing
    play.read(0, 1)
    play.until(lambda: play.reader.problem is not None and not play.reader.running)
    assert play.reader.problem.state is DeviceState.NO_LIBRARY
    play.reader.check()
    play.reader.start()
    said = [each for each in caplog.messages if "pip install nvidia-ml-py" in each]
    assert len(said) == 1


def missing():
    raise LibraryMissingError("pip install nvidia-ml-py")


@pytest.mark.parametrize("error", [OSError("no\nsuch file"), SystemExit("no such file")])
def test_an_nvidia_ml_py_that_cannot_be_imported(reading, error):
    def broken():
        raise error

    play = reading()
    play.reader.load = broken
    play.read(0)
    play.until(lambda: play.reader.problem is not None)
    assert play.reader.problem == Problem(
        DeviceState.NO_LIBRARY, f"it cannot be imported: {type(error).__name__}: no such file"
    )


def test_an_import_that_hangs(reading):
    play, imported, load = reading(), threading.Event(), None

    def hangs():
        imported.wait()
        return load()

    load, play.reader.load = play.reader.load, hangs
    play.read(0)
    play.until(lambda: play.reader._current.step is not None)
    play.now_ns += OPEN_LIMIT_NS
    play.reader.check()
    assert "the import of nvidia-ml-py has not returned" in play.reader.stuck
    imported.set()
    play.until(lambda: play.state() is OK)
    play.reader.check()
    assert not play.reader.stuck


@pytest.mark.parametrize(
    ("error", "state"),
    [
        ("LIBRARY_NOT_FOUND", DeviceState.NO_DRIVER),
        ("DRIVER_NOT_LOADED", DeviceState.NO_DRIVER),
        ("NO_PERMISSION", DeviceState.NO_PERMISSION),
        ("LIB_RM_VERSION_MISMATCH", DeviceState.ERROR),
        ("UNKNOWN", DeviceState.ERROR),
    ],
)
def test_nvml_that_cannot_be_initialized(reading, caplog, error, state):
    play = reading(Machine(init_error=error))
    play.read(0)
    play.until(lambda: play.reader.problem is not None)
    assert play.reader.problem.state is state
    assert len([each for each in caplog.messages if "nothing is known of GPUs" in each]) == 1


def test_a_driver_that_comes_later(reading):
    play = reading(Machine(init_error="DRIVER_NOT_LOADED"))
    play.read(0)
    play.until(lambda: play.reader.problem is not None)
    play.machine.init_error = ""
    play.now_ns += REOPEN_NS
    play.until(lambda: play.state() is OK)
    assert play.reader.problem is None


def test_a_gpu_that_is_not_there_and_comes(reading):
    play = reading(Machine([FakeGpu(0)]))
    play.read(0, 1)
    play.until(lambda: play.state() is OK)
    assert play.state("gpu1") is NOT_FOUND
    assert play.record("gpu1").reason.startswith("there is no GPU 1; NVML has 0 (GPU-")
    play.machine.gpus.append(FakeGpu(1))
    play.next_reading(REOPEN_S)
    play.until(lambda: play.state("gpu1") is OK)


def test_a_gpu_that_may_not_be_opened(reading):
    errors = {"nvmlDeviceGetHandleByIndex_v2": "NO_PERMISSION"}
    play = reading(Machine([FakeGpu(0, errors=errors), FakeGpu(1)]))
    play.read(0, 1)
    play.until(lambda: play.state("gpu1") is OK)
    assert play.state("gpu0") is NOT_FOUND
    assert "Insufficient Permissions" in play.record("gpu0").reason


def test_a_gpu_that_is_lost_and_comes_back(reading):
    play = reading(Machine([FakeGpu(0), FakeGpu(1)]))
    play.read(0, 1)
    play.until(lambda: play.state("gpu1") is OK)
    play.machine.set(0, error="GPU_IS_LOST")
    play.next_reading()
    play.until(lambda: play.state() is LOST)
    assert play.record().known.statistics is None
    assert not play.record().faults.failures, "one reading may be a mistake"
    play.next_reading()
    play.until(lambda: play.record().faults.failures)
    assert list(play.record().faults.failures) == [FailureCause.LOST]
    assert play.state("gpu1") is OK
    play.next_reading(REOPEN_S)
    play.until(lambda: play.machine.calls.count("nvmlInitWithFlags") == 2)
    play.next_reading()
    assert play.state() is LOST, "it is not there after another initialization either"
    play.machine.set(0, error="")
    play.next_reading(REOPEN_S)
    play.until(lambda: play.state() is OK)
    play.next_reading(10)
    play.until(lambda: not play.record().faults.failures)


@pytest.mark.parametrize(
    ("error", "cause"),
    [("GPU_IS_LOST", FailureCause.LOST), ("RESET_REQUIRED", FailureCause.RESET_REQUIRED)],
)
def test_a_gpu_that_is_lost_long_after_the_start(reading, error, cause):
    """NVML may be initialized again at once then, and not have the GPU any more."""
    play = reading(Machine([FakeGpu(0), FakeGpu(1)]))
    play.read(0, 1)
    play.until(lambda: play.state("gpu1") is OK)
    play.next_reading(REOPEN_S + 1)
    play.until(lambda: play.record("gpu1").known.read_ns == play.now_ns)
    play.machine.set(0, error=error)
    play.next_reading()
    play.until(lambda: play.state() is LOST)
    assert not play.record().faults.failures, "one reading may be a mistake"
    play.next_reading()
    play.until(lambda: play.record().faults.failures)
    assert list(play.record().faults.failures) == [cause]
    assert not play.record("gpu1").faults.failures
    play.machine.set(0, error="")
    play.next_reading(REOPEN_S)
    play.until(lambda: play.state() is OK)
    play.next_reading(10)
    play.until(lambda: not play.record().faults.failures)


@pytest.mark.parametrize("readings", [0, 1], ids=["unread", "read-once"])
def test_a_gpu_that_is_lost_while_something_else_shuts_nvml_down(reading, readings):
    """Then readings do not tell, but the next initialization does."""
    play = reading(Machine([FakeGpu(0), FakeGpu(1)]))
    play.read(0, 1)
    play.until(lambda: play.state("gpu1") is OK)
    if readings:
        play.machine.set(0, error="GPU_IS_LOST")
        play.next_reading()
        play.until(lambda: play.state() is LOST)
    play.machine.errors = {"nvmlDeviceGetUtilizationRates": "UNINITIALIZED"}
    play.machine.set(0, error="UNINITIALIZED")
    before = play.machine.calls.count("nvmlShutdown")
    play.now_ns += SECOND
    play.until(lambda: play.machine.calls.count("nvmlShutdown") > before)
    play.machine.errors = {}
    play.machine.set(0, error="GPU_IS_LOST")
    play.next_reading()
    play.until(lambda: play.state() is LOST)
    if not readings:
        assert not play.record().faults.failures, "one initialization may be mistaken"
        play.next_reading(REOPEN_S)
    play.until(lambda: play.record().faults.failures)
    assert list(play.record().faults.failures) == [FailureCause.LOST]
    assert not play.record("gpu1").faults.failures
    play.machine.set(0, error="")
    play.next_reading(REOPEN_S)
    play.until(lambda: play.state() is OK)


def test_devices_stay_with_their_gpus_when_numbers_change(reading):
    play = reading(Machine([FakeGpu(0), FakeGpu(1)]))
    play.read(0, 1)
    play.until(lambda: play.state("gpu1") is OK)
    first, second = play.record("gpu0").uuid, play.record("gpu1").uuid
    del play.machine.gpus[0]
    play.machine.gpus[0].index = 0
    play.machine.errors = {"nvmlDeviceGetCount_v2": ""}
    play.next_reading()
    play.until(lambda: play.state("gpu0") is not OK)
    play.next_reading(REOPEN_S)
    play.until(lambda: play.state("gpu0") is NOT_FOUND)
    assert (play.record("gpu0").uuid, play.record("gpu1").uuid) == (first, second)
    assert play.state("gpu1") is OK
    assert "does not have" in play.record("gpu0").known.reason
    assert not play.record("gpu0").faults.failures, "it may only be forbidden"


def test_events_are_counted_at_once(reading):
    play = reading()
    play.read(0)
    play.until(lambda: play.state() is OK)
    assert play.record().watched
    for code in (31, 31, 119):
        play.machine.xid(0, code)
    play.until(lambda: play.record().xids == {31: 2, 119: 1})
    assert list(play.record().faults.failures) == [FailureCause.XID]


def test_a_gpu_without_events(reading):
    play = reading(Machine([FakeGpu(0, events=False)]))
    play.read(0)
    play.until(lambda: play.state() is OK)
    assert not play.record().watched
    play.next_reading()
    assert play.machine.library.sets == {}


def test_events_that_end(reading, caplog):
    play = reading()
    play.read(0)
    play.until(lambda: play.state() is OK)
    play.machine.errors = {"nvmlEventSetWait_v2": "UNKNOWN"}
    play.until(lambda: not play.record().watched)
    play.next_reading()
    assert play.state() is OK, "readings go on"
    assert len([each for each in caplog.messages if "XID events are not known" in each]) == 1


def test_waits_that_return_at_once_keep_no_core_busy(reading):
    play = reading()
    play.read(0)
    play.until(lambda: play.state() is OK)
    for _ in range(MOST_WAITS + 50):
        play.machine.xid(0, 31)
    play.until(lambda: play.record().xids.get(31, 0) >= MOST_WAITS - 10)
    assert play.record().xids[31] < MOST_WAITS + 50, "the others come a few a second"
    play.next_reading()
    play.until(lambda: play.record().xids[31] == MOST_WAITS + 50)


def test_numbers_of_events_are_bounded():
    record = Record("GPU-1")
    for xid in range(1, MOST_XIDS + 10):
        record.event(xid, 0)
    for xid in (0, LARGEST_XID + 1, 1 << 63, 1):
        record.event(xid, 0)
    assert len(record.xids) == MOST_XIDS + 1
    assert record.xids[OTHER_XID] == 9 + 3
    assert record.xids[1] == 2


def test_a_storm_of_events_is_one_line_a_minute(caplog):
    record = Record("GPU-1")
    for moment in range(600):
        record.event(13, moment * SECOND // 10)
    assert len(caplog.messages) == 1
    record.event(13, 60 * SECOND)
    assert caplog.messages[1:] == ["GPU-1: the driver reports XID 13 (601 so far)"]


def test_a_call_that_hangs_costs_its_gpu_alone(reading, caplog):
    play = reading(Machine([FakeGpu(0), FakeGpu(1)]))
    play.read(0, 1)
    play.until(lambda: play.state("gpu1") is OK)
    hung = play.record("gpu0").uuid
    play.machine.set(0, hang=["*"])
    play.now_ns += SECOND
    play.until(lambda: play.machine.in_call == 1)
    play.reader.check()
    assert not play.reader.hanging, "it may only be slow"
    play.now_ns += READ_LIMIT_NS
    play.reader.check()
    assert list(play.reader.hanging) == [hung]
    for _ in range(3):
        play.next_reading()
        play.reader.check()
    assert play.state("gpu1") is OK
    assert play.record("gpu1").known.read_ns > play.record("gpu0").known.read_ns + READ_LIMIT_NS
    assert len(play.threads) == 2, "one hangs, one reads"
    assert len([each for each in caplog.messages if "abandoned" in each]) == 1
    play.machine.release()
    play.until(lambda: not play.reader.hanging)
    play.next_reading()
    play.until(lambda: play.record("gpu0").known.read_ns == play.record("gpu1").known.read_ns)
    play.until(lambda: not play.threads[0].is_alive())


def test_every_gpu_hangs(reading):
    play = reading(Machine([FakeGpu(n) for n in range(4)]))
    play.read(*range(4))
    play.until(lambda: play.state("gpu3") is OK)
    for n in range(4):
        play.machine.set(n, hang=["*"])
    play.now_ns += SECOND
    for number in range(1, 5):
        play.until(lambda number=number: play.machine.in_call == number)
        play.now_ns += READ_LIMIT_NS
        play.reader.check()
        assert len(play.reader.hanging) == number
    for _ in range(10):
        play.now_ns += OPEN_LIMIT_NS
        play.reader.check()
    assert len(play.threads) == 5, "one for each GPU that hangs, and one that reads nothing"
    play.machine.release()
    play.until(lambda: not play.reader.hanging)
    play.now_ns += SECOND
    play.until(lambda: all(play.record(f"gpu{n}").known.read_ns == play.now_ns for n in range(4)))


@pytest.mark.parametrize(
    ("function", "limit_ns"),
    [("nvmlInitWithFlags", OPEN_LIMIT_NS), ("nvmlEventSetWait_v2", READ_LIMIT_NS)],
)
def test_nvml_itself_hangs(reading, caplog, function, limit_ns):
    machine = Machine()
    machine.hang = [function]
    play = reading(machine)
    play.read(0)
    play.until(lambda: machine.in_call == 1)
    play.reader.check()
    assert not play.reader.stuck
    for _ in range(5):
        play.now_ns += limit_ns
        play.reader.check()
    assert "has not returned for" in play.reader.stuck
    assert len(play.threads) == 1, "another thread would fare no better"
    assert len([each for each in caplog.messages if "nothing of any GPU" in each]) == 1
    machine.release()
    play.now_ns += SECOND
    play.until(lambda: play.state() is OK and play.record().known.read_ns == play.now_ns)
    play.reader.check()
    assert not play.reader.stuck


def test_a_slow_driver_is_no_hanging_one(reading):
    play = reading(Machine([FakeGpu(0)]))
    play.read(0)
    play.until(lambda: play.state() is OK)
    play.machine.set(0, hang=["nvmlDeviceGetPowerUsage"])
    play.now_ns += SECOND
    play.until(lambda: play.machine.in_call == 1)
    play.now_ns += READ_LIMIT_NS - SECOND
    play.reader.check()
    play.machine.release()
    play.until(lambda: play.record().known.read_ns == play.now_ns)
    assert not play.reader.hanging
    assert len(play.threads) == 1


def test_nvml_that_something_else_has_shut_down(reading):
    play = reading()
    play.read(0)
    play.until(lambda: play.state() is OK)
    play.machine.library.opened = 0
    play.machine.library.samples.clear()
    play.machine.library.sets.clear()
    play.now_ns += SECOND
    play.until(lambda: "nvmlShutdown" in play.machine.calls)
    play.now_ns += SECOND
    play.until(lambda: play.machine.calls.count("nvmlInitWithFlags") == 2)
    play.now_ns += SECOND
    play.until(lambda: play.record().known.read_ns == play.now_ns)
    play.machine.library.opened = 1  # its shutdowns were in vain


def test_devices_that_change(reading):
    play = reading(Machine([FakeGpu(0), FakeGpu(1)]))
    play.read(0)
    play.until(lambda: play.state() is OK)
    play.read(1)
    play.now_ns += SECOND
    play.until(lambda: play.state("gpu1") is OK)
    assert list(play.reader.found) == ["gpu1"]
    play.read()
    play.now_ns += SECOND
    play.until(lambda: not play.reader.found)


def test_it_ends_while_a_call_hangs(reading):
    machine = Machine([FakeGpu(0)])
    play = reading(machine)
    play.read(0)
    play.until(lambda: play.state() is OK)
    machine.set(0, hang=["*"])
    play.now_ns += SECOND
    play.until(lambda: machine.in_call == 1)
    play.reader.close(0.01)
    play.reader.check()
    play.reader.start()
    assert len(play.threads) == 1
    assert play.threads[0].daemon, "the process does not wait for it"
    machine.release()
    play.until(lambda: not play.threads[0].is_alive())


def test_a_defect_ends_the_thread_and_not_the_server(reading, caplog):
    def broken(*_):
        raise RuntimeError("a defect")

    play = reading()
    play.reader.resolve = broken
    play.read(0)
    play.until(lambda: play.reader.problem is not None)
    assert play.reader.problem.state is DeviceState.ERROR
    assert "internal error" in caplog.text
