"""Listening sockets."""

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from batcher.sockets import bound_address, listen

ALLOWED = int(Path("/proc/sys/net/core/somaxconn").read_text(encoding="ascii"))


@pytest.mark.skipif(ALLOWED < 500, reason="the system's own bound is smaller")
def test_many_may_wait_to_be_accepted():
    with ExitStack() as stack:
        sock = stack.enter_context(listen("127.0.0.1:0"))
        host, port = bound_address(sock).split(":")
        for _ in range(min(450, ALLOWED)):
            client = stack.enter_context(socket.socket())
            client.settimeout(0.5)  # beyond the bound, a connect waits a second for its next try
            client.connect((host, int(port)))
