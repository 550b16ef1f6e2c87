"""The event log of a server whose model is loaded again: each generation is a model of its own there."""

import asyncio
import json
import re
import subprocess
import sys

import pytest

from batcher.app import running
from batcher.config import load_config
from batcher.journal import read_log
from batcher.lifecycle import LoadParameters
from batcher.simulation.logs.load import logged_load

WAIT_S = 30


@pytest.mark.slow
async def test_a_log_with_reloads_replays_and_answers_what_if(hello, tmp_path, dial, request_of):
    journal = {"folder": str(tmp_path / "journal"), "segment_duration": "10s"}
    server = {"grpc": ["127.0.0.1:0"], "http": None}
    path = tmp_path / "config.yaml"
    document = hello(server=server, base="1ms", batching={"target_p99": "50ms"})
    path.write_text(json.dumps(document | {"journal": journal}))
    async with running(load_config(path), path) as application:
        data = await dial(application.grpc.addresses[0])
        for _ in range(3):
            calls = [data.ModelInfer(request_of(n), timeout=WAIT_S) for n in range(20)]
            await asyncio.gather(application.manager.load("hello", LoadParameters()), *calls)
            calls = [data.ModelInfer(request_of(n), timeout=WAIT_S) for n in range(20)]
            await asyncio.gather(*calls)
    (segment,) = read_log(tmp_path / "journal").segments
    assert segment.requests == 120
    asked = {
        event.model
        for step in segment.steps()
        for event in step.events
        if type(event).__name__ == "RequestArrived"
    }
    assert {"hello/1~2", "hello/1~3", "hello/1~4"} <= asked

    def replay(*arguments):
        command = [sys.executable, "-m", "batcher", "replay", str(tmp_path / "journal"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "replay: identical" in await asyncio.to_thread(replay)
    for more in (["--policy", "fixed:5ms"], ["--model", "hello"], ["--model", "hello/1"]):
        text = await asyncio.to_thread(replay, "--policy", "none", *more)
        assert re.search(r"^120 requests at", text, re.MULTILINE), text
    changed = await asyncio.to_thread(replay, "--set", "batching.target_p99=20ms")
    assert re.search(r"^120 requests at", changed, re.MULTILINE), changed
    assert logged_load(read_log(tmp_path / "journal").segments, "hello/1").rows.values == (1,)
