"""Runs the sidecar as a child process that ends with the demo."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from batcher.testing.server import free_address

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0


class SidecarError(Exception):
    """The sidecar did not become ready. The message has its output."""


class Sidecar:
    """`batcher serve CONFIG` on free loopback ports, as a context manager.

    The configuration has to take its listeners from `BATCHER_GRPC` and `BATCHER_HTTP`, and the
    folder of its event log, `log_folder`, from `BATCHER_JOURNAL`. Entering
    returns when the server is ready and raises SidecarError when it is not within a minute;
    leaving ends it: SIGINT, and SIGKILL if it has not drained within ten seconds.
    """

    def __init__(self, config: Path) -> None:
        self.config = config
        self.grpc = free_address()
        """The gRPC target."""
        self.metrics = ""
        """The URL of the live metrics."""
        self.log_folder = Path()
        """The folder of the event log, while the server runs."""
        self._process: subprocess.Popen[str] | None = None
        self._stack = ExitStack()
        self._log: IO[str] | None = None

    def __enter__(self) -> Self:
        log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self._log = self._stack.enter_context(log)
        self.log_folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        http = free_address()
        self.metrics = f"http://{http}/metrics"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "batcher", "serve", str(self.config)],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={
                **os.environ,
                "BATCHER_GRPC": self.grpc,
                "BATCHER_HTTP": http,
                "BATCHER_JOURNAL": str(self.log_folder),
            },
            # Its own process group, so that Ctrl-C reaches the demo alone and it ends the server.
            start_new_session=True,
        )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def padding(self, model: str) -> float:
        """The share of padding in the tokens that the model has executed, by the live metrics."""
        with urllib.request.urlopen(self.metrics, timeout=10) as answer:
            text = answer.read().decode()
        found = re.findall(r"^batcher_batch_elements_total\{(.*)\} (\S+)$", text, re.MULTILINE)
        mine = [(labels, float(n)) for labels, n in found if f'model="{model}"' in labels]
        padding = sum(n for labels, n in mine if 'kind="padding"' in labels)
        return padding / max(1.0, sum(n for _, n in mine))

    def log(self) -> str:
        """The last lines that the server wrote to standard error."""
        if self._log is None:
            return ""
        self._log.seek(0)
        return "".join(self._log.readlines()[-15:]).rstrip()

    def _wait_until_ready(self, process: subprocess.Popen[str]) -> None:
        lines: queue.Queue[str] = queue.Queue()
        stdout = process.stdout
        assert stdout is not None
        # A thread, because reading a line from a pipe has no timeout.
        threading.Thread(target=lambda: lines.put(stdout.readline()), daemon=True).start()
        try:
            line = lines.get(timeout=READY_TIMEOUT_S)
        except queue.Empty:
            raise SidecarError(
                f"the server was not ready after {READY_TIMEOUT_S:g} s\n{self.log()}"
            ) from None
        if not line:
            code = process.wait()
            raise SidecarError(
                f"the server ended with exit code {code} before it was ready\n{self.log()}"
            )

    def stop(self) -> None:
        """Stop the server; its files stay until the context ends."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGINT)  # stops at once; SIGTERM would wait for drain_delay
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def _end(self) -> None:
        with self._stack:
            self.stop()
