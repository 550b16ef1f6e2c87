"""A device that fails takes its instances down, and they come back with it."""

import asyncio
from dataclasses import replace

import pytest

from batcher.clock import SECOND
from batcher.errors import InstanceUnavailable, ModelLoadError
from batcher.runtime.health import InstanceState
from batcher.telemetry.devices import DeviceWatcher
from batcher.telemetry.devices.records import Record
from batcher.telemetry.reasons import LossReason
from batcher.testing.fakes import FakeExecutor

WHY = "device cpu has failed: the GPU has fallen off the bus (XID 79)"


class Device(DeviceWatcher):
    """The device `cpu`, which a test has fail."""

    def __init__(self, gpus=None):
        super().__init__({"cpu": 0} if gpus is None else gpus)
        self.record = Record("GPU-1")
        self._reader.found = {"cpu": self.record}

    def fail(self, xid=79):
        self.record.faults.xid(xid, 0)
        self._look()

    def mend(self):
        self.record.faults.read(0, 0, 100 * SECOND)
        self._look()


@pytest.fixture
def device():
    return Device()


@pytest.fixture
async def served(make_middle, device):
    middle = make_middle(devices=device)
    await middle.model.load()
    return middle


async def until(condition):
    async with asyncio.timeout(60):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)


def state(middle):
    (instance,) = middle.model.health.instances
    return instance.state, instance.why


async def test_an_instance_goes_down_with_its_device_and_comes_back(served, device):
    assert (await served.batcher.infer(served.request())).outputs
    device.fail()
    await until(lambda: state(served)[0] is InstanceState.FAILED)
    assert state(served) == (InstanceState.FAILED, WHY)
    assert not served.model.health.ready
    assert served.model.health.reason == WHY
    assert served.model.telemetry.losses[LossReason.DEVICE] == 1
    assert len(served.fakes) == 1, "nothing is loaded on it"
    with pytest.raises(InstanceUnavailable) as refused:
        await served.batcher.infer(served.request())
    assert WHY in str(refused.value)
    assert "retry in" in str(refused.value)
    device.mend()
    await until(lambda: state(served)[0] is InstanceState.UP)
    assert served.model.health.ready
    assert (await served.batcher.infer(served.request())).outputs
    assert len(served.fakes) == 2


async def test_a_request_that_runs_is_told_why(served, device):
    hang = served.fake.hang_next()
    asked = asyncio.ensure_future(served.batcher.infer(served.request()))
    await asyncio.to_thread(hang.wait_entered)
    waiting = asyncio.ensure_future(served.batcher.infer(served.request()))
    await asyncio.sleep(0)
    device.fail()
    for each in (asked, waiting):
        with pytest.raises(InstanceUnavailable, match="fallen off the bus"):
            await each
    hang.release()
    assert not served.problems


async def test_a_second_cause_is_no_second_loss(served, device):
    device.fail(79)
    device.fail(119)
    await until(lambda: "GSP" in state(served)[1])
    assert served.model.telemetry.losses[LossReason.DEVICE] == 1
    assert state(served)[1].count("device cpu has failed") == 1


async def test_errors_of_a_program_take_nothing_down(served, device):
    device.fail(31)
    device.fail(13)
    await asyncio.sleep(0)
    assert state(served) == (InstanceState.UP, "")


async def test_nothing_is_loaded_on_a_device_that_has_failed(make_middle, device):
    device.fail()
    middle = make_middle(devices=device)
    with pytest.raises(ModelLoadError, match=r"model 'm': device cpu has failed"):
        await middle.model.load()
    assert not middle.fakes


async def test_a_device_that_fails_while_a_model_is_loaded(make_middle, device):
    class Slow(FakeExecutor):
        def load(self, context):
            device.record.faults.xid(79, 0)
            return super().load(context)

    middle = make_middle(devices=device)
    middle.make_executor = Slow
    await middle.model.load()
    await until(lambda: state(middle)[0] is InstanceState.FAILED)
    assert state(middle)[1] == WHY
    middle.make_executor = FakeExecutor
    device.mend()
    await until(lambda: state(middle)[0] is InstanceState.UP)


async def test_the_gpu_that_an_executor_says(make_middle):
    device = Device(gpus={})
    middle = make_middle(devices=device)

    def told():
        made = FakeExecutor()
        made.metadata = replace(made.metadata, gpu="GPU-1")
        return made

    middle.make_executor = told
    await middle.model.load()
    assert device._reader.wanted["cpu"].gpu == "GPU-1"
    assert device._reader.wanted["cpu"].by_executor
    device.fail()
    await until(lambda: state(middle)[0] is InstanceState.FAILED)
    assert "cpu" in device._reader.wanted, "it must be read to come back"
    await middle.model.close(1.0)
    assert device._reader.wanted == {}


async def test_a_model_that_is_closed_comes_back_no_more(served, device):
    device.fail()
    await until(lambda: state(served)[0] is InstanceState.FAILED)
    await served.model.close(1.0)
    device.mend()
    await asyncio.sleep(0)
    assert len(served.fakes) == 1
