"""What a crash in native code leaves behind."""

import asyncio
import signal

import pytest

from batcher.journal import read_log

WAIT_S = 20


@pytest.mark.slow
async def test_a_crash_leaves_a_trace_and_the_log_up_to_it(
    serve, hello, dial, request_of, tmp_path, eventually
):
    journal = {"folder": str(tmp_path / "journal"), "segment": "10s"}
    server = serve(hello() | {"journal": journal})
    stub = await dial(server.grpc)
    await asyncio.gather(*(stub.ModelInfer(request_of(n), timeout=WAIT_S) for n in range(20)))

    # What the recorder has packed is with the kernel, and outlives the process.
    def recorded():
        log = read_log(tmp_path / "journal")
        return sum(segment.requests for segment in log.segments) == 20

    await eventually(recorded)
    server.process.send_signal(signal.SIGSEGV)
    assert await asyncio.to_thread(server.process.wait) == -signal.SIGSEGV

    assert "Fatal Python error: Segmentation fault" in server.log()
    assert "most recent call first" in server.log()
    log = read_log(tmp_path / "journal")
    assert sum(segment.requests for segment in log.segments) == 20
