"""The overlay `sidecar` as the kubelet runs it: batcher first, then the model; the model ends last."""

import asyncio
import contextlib
import re
import sys
import urllib.error
import urllib.request
from signal import SIGTERM

import numpy as np
import pytest
import yaml
from grpc import aio

from batcher.protocol import INFERENCE, Stub
from batcher.testing.messages import infer_request
from batcher.testing.server import ServerProcess, free_address

EXECUTION = "300ms"
REQUEST = infer_request("ranker", {"X": np.ones((1, 16), np.float32)})

pytestmark = pytest.mark.slow


def hook(deploy, overlay, name):
    """The script of the preStop hook of a container."""
    patch = yaml.safe_load((deploy / overlay).read_text("utf-8"))["spec"]["template"]["spec"]
    (container,) = [
        each
        for kind in ("initContainers", "containers")
        for each in patch.get(kind, [])
        if each["name"] == name
    ]
    program, option, script = container["lifecycle"]["preStop"]["exec"]["command"]
    assert (program, option) == ("/bin/sh", "-c")
    return script


def status(address, path):
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return None


@pytest.fixture
async def sidecar(overlay, tmp_path, eventually):
    """batcher with the overlay's configuration, and the address of its HTTP side. It is alive, not ready."""
    http = free_address()
    config = overlay("sidecar", http=http, drain_delay="1s")
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "batcher", "serve", str(path)]
    with (tmp_path / "sidecar.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.DEVNULL, stderr=log
        )
    try:
        await eventually(lambda: status(http, "/healthz") == 200)
        yield process, http
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def model(tmp_path):
    """What is in the model's container: a server on the socket that the overlay names."""
    return ServerProcess(
        {
            "server": {"grpc": [f"unix:{tmp_path}/model.sock"], "http": None},
            "models": [
                {
                    "name": "ranker",
                    "executor": "emulated",
                    "options": {"base": EXECUTION},
                    "batching": {"policy": "none", "max_batch_size": 32},
                    "warmup": {"batch_sizes": [1]},
                }
            ],
        },
        folder=tmp_path,
    )


@pytest.fixture
def started(tmp_path):
    """A function that starts the model's container, again after it has died."""
    with contextlib.ExitStack() as stack:

        async def start():
            return await asyncio.to_thread(stack.enter_context, model(tmp_path))

        yield start


async def test_no_request_is_lost_when_the_pod_ends(sidecar, started, deploy, tmp_path, eventually):
    process, http = sidecar
    assert status(http, "/readyz") == 503
    # Its startup probe has succeeded, so the kubelet starts the model.
    first = await started()
    await eventually(lambda: status(http, "/readyz") == 200)
    # Out of memory: the kubelet starts that container again, and not this one.
    first.process.kill()
    await eventually(lambda: status(http, "/readyz") == 503)
    assert status(http, "/healthz") == 200
    second = await started()
    await eventually(lambda: status(http, "/readyz") == 200)
    await ends_well(process, http, second, deploy, tmp_path, eventually)


async def ends_well(process, http, model, deploy, tmp_path, eventually):
    waits = hook(deploy, "overlays/sidecar/model.yaml", "model")
    waits = waits.replace("/run/batcher/", f"{tmp_path}/")
    drains = hook(deploy, "components/native-sidecar/sidecar.yaml", "batcher")
    drains = re.sub(r"\b1$", str(process.pid), drains)
    async with aio.insecure_channel(f"unix:{tmp_path}/batcher.sock") as channel:
        infer = Stub(channel, INFERENCE).ModelInfer
        await infer(REQUEST, timeout=20)
        accepted = [asyncio.ensure_future(infer(REQUEST, timeout=30)) for _ in range(8)]
        await asyncio.sleep(0)
        # The kubelet runs both at the same time.
        waiting = await asyncio.create_subprocess_exec("/bin/sh", "-c", waits)
        draining = await asyncio.create_subprocess_exec("/bin/sh", "-c", drains)
        assert await draining.wait() == 0
        # What still comes is answered, too: callers have not heard yet.
        await eventually(lambda: status(http, "/readyz") == 503)
        late = infer(REQUEST, timeout=30)
        assert waiting.returncode is None
        answers = await asyncio.gather(*accepted, late)
        assert len(answers) == 9
    async with asyncio.timeout(30):
        assert await waiting.wait() == 0
    # The last answer was there before the model was told to end, and batcher ended by itself.
    async with asyncio.timeout(30):
        assert await process.wait() == 0
    model.process.send_signal(SIGTERM)
    assert await asyncio.to_thread(model.process.wait, 30) == 0
