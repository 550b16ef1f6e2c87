"""A server of each transport behind each proxy."""

import functools
import os
import pwd
import shutil
import socket
import string
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from batcher.testing.server import ServerProcess, free_address

HERE = Path(__file__).parent
START_S = 10


def nginx(folder):
    user = pwd.getpwuid(os.getuid()).pw_name
    main = f"daemon off; user {user};" if os.getuid() == 0 else "daemon off;"
    return ["-e", "stderr", "-p", str(folder), "-c", "nginx.conf", "-g", main]


def haproxy(folder):
    return ["-db", "-f", str(folder / "haproxy.cfg")]


PROXIES = {
    "nginx": ("nginx.conf", nginx, "server {address};"),
    "haproxy": ("haproxy.cfg", haproxy, "server {address} {address} proto h2"),
}
"""The file, the arguments, and how a server is named in the file."""


def config(transport):
    """`hello` answers at once, `slow` after a second, and a row of `wide` has 4 MB."""
    models = [
        ("hello", {"columns": 4}),
        ("slow", {"columns": 4, "base": "1s"}),
        ("wide", {"columns": 1_000_000}),
    ]
    return {
        # nginx needs a connection for each call that is open.
        "server": {"transport": transport, "max_connections": 4096},
        "models": [
            {
                "name": name,
                "executor": "emulated",
                "options": options,
                "device": name,
                # So no request is refused because of a deadline.
                "batching": {"policy": "fixed"},
                "queue": {"max_requests": 4096},
                "warmup": {"batch_sizes": []},
            }
            for name, options in models
        ],
    }


def program(name):
    """The proxy's path. Skips the test where it is not installed."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed (.ci/packages.txt)")
    return found


def accepts(address):
    """Whether a process listens there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def proxy_before(name, servers, folder):
    """Run the proxy in front of those servers; yields its address and the file of its log."""
    path = program(name)
    template, arguments, line = PROXIES[name]
    listen = free_address()
    named = "\n".join(line.format(address=address) for address in servers)
    text = string.Template((HERE / template).read_text(encoding="utf-8"))
    (folder / template).write_text(text.substitute(LISTEN=listen, SERVERS=named), encoding="utf-8")
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [path, *arguments(folder)], stdout=output, stderr=output, cwd=folder
        )
    try:
        end = time.monotonic() + START_S
        while not accepts(listen):
            assert process.poll() is None, f"{name} ended\n{log.read_text()}"
            assert time.monotonic() < end, f"{name} does not listen\n{log.read_text()}"
            time.sleep(0.05)
        yield listen, log
    finally:
        process.terminate()
        process.wait(START_S)


@pytest.fixture(scope="session", params=("builtin", "grpcio"))
def server(request):
    with ServerProcess(config(request.param)) as running:
        yield running
        assert running.stop() == 0


@pytest.fixture(scope="session", params=tuple(PROXIES))
def put_before(request):
    """A function from addresses of servers and a folder to a context manager, `proxy_before`'s."""
    return functools.partial(proxy_before, request.param)


@pytest.fixture(scope="session")
def proxy(put_before, server, tmp_path_factory):
    """The address of a proxy in front of the server, and its log."""
    with put_before([server.grpc], tmp_path_factory.mktemp("proxy")) as running:
        yield running


@pytest.fixture
def address(proxy, server):
    """The address that calls go to. The logs are shown where a test fails."""
    listen, log = proxy
    before = len(server.log())
    yield listen
    print(log.read_text(), server.log()[before:])  # noqa: T201  # pytest shows it
