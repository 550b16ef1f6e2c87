"""`batcher top` in a pseudo-terminal, beside a real server that is stopped and started again."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time

import pytest

from batcher.testing.server import ServerProcess, free_address

pytestmark = pytest.mark.slow

CONFIG = {
    "models": [
        {
            "name": "embedder",
            "executor": "emulated",
            "options": {"columns": 4},
            "batching": {"target_p99": "50ms"},
        },
        {"name": f"long-{'x' * 110}", "executor": "emulated"},
    ]
}
PATIENCE_S = 60.0


class Terminal:
    """A program in a pseudo-terminal of some size."""

    def __init__(self, *arguments, columns, rows):
        self.output = b""
        self.fd, its = pty.openpty()
        self.resize(columns, rows)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "batcher", "top", *arguments],
            stdin=its,
            stdout=its,
            stderr=its,
            env={k: v for k, v in os.environ.items() if k not in {"COLUMNS", "LINES"}}
            | {"TERM": "xterm-256color"},
            start_new_session=True,
            # Only a controlling terminal makes a signal of Ctrl-C.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
        )
        os.close(its)

    def resize(self, columns, rows):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read_until(self, text):
        """Read until this text has come, and forget what came up to it."""
        end = time.monotonic() + PATIENCE_S
        while text not in self.output:
            left = end - time.monotonic()
            assert left > 0, f"{text!r} never came: {self.output[-3000:]!r}"
            if select.select([self.fd], [], [], left)[0]:
                self.output += os.read(self.fd, 65536)
        before, _, self.output = self.output.partition(text)
        return before

    def press(self, keys):
        os.write(self.fd, keys)

    def ended(self):
        """Its exit code, once it has ended."""
        try:
            while os.read(self.fd, 65536):
                pass
        except OSError:  # how a pseudo-terminal ends
            pass
        os.close(self.fd)
        return self.process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def server():
    with ServerProcess(CONFIG) as server:
        yield server


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (200, 50), (40, 20)])
@pytest.mark.parametrize("key", [b"q", b"\x03", b"\x1b"])
def test_it_shows_the_models_and_ends_by_a_key(server, columns, rows, key):
    terminal = Terminal(server.http, columns=columns, rows=rows)
    terminal.read_until(b"2 models, nothing is wrong")
    terminal.read_until(b"embedder")
    terminal.read_until(b"nothing is wrong")  # the second event
    terminal.press(key)
    assert terminal.ended() == 0


def test_it_follows_the_size_of_the_terminal(server):
    terminal = Terminal(server.http, columns=80, rows=24)
    terminal.read_until(b"target")
    terminal.resize(200, 40)
    terminal.read_until(b"queue age, five minutes")
    terminal.press(b"\x1b[A")  # an arrow is no end
    terminal.read_until(b"nothing is wrong")
    terminal.press(b"q")
    assert terminal.ended() == 0


def test_it_finds_a_server_again_that_was_restarted():
    section = {"http": free_address()}
    with ServerProcess(CONFIG | {"server": section}) as server:
        terminal = Terminal(server.http, columns=120, rows=24)
        terminal.read_until(b"nothing is wrong")
    terminal.read_until(b"no data for")
    with ServerProcess(CONFIG | {"server": section}):
        terminal.read_until(b"restarted")
        terminal.press(b"q")
        assert terminal.ended() == 0


def run(*arguments):
    command = [sys.executable, "-m", "batcher", "top", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)


def test_a_snapshot_is_plain_text(server):
    done = run(server.http, "--once")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isprintable() or "\x1b" not in done.stdout
    assert "embedder" in done.stdout
    assert "server: started, batcher" in done.stdout


def test_without_a_terminal_it_prints_a_snapshot(server):
    assert "embedder" in run(server.http).stdout


def test_the_grpc_address_is_told_apart(server):
    done = run(server.grpc, "--once")
    assert done.returncode == 2
    assert "not of server.grpc" in done.stderr


def test_without_a_server_it_says_so_and_leaves_the_terminal_alone():
    terminal = Terminal(free_address(), columns=80, rows=24)
    assert b"\x1b[?1049h" not in terminal.read_until(b"Connection refused")
    assert terminal.ended() == 2
