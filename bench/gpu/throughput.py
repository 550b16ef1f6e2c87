"""Throughput of a server: the server in a process, and its load in several others."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from models import Kind

from batcher.testing.server import ServerProcess

HERE: Final = Path(__file__).resolve().parent
BATCHES_AHEAD: Final = 6
"""Full batches that are in flight: one computes, one is copied, and the rest is on its way to and fro."""
CHANNELS: Final = 2
"""Connections of each process of the load."""


def server_throughput(
    model: dict[str, Any], kind: Kind, *, seconds: float, processes: int, most_s: float
) -> dict[str, Any]:
    """Rows a second that the server answers while there is always more to do.

    Raises RuntimeError where the server or the load fails, or takes longer than `most_s`.
    """
    end = time.monotonic() + most_s
    most = model["batching"]["max_batch_size"]
    in_flight = max(2, BATCHES_AHEAD * most // (kind.rows_per_request * processes))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        address = f"unix:{folder / 'grpc.sock'}"
        config = {"models": [model], "server": {"grpc": [address]}}
        server = stack.enter_context(ServerProcess(config, folder=folder))
        task = {
            "address": server.grpc,
            "model": kind.name,
            "inputs": kind.inputs,
            "below": kind.below,
            "rows": min(kind.rows_per_request, most),
            "channels": CHANNELS,
            "in_flight": in_flight,
            "seconds": seconds,
        }
        loads = [stack.enter_context(_Process(task)) for _ in range(processes)]
        for load in loads:
            load.expect_ready(end)
        for load in loads:
            load.go()
        found = [load.result(end) for load in loads]
    failed = {text: count for each in found for text, count in each["failed"].items()}
    if failed:
        raise RuntimeError(f"requests failed: {failed}")
    return {
        "rows_per_s": sum(each["rows_per_s"] for each in found),
        "rows_per_request": task["rows"],
        "in_flight": in_flight * processes,
        "load_processes": processes,
        "load_cores": sum(each["cpu"] for each in found),
    }


class _Process:
    """One process of the load; ended with the block."""

    def __init__(self, task: dict[str, Any]) -> None:
        self._command = [sys.executable, str(HERE / "load.py"), json.dumps(task)]

    def __enter__(self) -> _Process:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            self._command, stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def expect_ready(self, end: float) -> None:
        """Wait until the first request was answered."""
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != "ready" or time.monotonic() > end:
            _, errors = self._process.communicate()
            raise RuntimeError(f"the load did not start: {errors.strip() or 'no output'}")

    def go(self) -> None:
        """Let it send."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def result(self, end: float) -> dict[str, Any]:
        """What it measured."""
        try:
            printed, errors = self._process.communicate(timeout=max(1.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise RuntimeError("the load took longer than what was left of the budget") from None
        if self._process.returncode:
            raise RuntimeError(f"the load failed: {errors.strip() or 'no output'}")
        found: dict[str, Any] = json.loads(printed.strip().splitlines()[-1])
        return found
