"""A child as the server has it: its process, socket, memory and output, from the start to the end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, Final

from batcher.core.record import record
from batcher.errors import MAX_DESCRIPTION
from batcher.executors.isolated.arena import Arena
from batcher.executors.isolated.link import Link
from batcher.executors.isolated.output import OutputLines
from batcher.executors.isolated.processes import ChildFiles, ChildProcess, start
from batcher.telemetry.reasons import LossReason

SHARED_MEMORY: Final = 1024 * 1024 * 1024
"""Bytes that a child shares with the server at most: for the inputs of the batch that runs and of the next,
and for outputs that are not sent yet. It costs memory where it is used only; batches that find no room
are executed in smaller ones."""

_END_S: Final = 0.2
"""Seconds between the end of a child's socket and its own, which the kernel makes in one go. A child that
lives on has closed its socket, and is killed."""

Line = Callable[[str, str], None]
"""Called with `stdout` or `stderr`, and a line that the child has written there."""


@record
class ChildEnd:
    """How a child ended that was not told to, or was killed because of what it did."""

    reason: LossReason
    why: str
    last: str = ""
    """The end of its stderr; empty if it wrote nothing."""

    @property
    def in_full(self) -> str:
        """All of it, for the log: callers get no lines of its stderr."""
        return f"{self.why}; the end of its stderr: {self.last}" if self.last else self.why


class HostedChild:
    """One child process. Call every method on the loop.

    `received` gets its messages. `ended` is called once when the process has ended; not after `kill`
    without a reason. `gone` is set when nothing is left of it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        received: Callable[[list[Any]], None],
        ended: Callable[[ChildEnd], None],
        line: Line,
    ) -> None:
        self._loop = loop
        self._received = received
        self._ended = ended
        self._line = line
        self._process: ChildProcess | None = None
        self._link: Link | None = None
        self._outputs: dict[str, OutputLines] = {}
        self._arena: Arena | None = None
        self._lifeline = -1
        """Our end of a pipe: when it closes, the child ends, whatever its main thread does. Not the socket, which
        a thread that waits for its end would keep open."""
        self._why = ""
        self._ends: asyncio.TimerHandle | None = None
        self._killed = False
        self.gone = asyncio.Event()

    @property
    def arena(self) -> Arena:
        """The memory that it shares."""
        assert self._arena is not None  # noqa: S101 - there is one from `start` to the end
        return self._arena

    @property
    def pid(self) -> int:
        """Its process id; 0 before it has one."""
        return 0 if self._process is None else self._process.pid

    async def start(self, name: str) -> None:
        """Start it; `name` is shown in lists of processes. Raises `OSError` with the reason.

        If this coroutine is cancelled, nothing stays.
        """
        try:
            command, files = self._open(name)
            self._process = await start(command, files, self._reaped)
        except (OSError, ValueError) as error:
            self._close()
            self.gone.set()
            reason = getattr(error, "strerror", None) or error
            raise OSError(
                f"its child process could not be started ({sys.executable or 'no interpreter'}): {reason}"
            ) from error
        except BaseException:
            self._close()
            raise
        if self._killed:
            self._process.kill()

    def send(self, message: list[Any]) -> None:
        """Send a message. Raises what `frames.frame` raises."""
        if self._link is not None:
            self._link.send(message)

    def kill(self, why: str = "") -> None:
        """Kill it and its group. With a reason, `ended` is called with that when it has ended."""
        if why and not self._killed:
            self._why = self._why or why
        else:
            self._killed = True
            self._close()
        if self._process is not None:
            self._process.kill()

    def _open(self, name: str) -> tuple[list[str], ChildFiles]:
        with ExitStack() as undo:
            self._arena = Arena(SHARED_MEMORY)
            ours, theirs = socket.socketpair()
            end = theirs.detach()
            undo.callback(os.close, end)
            self._link = Link(ours, self._loop, self._received, self._broken)
            writes: list[int] = []
            for stream in ("stdout", "stderr"):
                read, write = os.pipe()
                undo.callback(os.close, write)
                writes.append(write)
                self._outputs[stream] = OutputLines(read, self._loop, partial(self._line, stream))
            memory = os.dup(self._arena.fd)
            undo.callback(os.close, memory)
            lifeline, self._lifeline = os.pipe()
            undo.pop_all()
        inherited = (end, memory, lifeline)
        command = [*interpreter(), *map(str, inherited), str(os.getpid()), name]
        return command, ChildFiles(writes[0], writes[1], inherited)

    def _broken(self, why: str) -> None:
        """Its socket has ended, or what it sent is no message."""
        if why:
            self.kill(why)
        else:
            closed = "it closed its connection to the server"
            self._ends = self._loop.call_later(_END_S, self.kill, closed)

    def _reaped(self, code: int) -> None:
        if self._killed:
            self.gone.set()
            return
        assert self._link is not None  # noqa: S101 - it was started
        self._link.drain()
        for output in self._outputs.values():
            output.close()
        ended = ChildEnd(LossReason.BROKEN, self._why) if self._why else how_it_ended(code)
        ended = replace(ended, last=end_of(list(self._outputs["stderr"].last)))
        self._close()
        self.gone.set()
        if not self._killed:
            self._killed = True
            self._ended(ended)

    def _close(self) -> None:
        if self._ends is not None:
            self._ends.cancel()
        if self._link is not None:
            self._link.close()
        for output in self._outputs.values():
            output.close()
        if self._arena is not None:
            self._arena.close()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1


def interpreter() -> list[str]:
    """The command of a child without its arguments: it imports from where this process does.

    The folder or archive that this process was started from, what it ignores of its environment (`-I`), and
    where else it was told to look: a child must not find another batcher, or none.
    """
    flags = {
        "-E": sys.flags.ignore_environment,
        "-s": sys.flags.no_user_site,
        "-S": sys.flags.no_site,
    }
    options = ["-I"] if sys.flags.isolated else [each for each, is_set in flags.items() if is_set]
    paths = [str(path) for path in sys.path]
    program = (
        f"import sys; sys.path[:] = {paths!a};"
        " from batcher.executors.isolated.child import main; main()"
    )
    return [sys.executable, "-P", *options, "-c", program]


def how_it_ended(code: int) -> ChildEnd:
    """What an exit code says."""
    if code >= 0:
        return ChildEnd(LossReason.EXITED, f"it ended with exit code {code}")
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    by = " (by the kernel where memory has run out, or by hand)" if name == "SIGKILL" else ""
    return ChildEnd(LossReason.KILLED, f"it was killed by {name}{by}")


def end_of(lines: list[str]) -> str:
    """The last lines, for a message; from the message of a fatal error on."""
    if not lines:
        return ""
    fatal = [place for place, line in enumerate(lines) if line.startswith("Fatal Python error")]
    text = " | ".join(lines[fatal[-1] :] if fatal else lines[-3:])
    if len(text) > MAX_DESCRIPTION:
        text = f"{text[:MAX_DESCRIPTION]}..." if fatal else f"...{text[-MAX_DESCRIPTION:]}"
    return text
