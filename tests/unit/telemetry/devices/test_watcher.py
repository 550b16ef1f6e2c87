"""What is told of devices, and who hears that one has failed."""

import asyncio

import pytest
from fake_nvml import FakeGpu, Machine

from batcher.clock import SECOND
from batcher.telemetry.devices import DeviceState, DeviceStatistics, DeviceWatcher, FailureCause
from batcher.telemetry.devices.reader import READ_LIMIT_NS, Reader
from batcher.telemetry.devices.watcher import NO_GPU, STALE_NS


class Watching:
    """A watcher of a fake machine, under a manual clock, that runs."""

    def __init__(self, machine, gpus):
        self.machine, self.now_ns, self.told = machine, SECOND, []
        self.watcher = DeviceWatcher(gpus, lambda: self.now_ns, self._reader)
        self.task = None

    def _reader(self, changed, clock):
        return Reader(changed, clock, load=self.machine.load, environ={})

    def start(self):
        self.task = asyncio.get_running_loop().create_task(self.watcher.run())

    def claim(self, device, gpu=None):
        claim = self.watcher.claim(device, lambda why: self.told.append((device, why)))
        claim.uses(gpu)
        return claim

    async def until(self, condition):
        for _ in range(3000):
            if condition():
                return
            await asyncio.sleep(0.01)
        raise AssertionError("it did not come about")

    async def until_state(self, state, device="gpu0"):
        await self.until(lambda: self.watcher.report(device).state is state)

    async def close(self):
        self.machine.release()
        if self.task is not None:
            self.task.cancel()
        await self.watcher.close()


@pytest.fixture
async def watching():
    made = []

    def make(machine=None, gpus=None, *, start=True):
        made.append(Watching(machine or Machine(), gpus or {}))
        if start:
            made[-1].start()
        return made[-1]

    yield make
    for each in made:
        await each.close()


async def test_a_device_without_a_gpu(watching):
    play = watching()
    play.claim("cpu")
    await asyncio.sleep(0)
    assert play.watcher.report("cpu") == DeviceStatistics("cpu", DeviceState.NO_GPU, NO_GPU)
    assert play.machine.calls == [], "NVML is not even loaded"
    assert play.watcher.devices == ("cpu",)


async def test_nothing_is_read_before_it_runs(watching):
    play = watching(gpus={"gpu0": 0}, start=False)
    play.claim("gpu0", 0)
    report = play.watcher.report("gpu0")
    assert (report.state, report.age_s) == (DeviceState.PENDING, None)
    await asyncio.sleep(0)
    assert play.machine.calls == []


async def test_what_the_configuration_says_goes_first(watching):
    play = watching(Machine([FakeGpu(0), FakeGpu(1)]), gpus={"gpu0": 1})
    play.claim("gpu0", 0)
    await play.until_state(DeviceState.OK)
    assert play.watcher.report("gpu0").uuid == play.machine.gpus[1].uuid
    play.watcher.configure({})
    await play.until(lambda: play.watcher.report("gpu0").uuid == play.machine.gpus[0].uuid)


async def test_values_and_their_age(watching):
    play = watching(gpus={"gpu0": 0})
    await play.until_state(DeviceState.OK)
    play.machine.hang = ["nvmlDeviceGetUtilizationRates"]
    play.now_ns += SECOND
    await play.until(lambda: play.machine.in_call == 1)
    report = play.watcher.report("gpu0")
    assert (report.state, report.age_s, report.utilization) == (DeviceState.OK, 1.0, 0.87)
    assert report.product == "NVIDIA H100 80GB HBM3"
    play.now_ns += READ_LIMIT_NS
    await play.until_state(DeviceState.HANGING)
    report = play.watcher.report("gpu0")
    assert report.utilization == 0.87
    assert "has not returned for" in report.reason
    play.now_ns += STALE_NS
    report = play.watcher.report("gpu0")
    assert (report.utilization, report.memory_total) == (None, None)
    assert report.age_s == pytest.approx(41.0)
    assert report.uuid
    assert not play.told, "a driver that hangs takes nothing down"
    play.machine.release()

    def well():
        play.now_ns += SECOND  # what went wrong on the way is read again a second later
        return play.watcher.report("gpu0").state is DeviceState.OK

    await play.until(well)


async def test_a_device_that_fails_and_comes_back(watching, caplog):
    play = watching(Machine([FakeGpu(0), FakeGpu(1)]))
    first, second = play.claim("gpu0", 0), play.claim("gpu1", 1)
    await play.until_state(DeviceState.OK, "gpu1")
    play.machine.xid(0, 119)
    await play.until(lambda: play.told)
    why = "device gpu0 has failed: its system processor (GSP) does not answer (XID 119)"
    assert play.told == [("gpu0", why)]
    assert (first.failure, second.failure) == (why, "")
    report = play.watcher.report("gpu0")
    assert list(report.failures) == [FailureCause.XID]
    assert report.state is DeviceState.OK, "it is read all the same"
    assert report.xid_events == {119: 1}
    assert why in caplog.messages
    play.now_ns += 10 * SECOND
    await play.until(lambda: len(play.told) == 2)
    assert play.told[1] == ("gpu0", "")
    assert "device gpu0 can be used again" in caplog.messages


async def test_both_names_of_a_gpu_hear_of_it(watching):
    play = watching()
    play.claim("a", 0)
    play.claim("b", 0)
    await play.until_state(DeviceState.OK, "b")
    play.machine.xid(0, 79)
    await play.until(lambda: len(play.told) == 2)
    assert {device for device, _ in play.told} == {"a", "b"}


async def test_a_claim_that_raises_keeps_no_other_from_hearing(watching, caplog):
    play = watching()
    bad = play.watcher.claim("gpu0", lambda why: 1 / 0)
    bad.uses(0)
    play.claim("gpu0", 0)
    await play.until_state(DeviceState.OK)
    play.machine.xid(0, 79)
    await play.until(lambda: play.told)
    assert "was not told that its device has failed" in caplog.text


async def test_a_device_that_nothing_is_on_any_more(watching):
    play = watching()
    claim = play.claim("gpu0", 0)
    await play.until_state(DeviceState.OK)
    claim.close()
    claim.close()
    assert play.watcher.devices == ()
    assert play.watcher.report("gpu0").state is DeviceState.NO_GPU
    claim.uses(0)
    assert play.watcher.devices == ("gpu0",)
    await play.until_state(DeviceState.OK)


async def test_why_nothing_is_known_is_said_once(watching, caplog):
    play = watching(Machine(init_error="NO_PERMISSION"), gpus={"a": 0, "b": 1})
    await play.until_state(DeviceState.NO_PERMISSION, "b")
    assert play.watcher.report("a").reason.startswith("NVML: Insufficient Permissions")
    await asyncio.sleep(0)
    said = [each.message for each in caplog.records if each.levelname != "DEBUG"]
    assert len([each for each in said if "Permissions" in each]) == 1


async def test_a_gpu_that_is_not_there_is_said_of_its_device(watching, caplog):
    play = watching(gpus={"gpu0": 7})
    await play.until_state(DeviceState.NOT_FOUND)
    await play.until(
        lambda: "statistics of device gpu0: not_found: there is no GPU 7" in caplog.text
    )


async def test_it_closes_while_a_call_hangs(watching):
    play = watching(gpus={"gpu0": 0})
    await play.until_state(DeviceState.OK)
    play.machine.hang = ["*"]
    play.now_ns += SECOND
    await play.until(lambda: play.machine.in_call == 1)
    await play.watcher.close()
    assert play.machine.in_call == 1


def test_thousands_of_models_on_a_device():
    watcher = DeviceWatcher()
    claims = [watcher.claim("gpu0", print) for _ in range(10_000)]
    for claim in claims:
        claim.uses(0)
    for claim in claims[1:]:
        claim.close()
    assert watcher.report("gpu0").state is DeviceState.PENDING
    claims[0].close()
    assert watcher.devices == ()
    assert watcher.report("gpu0").state is DeviceState.NO_GPU


def test_the_gpu_that_was_said_last():
    watcher = DeviceWatcher()
    first, second, silent = (watcher.claim("gpu0", print) for _ in range(3))
    first.uses(0)
    second.uses("GPU-1")
    silent.uses(None)
    assert watcher._reader.wanted["gpu0"].gpu == "GPU-1"
    second.close()
    assert watcher._reader.wanted["gpu0"].gpu == 0
    first.close()
    assert watcher._reader.wanted == {}
    assert watcher.devices == ("gpu0",)
