"""The demo from end to end: a small file, errors at the start, and stopping it."""

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

pytestmark = pytest.mark.slow

ENDED_WITHIN_S = 600
"""A bound on what hangs; on a slow machine that has other work the demo takes minutes."""


@pytest.fixture
def demo(pytestconfig):
    """A started demo on some arguments, its output a pipe; it is not left running."""
    started = []

    def start(*arguments):
        script = pytestconfig.rootpath / "examples" / "minilm" / "demo.py"
        process = subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "COLUMNS": "100"},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.terminate()
        process.communicate()


def metrics_address(output):
    return re.search(r"http://127\.0\.0\.1:\d+/metrics", output)[0]


def test_a_small_file_from_start_to_end(demo, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("The cat sleeps on the sofa.\nInterest rates went up.\nA kitten naps.\n")
    process = demo(path, "--query", "a feline at rest", "--seconds", 1, "--concurrency", 8)
    out, err = process.communicate(timeout=ENDED_WITHIN_S)
    assert (process.returncode, err) == (0, "")
    assert "3 distinct lines" in out
    nearest = out[out.index("a feline at rest") :].splitlines()[1:4]
    assert "Interest rates" in nearest[-1]
    for batching in ("batching", "no batching"):
        for in_flight in (8, 1):
            assert re.search(
                rf"^{batching}, {in_flight} in flight( +[\d.]+){{5}}", out, re.MULTILINE
            )
    assert "Batches that formed with 8 in flight" in out
    assert "replay: identical" in out
    for row in ("recorded", "replayed", "batching.max_queue_delay=40ms"):
        assert re.search(rf"^ *{re.escape(row)}( +[\d.,]+){{3}}", out, re.MULTILINE)
    assert "replay.png" in out
    assert "batcher serve" in out


@pytest.mark.parametrize(
    "signals",
    [(signal.SIGINT,), (signal.SIGTERM,), (signal.SIGHUP,), (signal.SIGINT, signal.SIGINT)],
    ids=lambda signals: "+".join(signum.name for signum in signals),
)
def test_stopping_the_demo_stops_the_server(demo, signals):
    process = demo("--seconds", 60)
    lines = iter(process.stdout.readline, "")
    ready = next(line for line in lines if "server: ready" in line)
    # What follows is printed when the demo is past its start and among its requests.
    next(line for line in lines if "tokens:" in line)
    for signum in signals:
        process.send_signal(signum)
    assert process.wait(30) == 130
    with pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.urlopen(metrics_address(ready))
    assert process.stderr.read() == "stopped; the server has ended\n"


def test_a_file_that_cannot_be_used_is_reported_before_anything_starts(demo, tmp_path):
    process = demo(tmp_path / "missing.txt")
    out, err = process.communicate(timeout=ENDED_WITHIN_S)
    assert (process.returncode, out) == (1, "")
    assert err == f"error: cannot read {tmp_path / 'missing.txt'}: No such file or directory\n"


def test_a_server_that_does_not_start_shows_why(tmp_path):
    from sidecar import Sidecar, SidecarError

    config = tmp_path / "broken.yaml"
    config.write_text("models: [{name: m, executor: emulated, batchin: {}}]\n")
    with (
        pytest.raises(SidecarError, match=r"exit code 2(.|\n)*models\[0\]\.batchin"),
        Sidecar(config),
    ):
        pytest.fail("it started")
