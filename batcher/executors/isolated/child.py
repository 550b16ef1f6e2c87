"""The program of a child: it becomes one executor, and ends with it."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import select
import signal
import socket
import sys
import threading
from typing import Final, NoReturn

from batcher.executors.isolated.messages import LOST

_PR_SET_PDEATHSIG: Final = 1

OOM_SCORE: Final = 300
"""Added to the child's `oom_score_adj`, of 1,000: where memory runs out, the kernel ends the process with
the highest score, which should be the child as long as the server has not 30 % of memory more."""


def main() -> NoReturn:
    """Run it: the arguments are the files of socket, arena and lifeline, and the server's process id."""
    link_fd, arena_fd, lifeline_fd, server_pid = map(int, sys.argv[1:5])
    for fd in (link_fd, arena_fd, lifeline_fd):
        os.set_inheritable(fd, False)
    _die_with(server_pid)
    _leave_signals_to_the_server()
    _be_killed_first()
    faulthandler.enable(all_threads=False)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr] # a text file here
    threading.Thread(target=_watch, args=(lifeline_fd,), name="server's end", daemon=True).start()

    from batcher.executors.isolated.serving import serve  # noqa: PLC0415 - it takes most of the start, and dies with the server already

    serve(socket.socket(fileno=link_fd), arena_fd)
    sys.exit(0)


def _die_with(server_pid: int) -> None:
    """Be killed when the server ends, whatever this process does then."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != server_pid:  # it has ended before that
        os._exit(LOST)


def _leave_signals_to_the_server() -> None:
    """Ignore what asks a whole group of processes to end: the server drains, and then says CLOSE.

    By a handler, which no program that this one starts inherits.
    """
    own_pid = os.getpid()

    def ignore(signum: int, _: object) -> None:
        if os.getpid() != own_pid:  # a fork of this process: it ends as others do
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, ignore)
        signal.siginterrupt(signum, False)


def _be_killed_first() -> None:
    try:
        with open("/proc/self/oom_score_adj", "r+") as file:  # noqa: PTH123 - no path to build
            score = min(1000, int(file.read()) + OOM_SCORE)
            file.seek(0)
            file.write(str(score))
    except (OSError, ValueError):
        return  # not on this system


def _watch(lifeline_fd: int) -> None:
    """End the process when the server has closed its end of a pipe: also in the middle of a batch."""
    poll = select.poll()
    poll.register(lifeline_fd, select.POLLIN)
    while not poll.poll():
        continue
    os._exit(LOST)
