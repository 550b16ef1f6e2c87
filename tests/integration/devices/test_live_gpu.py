"""The GPU of a device, as `devices` of a configuration file says that has changed."""

import pytest

from batcher.app import running
from batcher.config import load_config
from batcher.telemetry import ChangeSource
from batcher.telemetry.devices import DeviceState

pytestmark = pytest.mark.slow


async def test_a_change_of_the_configuration_file_holds_at_once(tmp_path):
    path = tmp_path / "c.yaml"
    text = "server: {http: null, grpc: ['127.0.0.1:0']}\nmodels: [{name: m, executor: emulated, device: d}]\n"
    path.write_text(text + "devices: {d: {max_in_flight: 1}}\n")
    async with running(load_config(path), path) as application:
        assert application.devices.report("d").state is DeviceState.NO_GPU
        path.write_text(text + "devices: {d: {max_in_flight: 1, gpu: 5}}\n")
        await application.live_settings.reload(ChangeSource.SIGNAL)
        assert application.devices.report("d").state is not DeviceState.NO_GPU
