"""The processes of a server: started on one core, counted together, ended together.

Servers start workers that leave their process group and outlive their parent. This process is the
one that orphans are given to (`PR_SET_CHILD_SUBREAPER`), so all that a server started stays below
it in the tree of processes, and is found there by its number.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from machine import children_on, cpu_seconds

_PR_SET_CHILD_SUBREAPER = 36
FAILURE_LINES = 60
STOP_S = 6.0
"""How long processes have to end after SIGTERM."""


class NotStartedError(Exception):
    """A server ended, or was not ready in time; the message says what it wrote last."""


def adopt_orphans() -> None:
    """Orphans below this process become its children. Raises OSError where the kernel refuses."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


def free_port() -> int:
    """One that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(root: int | None = None) -> list[int]:
    """The numbers of all processes below this one, or below another."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended meanwhile
            parents[int(entry.name)] = int(fields[1])
    below, fresh = [], {root or os.getpid()}
    while fresh:
        fresh = {pid for pid, parent in parents.items() if parent in fresh}
        below += sorted(fresh)
    return below


class Processes:
    """A server's program and whatever it starts, as a context manager.

    Only one may be entered at a time: all that is started below this process meanwhile is taken for
    the server's.
    """

    def __init__(
        self, command: Sequence[str | Path], environ: Mapping[str, str], folder: Path, core: int
    ) -> None:
        self._command = [str(each) for each in command]
        self._environ = {**os.environ, **environ}
        self._folder = folder
        self._core = core
        self._log = folder / "server.log"
        self._program: subprocess.Popen[bytes] | None = None
        self._seen: dict[int, float] = {}
        self._others: set[int] = set()

    def __enter__(self) -> Self:
        self._others = set(descendants())
        with self._log.open("wb") as log, children_on(self._core):
            self._program = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=self._environ,
                start_new_session=True,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._program is not None
        if self._program.poll() is None:
            self._program.terminate()
        self._await_end(STOP_S)
        for signum in (signal.SIGTERM, signal.SIGKILL):
            for pid in self.running():
                try:
                    os.kill(pid, signum)
                except ProcessLookupError:
                    continue
            self._await_end(1.0)

    @property
    def ended(self) -> bool:
        """Whether the program has ended by itself."""
        return self._program is not None and self._program.poll() is not None

    def running(self) -> list[int]:
        """Its processes."""
        return [pid for pid in descendants() if pid not in self._others]

    def cpu_seconds(self) -> float:
        """Processor time of all its processes so far, ended ones included."""
        for pid in self.running():
            try:
                self._seen[pid] = cpu_seconds(pid)
            except OSError:
                continue  # it has ended meanwhile; what it used last is known
        return sum(self._seen.values())

    def log(self) -> str:
        """What it has written so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def failure(self, why: str) -> NotStartedError:
        """That error, with the last lines of what it wrote."""
        lines = [line for line in self.log().splitlines() if line.strip()]
        return NotStartedError("\n".join([why, *lines[-FAILURE_LINES:]]))

    def _await_end(self, seconds: float) -> None:
        """Return once nothing runs below this process, or after that time; reaps what has ended."""
        assert self._program is not None
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._program.poll()
            for pid in self.running():
                if pid != self._program.pid:
                    try:
                        os.waitpid(pid, os.WNOHANG)
                    except ChildProcessError:
                        continue  # it is the child of another one below
            if not self.running():
                return
            time.sleep(0.02)
