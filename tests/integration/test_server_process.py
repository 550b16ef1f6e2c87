"""`ServerProcess` and the fixture `serve`, on which every end-to-end test stands."""

from signal import SIGINT

import grpc
import pytest

from batcher.testing.server import ServerFailedError, ServerProcess

CONFIG = {"models": [{"name": "hello", "executor": "emulated"}]}

pytestmark = pytest.mark.slow


def test_a_started_server_listens_where_it_says(serve):
    server = serve(CONFIG)
    assert server.grpc in server.ready_line
    with grpc.insecure_channel(server.grpc) as channel:
        grpc.channel_ready_future(channel).result(timeout=10)


def test_stop_ends_it_with_its_exit_code(serve):
    server = serve(CONFIG)
    assert server.stop(SIGINT) == 0
    assert "drained" in server.log()


def test_a_server_that_does_not_start_says_why(tmp_path):
    server = ServerProcess({"models": []}, folder=tmp_path)
    with pytest.raises(ServerFailedError, match=r"exit code 2(.|\n)*models"), server:
        pytest.fail("it started")
    assert server.process.poll() == 2
