"""A server as a process group: started, killed, suspended, started again on the same ports."""

from __future__ import annotations

import http.client
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

HOST: Final = "127.0.0.1"
START_TIMEOUT_S: Final = 90.0
"""A server that is not ready after this failed to start. A busy machine takes a third of it."""
END_TIMEOUT_S: Final = 20.0
"""How long a process group may take to end after SIGTERM, and after SIGKILL."""
STARTS: Final = 3
"""On a busy machine Triton's Python backend crashes at one start in a hundred (`lock_exception`)."""
POLL_S: Final = 0.02
READY_TIMEOUT_S: Final = 0.5
"""A server that does not answer within this is not ready: it may be suspended."""


class NotReadyError(Exception):
    """The server ended or did not get ready. The message holds what it wrote."""


def free_ports(count: int) -> list[int]:
    """Ports that are free now and that the system gives to no outgoing connection.

    A port of the system's own range may be taken by any connection while its server is down.
    """
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(first // 2, first)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            if port not in found:
                found.append(port)
    return found


class ModelServer:
    """One server; entering starts it and returns when it is ready, leaving ends it.

    `command` runs in `folder` as the leader of a process group. `ready_paths` are asked on `http`
    (`host:port`); all must give 200.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        folder: Path,
        *,
        http: str,
        ready_paths: Sequence[str],
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.http = http
        """Its REST listener, `host:port`."""
        self.slow = folder / "slow"
        """While this file exists, its models take so many seconds more for each batch."""
        self._command = [str(word) for word in command]
        self._ready_paths = ready_paths
        self._environ = {
            **os.environ,
            "MODEL_SERVER_SLOW": str(self.slow),
            "MODEL_SERVER_DEVICE": str(folder / "device"),
            **(environ or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "server.log"

    @property
    def pid(self) -> int:
        """The process that was started; also the number of its process group."""
        if self._process is None:
            raise RuntimeError("the server does not run")
        return self._process.pid

    def __enter__(self) -> Self:
        self.start()
        try:
            self.await_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it; does not wait until it is ready. It must not run already."""
        if self._process is not None:
            raise RuntimeError("the server runs already")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self.folder,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ready(self) -> bool:
        """Whether it says so itself, now."""
        try:
            return all(self._asked(path) == http.client.OK for path in self._ready_paths)
        except (OSError, http.client.HTTPException):
            return False

    def await_ready(self, timeout_s: float = START_TIMEOUT_S) -> float:
        """Wait until it is ready; the moment of the monotonic clock, in seconds, when it said so.

        One that ends before that is started again, up to two times. Raises `NotReadyError` when it ended
        once more, or takes longer.
        """
        end, starts = time.monotonic() + timeout_s, STARTS
        while not self.ready():
            if self._process is None or self._process.poll() is not None:
                starts -= 1
                if self._process is None or not starts:
                    raise NotReadyError(f"ended before it was ready\n{self.log()}")
                self.kill()
                self.start()
            if time.monotonic() > end:
                raise NotReadyError(f"not ready after {timeout_s:g} s\n{self.log()}")
            time.sleep(POLL_S)
        return time.monotonic()

    def suspend(self) -> None:
        """Stop all its processes where they are (SIGSTOP)."""
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let suspended processes go on (SIGCONT)."""
        os.killpg(self.pid, signal.SIGCONT)

    def terminate(self) -> None:
        """Ask it to end (SIGTERM), as an orchestrator does, and kill what is left after 20 s."""
        if self._process is None:
            return
        os.kill(self.main_pid(), signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_TIMEOUT_S)
        self.kill()

    def main_pid(self) -> int:
        """The process that takes signals for the whole server."""
        return self.pid

    def kill(self) -> None:
        """Kill all its processes (SIGKILL), and wait until they are gone."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        end = time.monotonic() + END_TIMEOUT_S
        while _exists(process.pid) and time.monotonic() < end:
            time.sleep(POLL_S)
        self.left_behind()

    def left_behind(self) -> None:
        """Remove what killed processes could not; called after every end."""

    def log(self) -> str:
        """What it has written, over all its starts."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def _asked(self, path: str) -> int:
        connection = http.client.HTTPConnection(self.http, timeout=READY_TIMEOUT_S)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        finally:
            connection.close()


def _exists(group: int) -> bool:
    """Whether a process of that group is left that is no zombie."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, member = status.read_text().rpartition(")")[2].split()[:3]
            if int(member) == group and state != "Z":
                return True
    return False
