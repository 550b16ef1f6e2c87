"""A real server for each test that asks: `serve(config)` starts one, the teardown ends it."""

from contextlib import ExitStack
from signal import Signals

import pytest

from batcher.testing.server import ServerProcess


def _end(server):
    was_running = server.process.poll() is None
    code = server.stop(Signals.SIGTERM)
    print(server.log())  # noqa: T201  # pytest shows it for tests that failed
    if was_running:
        assert code == 0, f"the server drained with exit code {code}"


@pytest.fixture
def serve(tmp_path):
    """A function from a configuration document (and options of `ServerProcess`) to a started one."""
    with ExitStack() as stack:

        def start(config, **options):
            server = stack.enter_context(ServerProcess(config, folder=tmp_path, **options))
            stack.callback(_end, server)
            return server

        yield start
