"""A real server in its own process, for tests and benchmarks that go over real sockets."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 40.0


class ServerFailedError(RuntimeError):
    """The server did not become ready, or did not end. The message holds its output."""


def free_address() -> str:
    """`127.0.0.1:port` with a port that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


class ServerProcess:
    """`python -m batcher serve` on a configuration, as a context manager.

    `config` is the document of a configuration file. Where it does not set them, `server.grpc` and
    `server.http` are free loopback ports and `server.drain_delay` is 0. The file is written into
    `folder`, where relative paths of the configuration start; without one, into a temporary folder.
    `prefix` is a command to run the server under, such as `("taskset", "-c", "0")`, and `program` the
    server's own command.

    Entering returns when the server is ready, and raises `ServerFailedError` if it ends before that or
    takes more than a minute. Leaving sends SIGTERM and waits for the end.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        folder: Path | None = None,
        prefix: Sequence[str] = (),
        program: Sequence[str] = (sys.executable, "-m", "batcher"),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        listeners = {"grpc": [free_address()], "http": free_address(), "drain_delay": 0}
        server: dict[str, Any] = listeners | dict(config.get("server", {}))
        self.config = dict(config) | {"server": server}
        """The document as it was written to the file."""
        self.grpc: str = server["grpc"][0]
        """The first data listener, as a gRPC target."""
        self.http: str | None = server["http"]
        """Where `/metrics` and `/healthz` are, `host:port`."""
        self.admin: str | None = next(iter(server.get("admin", ())), None)
        """The first admin listener, as a gRPC target."""
        self.path = Path()
        """The configuration file, once the server was started; changes of it are followed."""
        self.ready_line = ""
        """What the server printed when it was ready."""
        self._folder = folder
        self._command = (*prefix, *program)
        self._environ = {**os.environ, **(environ or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._log: Path | None = None
        self._stack = ExitStack()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running (or ended) process. Raises RuntimeError before the start."""
        if self._process is None:
            raise RuntimeError("the server has not been started")
        return self._process

    def __enter__(self) -> Self:
        folder = self._folder or Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self.path = folder / f"server-{id(self):x}.yaml"
        self.path.write_text(json.dumps(self.config, indent=2))
        self._log = self.path.with_suffix(".log")
        command = [*self._command, "serve", str(self.path)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603  # our own interpreter
                command, stdout=subprocess.PIPE, stderr=log, env=self._environ
            )
        try:
            self.ready_line = self._await_ready()
        except BaseException:
            self._process.kill()
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        finally:
            self._close()

    def stop(self, signum: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal unless the server has ended, wait for its end, return the exit code.

        Raises `ServerFailedError` when it still runs after 40 s, and kills it.
        """
        if self.process.poll() is None:
            self.process.send_signal(signum)
        try:
            return self.process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise ServerFailedError(
                f"still running {_STOP_TIMEOUT_S} s after {signum.name}\n{self.log()}"
            ) from None

    def log(self) -> str:
        """What the server has written to standard error so far."""
        if self._log is None or not self._log.exists():
            return ""
        return self._log.read_text(errors="replace")

    def _await_ready(self) -> str:
        stdout = self.process.stdout
        assert stdout is not None  # noqa: S101  # it was opened as a pipe
        end, line = time.monotonic() + _START_TIMEOUT_S, b""
        while not line.endswith(b"\n"):
            left = end - time.monotonic()
            if left <= 0 or not select.select([stdout], [], [], left)[0]:
                raise ServerFailedError(f"not ready after {_START_TIMEOUT_S} s\n{self.log()}")
            byte = os.read(stdout.fileno(), 1)
            if not byte:
                code = self.process.wait(_STOP_TIMEOUT_S)
                raise ServerFailedError(
                    f"ended with exit code {code} before it was ready\n{self.log()}"
                )
            line += byte
        return line.decode(errors="replace").rstrip()

    def _close(self) -> None:
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._stack.close()
