"""A server that is killed takes its children with it."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CHILDREN = Path(__file__).resolve().parents[3] / "children"


def wait_until_it(deed, pid):
    """Wait until the child is where the deed leads it."""
    state = "T" if deed == "stop" else "S"
    ends = time.monotonic() + 60
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != state:
        assert time.monotonic() < ends


SERVER = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from batcher.clock import monotonic_ns
from batcher.executor import LoadContext
from batcher.runtime.execution.gather import Slice
from batcher.runtime.execution.process_worker import ProcessWorker
from batcher.runtime.interface.layout import layout_of
from batcher.runtime.request import InferenceRequest
from batcher.tensors import Tensor
import numpy as np

async def main():
    worker = ProcessWorker("odd_executors:Does", "m#0", asyncio.get_running_loop(), monotonic_ns)
    layout = layout_of(await worker.load(LoadContext("m", "1", 0, "cpu", 8, {})))
    array = np.array([[sys.argv[2].encode()]], object)
    request = InferenceRequest("m", {"X": Tensor("BYTES", array)}, 0)
    worker.run([Slice(request, 0, 1)], layout, print)
    print(worker.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("deed", ["", "hang", "hang in C", "stop"])
def test_a_child_dies_with_its_server(deed):
    command = [sys.executable, "-c", SERVER, str(CHILDREN), deed]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        pid = int(server.stdout.readline())
        child = os.pidfd_open(pid)
        try:
            if deed:
                wait_until_it(deed, pid)
            server.kill()
            poll = select.poll()
            poll.register(child, select.POLLIN)
            assert poll.poll(60_000)
        finally:
            os.close(child)
