"""A server whose GPUs fail: with a recorded NVML, by nvidia-ml-py's own interface."""

import asyncio
import json
import os
from pathlib import Path
from signal import SIGTERM

import grpc
import numpy as np
import pytest

from batcher.testing.messages import infer_request

pytestmark = pytest.mark.slow

FAKE = Path(__file__).parents[2] / "fake_nvml" / "path"
CONFIG = {
    "models": [
        {
            "name": "thread",
            "executor": "emulated",
            "device": "gpu0",
            "options": {"base": "0ms", "columns": 4},
        },
        {
            "name": "child",
            "executor": "emulated",
            "device": "gpu0",
            "isolation": "process",
            "options": {"base": "0ms", "columns": 4},
        },
        {
            "name": "other",
            "executor": "emulated",
            "device": "gpu1",
            "options": {"base": "0ms", "columns": 4},
        },
    ],
    "devices": {"gpu0": {"gpu": 0}, "gpu1": {"gpu": 1}},
}
WHY = "device gpu0 has failed: the GPU is lost, says NVML"


class Nvml:
    """The file that describes the machine."""

    def __init__(self, folder):
        self.path = folder / "nvml.json"
        self.write()

    def write(self, first=(), second=(), **machine):
        described = {"gpus": [dict(first), dict(second)], **machine}
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(described))
        new.replace(self.path)

    @property
    def environ(self):
        before = os.environ.get("PYTHONPATH", "")
        return {"PYTHONPATH": f"{FAKE}:{before}".rstrip(":"), "FAKE_NVML": str(self.path)}


@pytest.fixture
def nvml(tmp_path):
    return Nvml(tmp_path)


def ask(channel, model):
    """The status of an answer, and what it says."""
    infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    request = infer_request(model, {"X": np.ones((1, 4), np.float32)}).SerializeToString()
    try:
        infer(request, timeout=30)
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


async def test_a_lost_gpu_takes_its_models_down_and_they_come_back(
    serve, nvml, fetch, scrape, eventually
):
    server = serve(CONFIG, environ=nvml.environ)

    async def state(device, name):
        metrics = await scrape(server.http)
        return metrics.sum("batcher_device_statistics_state", device=device, state=name) == 1

    async def ready(status):
        return (await fetch(server.http, "/readyz"))[0] == status

    await eventually(lambda: state("gpu1", "ok"))
    metrics = await scrape(server.http)
    assert metrics.sum("batcher_device_utilization_ratio", device="gpu1", source="nvml") == 0.87
    assert metrics.sum("batcher_device_failed", device="gpu0") == 0
    with grpc.insecure_channel(server.grpc) as channel:
        for model in ("thread", "child", "other"):
            assert ask(channel, model) == (grpc.StatusCode.OK, "")
        nvml.write({"error": "GPU_IS_LOST"})
        await eventually(lambda: ready(503))
        text = (await fetch(server.http, "/readyz"))[1]
        reasons = {each["name"]: each["reason"] for each in json.loads(text)["models"]}
        assert reasons == {"thread": WHY, "child": WHY, "other": ""}
        for model in ("thread", "child"):
            code, details = await asyncio.to_thread(ask, channel, model)
            assert code is grpc.StatusCode.UNAVAILABLE
            assert WHY in details
        assert ask(channel, "other") == (grpc.StatusCode.OK, "")
        metrics = await scrape(server.http)
        assert metrics.sum("batcher_device_failed", device="gpu0", cause="lost") == 1
        assert metrics.sum("batcher_device_failed", device="gpu1") == 0
        assert metrics.sum("batcher_device_statistics_state", device="gpu0", state="lost") == 1
        assert metrics.sum("batcher_instance_losses_total", reason="device") == 2
        with pytest.raises(AssertionError, match="no sample"):
            metrics.sum("batcher_device_memory_used_bytes", device="gpu0")
        nvml.write()
        await eventually(lambda: ready(200), within_s=120)
        for model in ("thread", "child", "other"):
            assert ask(channel, model) == (grpc.StatusCode.OK, "")
    assert "internal error" not in server.log()


async def test_a_driver_that_hangs_holds_up_no_scrape_and_no_end(serve, nvml, scrape, eventually):
    server = serve(CONFIG, environ=nvml.environ)

    async def is_ok():
        metrics = await scrape(server.http)
        return metrics.sum("batcher_device_statistics_state", device="gpu1", state="ok") == 1

    await eventually(is_ok)
    nvml.write(hang=["*"])

    async def older():
        metrics = await scrape(server.http)
        return metrics.sum("batcher_device_statistics_age_seconds", device="gpu0") > 3

    await eventually(older)
    with grpc.insecure_channel(server.grpc) as channel:
        assert ask(channel, "thread") == (grpc.StatusCode.OK, "")
    assert await asyncio.to_thread(server.stop, SIGTERM) == 0
    assert "drained" in server.log()


async def test_a_machine_without_a_driver(serve, nvml, scrape, eventually):
    nvml.write(init_error="DRIVER_NOT_LOADED")
    server = serve(CONFIG, environ=nvml.environ)

    async def said():
        metrics = await scrape(server.http)
        return metrics.sum("batcher_device_statistics_state", state="no_driver") == 2

    await eventually(said)
    families = {sample.name for sample in (await scrape(server.http)).samples}
    exported = {name for name in families if name.startswith("batcher_device_")}
    assert not {name for name in exported if "memory" in name or "utilization" in name}
    assert server.log().count("Driver Not Loaded") == 1
