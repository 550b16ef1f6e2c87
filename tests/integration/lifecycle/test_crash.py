"""The traceback and the flight record of a crash in native code."""

import asyncio
import signal
import subprocess
import sys

import pytest

from batcher.errors import InputError
from batcher.journal import read_log

WAIT_S = 20


def requests(path):
    """How many there are in a log; none in one that has hardly begun."""
    try:
        return sum(segment.requests for segment in read_log(path).segments)
    except InputError:
        return 0


@pytest.mark.slow
async def test_a_crash_writes_a_traceback_and_the_log_up_to_it(
    serve, hello, dial, request_of, tmp_path, eventually
):
    journal = {"folder": str(tmp_path / "journal"), "segment_duration": "10s"}
    server = serve(hello() | {"journal": journal})
    stub = await dial(server.grpc)
    await asyncio.gather(*(stub.ModelInfer(request_of(n), timeout=WAIT_S) for n in range(20)))

    # What the recorder has packed is with the kernel, and outlives the process.
    await eventually(lambda: requests(tmp_path / "journal") == 20)
    server.process.send_signal(signal.SIGSEGV)
    assert await asyncio.to_thread(server.process.wait) == -signal.SIGSEGV

    assert "Fatal Python error: Segmentation fault" in server.log()
    assert "most recent call first" in server.log()
    assert requests(tmp_path / "journal") == 20


@pytest.mark.slow
async def test_the_next_start_makes_a_flight_record_of_a_crash(
    serve, hello, dial, request_of, tmp_path, scrape, eventually
):
    folder = tmp_path / "incidents"
    made = hello() | {"flight_recorder": {"folder": str(folder)}}
    server, other = serve(made), serve(made)
    stub = await dial(server.grpc)
    await asyncio.gather(*(stub.ModelInfer(request_of(n), timeout=WAIT_S) for n in range(20)))

    await eventually(lambda: sum(map(requests, folder.glob("live-*"))) == 20)
    server.process.send_signal(signal.SIGSEGV)
    assert await asyncio.to_thread(server.process.wait) == -signal.SIGSEGV

    # Two servers run on the folder now, and neither is taken for the one that crashed.
    anew = serve(made)
    (path,) = folder.glob("*.batcherlog")
    assert path.name.endswith("-crash.batcherlog")
    said = f"the server with process id {server.process.pid} crashed or was killed"
    assert f"{said}; its last minutes were written to {path}" in anew.log()
    metrics = await scrape(anew.http)
    assert metrics.sum("batcher_incidents_total", reason="crash") == 1
    assert len(list(folder.glob("live-*"))) == 2

    log = read_log(path)
    assert (log.faults, log.incident.detail) == ([], said)
    assert '"executor": "emulated"' in log.incident.config
    assert requests(path) == 20
    command = [sys.executable, "-m", "batcher", "replay", str(path)]
    replayed = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True)
    assert b"replay: identical" in replayed.stdout
    assert b": crash: the server with process id" in replayed.stdout

    for each in (other, anew):
        assert each.stop() == 0
    assert list(folder.iterdir()) == [path]
