"""Starts child processes, kills them with their groups, and reaps every one.

All on one thread that lives as long as the process: the kernel kills a child when the *thread* that
started it ends (PR_SET_PDEATHSIG), and a child is reaped even when its event loop is gone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Final

from batcher.core.record import record
from batcher.errors import describe

log = logging.getLogger(__name__)

_POLL_MS: Final = 100
"""Milliseconds between two looks at children on a kernel without `pidfd_open` (before 5.3), and at what children
have started, where that is reaped here."""

Ended = Callable[[int], None]
"""Called with the exit code of a child, negative for a signal."""


class ChildProcess:
    """A child and its process group."""

    def __init__(
        self, popen: subprocess.Popen[bytes], loop: asyncio.AbstractEventLoop, ended: Ended
    ) -> None:
        self.pid = popen.pid
        self._loop = loop
        self._ended = ended
        self._popen = popen
        self._guard = threading.Lock()
        self.pidfd = -1
        with suppress(OSError):
            self.pidfd = os.pidfd_open(popen.pid)

    def kill(self) -> None:
        """Kill the child and its group, unless it was reaped. May be called on any thread."""
        with self._guard:
            # Until the child is reaped, no other group can have its number.
            if self._popen.returncode is None:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal.SIGKILL)

    def reap(self) -> int | None:
        """The exit code, if it has ended; what is left of its group is killed first."""
        with suppress(ChildProcessError):  # where SIGCHLD is ignored, none is left to wait for
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return None
        self.kill()
        with self._guard:
            code = self._popen.wait()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        return code

    def tell(self, code: int) -> None:
        """Report on the loop that it was reaped."""
        _post(self._loop, self._ended, code)


class _Nursery:
    """The thread, and its children."""

    def __init__(self) -> None:
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._jobs: deque[Callable[[], None]] = deque()
        self._children: set[ChildProcess] = set()
        self._groups: set[int] = set()
        """Of children that were reaped: what is left of them is ours where this is the first process of a container."""
        threading.Thread(target=self._run, name="child processes", daemon=True).start()

    def submit(self, job: Callable[[], None]) -> None:
        """Run a job on the thread; it must not raise."""
        self._jobs.append(job)
        os.eventfd_write(self._wake, 1)

    def add(self, child: ChildProcess) -> None:
        """Look after a child; call it on the thread."""
        self._children.add(child)

    def _run(self) -> None:
        while True:
            self._wait()
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake)
            while self._jobs:
                self._jobs.popleft()()
            for child in list(self._children):
                try:
                    code = child.reap()
                except Exception:
                    # If this thread ended, the kernel would kill every child.
                    log.exception("internal error: child process %d could not be reaped", child.pid)
                    code = -signal.SIGKILL
                if code is not None:
                    self._children.discard(child)
                    self._groups.add(child.pid)
                    child.tell(code)
            self._groups = {group for group in self._groups if _has_more(group)}

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        blind = False
        for child in self._children:
            if child.pidfd >= 0:
                poll.register(child.pidfd, select.POLLIN)
            else:
                blind = True
        poll.poll(_POLL_MS if blind or self._groups else None)


def _has_more(group: int) -> bool:
    """Reap what has ended of a group that was killed; returns whether more of it is to be reaped here."""
    try:
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


@cache
def _nursery() -> _Nursery:
    return _Nursery()


async def start(command: Sequence[str], files: ChildFiles, ended: Ended) -> ChildProcess:
    """Start a child in a process group of its own, with the environment and the folder of this process.

    Not in a session of its own: by that the kernel shares processors out (sched_autogroup), so that the
    server's `nice` would not hold for the child.

    `ended` is called on the loop once it was reaped. Raises `OSError` with the reason. If this
    coroutine is cancelled, the child is killed. The `files` are closed here, however it ends.
    """
    loop = asyncio.get_running_loop()
    started: asyncio.Future[ChildProcess | OSError] = loop.create_future()
    nursery = _nursery()

    def spawn() -> None:
        made = _spawn(command, files, loop, ended)
        if isinstance(made, ChildProcess):
            nursery.add(made)
        if not _post(loop, started.set_result, made) and isinstance(made, ChildProcess):
            made.kill()

    nursery.submit(spawn)
    try:
        outcome = await asyncio.shield(started)
    except asyncio.CancelledError:
        started.add_done_callback(_kill_started)
        raise
    if isinstance(outcome, OSError):
        raise outcome
    return outcome


@record
class ChildFiles:
    """The files that a child gets."""

    stdout: int
    stderr: int
    inherited: tuple[int, ...]
    """Under the same numbers as here."""

    def close(self) -> None:
        """Close them all."""
        for fd in (self.stdout, self.stderr, *self.inherited):
            os.close(fd)


def _spawn(
    command: Sequence[str], files: ChildFiles, loop: asyncio.AbstractEventLoop, ended: Ended
) -> ChildProcess | OSError:
    try:
        popen = subprocess.Popen(  # noqa: S603 - our own program
            command,
            stdin=subprocess.DEVNULL,
            stdout=files.stdout,
            stderr=files.stderr,
            pass_fds=files.inherited,
            process_group=0,
        )
    except OSError as error:
        return error
    except Exception as error:  # noqa: BLE001 - whatever it is, there is no child
        return OSError(describe(error))
    finally:
        files.close()
    return ChildProcess(popen, loop, ended)


def _post(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: object) -> bool:
    """Call it on the loop; False if that is closed."""
    try:
        loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:
        return False
    return True


def _kill_started(started: asyncio.Future[ChildProcess | OSError]) -> None:
    outcome = started.result()
    if isinstance(outcome, ChildProcess):
        outcome.kill()


def warm() -> None:
    """Start the thread, which otherwise the first child does; it keeps one file descriptor."""
    _nursery()
