"""A server whose directory cannot be served at once."""

import asyncio
import signal

import pytest

from batcher.testing.server import ServerFailedError, ServerProcess, free_address

pytestmark = pytest.mark.slow


async def test_a_directory_is_followed_while_the_start_waits_for_a_backend(
    repository, fetch, eventually, tmp_path
):
    """The neighbor that is named first is never there; the file that names it is corrected."""
    repository.write("scaled", 1, 1, config='backend: "python"\n')
    overrides = repository.path / "scaled" / "batcher.yaml"
    overrides.write_text(f"executor: kserve\noptions: {{url: '{free_address()}'}}\n")
    http = free_address()
    section = {"path": str(repository.path), "poll_interval": "100ms"}
    server = ServerProcess({"server": {"http": http}, "model_repository": section}, folder=tmp_path)

    async def waits():
        try:
            return "trying again" in (await fetch(http, "/readyz"))[1]
        except OSError:
            return False

    starting = asyncio.create_task(asyncio.to_thread(server.__enter__))
    try:
        await eventually(waits)
        overrides.write_text("executor: emulated\noptions: {columns: 2}\n")
        await starting
        assert (await fetch(http, "/readyz"))[0] == 200
    finally:
        assert server.stop(signal.SIGTERM) == 0
        server.__exit__(None, None, None)


def test_a_directory_that_is_not_there_ends_the_start(tmp_path):
    server = ServerProcess({"model_repository": {"path": "nope"}}, folder=tmp_path)
    with (
        pytest.raises(ServerFailedError, match=r"model_repository\.path: .*nope cannot be read"),
        server,
    ):
        pytest.fail("it started")
