"""A failed start prints one line, exits with the right code and affects no other server."""

import json
import re
import socket
import subprocess
import sys

import pytest

from batcher.errors import ListenError, ModelLoadError

LISTENERS = ["grpc", "http", "admin"]


def only(listener, address):
    """The section `server` with one listener on an address, and a free port for gRPC."""
    server = {"grpc": ["127.0.0.1:0"], "http": None}
    return server | {listener: address if listener == "http" else [address]}


@pytest.fixture
def refused(tmp_path):
    """A function from a document to the (exit code, error lines) of a server that did not start."""

    def serve(document):
        path = tmp_path / "refused.yaml"
        path.write_text(json.dumps(document))
        command = [sys.executable, "-m", "batcher", "serve", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        assert len(re.findall(r"^error: ", done.stderr, re.MULTILINE)) == 1, done.stderr
        return done.returncode, done.stderr

    return serve


@pytest.mark.slow
def test_a_typo_in_the_configuration_ends_the_process_with_2(refused, hello):
    code, errors = refused(hello() | {"modles": []})
    assert code == 2
    assert "modles" in errors
    assert "did you mean models?" in errors


@pytest.mark.slow
def test_a_port_in_use_ends_the_process_with_1(refused, hello):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, errors = refused(hello(server=only("grpc", address)))

    assert code == 1
    assert f"cannot listen on {address}: Address already in use" in errors


async def test_a_wrong_option_of_an_executor_names_it(start, hello):
    document = hello()
    document["models"][0]["options"] = {"base": "5 parsecs"}
    with pytest.raises(ModelLoadError, match=r"'hello'.*option base.*5 parsecs"):
        await start(document)


@pytest.mark.parametrize("listener", LISTENERS)
async def test_a_port_in_use_is_named(start, hello, listener):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ListenError, match=f"{address}: Address already in use"):
            await start(hello(server=only(listener, address)))


@pytest.mark.parametrize("listener", LISTENERS)
async def test_a_unix_path_that_is_no_socket_is_left_alone(start, hello, tmp_path, listener):
    path = tmp_path / "data.sock"
    path.write_text("precious")
    with pytest.raises(ListenError, match=f"{path}: the path exists and is not a socket"):
        await start(hello(server=only(listener, f"unix:{path}")))
    assert path.read_text() == "precious"


@pytest.mark.parametrize("listener", LISTENERS)
async def test_a_unix_socket_that_lives_is_left_alone(start, hello, tmp_path, listener):
    path = tmp_path / "live.sock"
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(path))
        living.listen()
        with pytest.raises(ListenError, match=f"{path}: another process listens there"):
            await start(hello(server=only(listener, f"unix:{path}")))
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path))


async def test_a_full_backlog_of_a_living_socket_does_not_hold_up_the_refusal(
    start, hello, tmp_path
):
    path = tmp_path / "busy.sock"
    with socket.socket(socket.AF_UNIX) as living, socket.socket(socket.AF_UNIX) as waiting:
        living.bind(str(path))
        living.listen(0)
        waiting.connect(str(path))
        with pytest.raises(ListenError, match="another process listens there"):
            await start(hello(server=only("grpc", f"unix:{path}")))


async def test_a_missing_folder_of_a_unix_socket_is_named(start, hello, tmp_path):
    path = tmp_path / "nowhere" / "data.sock"
    with pytest.raises(ListenError, match=f"unix:{path}: No such file or directory"):
        await start(hello(server=only("grpc", f"unix:{path}")))


@pytest.mark.parametrize("listener", LISTENERS)
async def test_a_stale_unix_socket_is_taken_over(start, hello, tmp_path, listener):
    path = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.is_socket()

    await start(hello(server=only(listener, f"unix:{path}")))

    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))


async def test_a_refused_listener_closes_the_others(start, hello, tmp_path):
    """The first of two addresses was bound; after the failure nothing is left of it."""
    bound, refused = tmp_path / "bound.sock", tmp_path / "file"
    refused.write_text("precious")
    with pytest.raises(ListenError, match="is not a socket"):
        await start(hello(server={"grpc": [f"unix:{bound}", f"unix:{refused}"]}))
    assert not bound.exists()
    assert refused.exists()


@pytest.mark.slow
def test_a_new_server_takes_over_the_socket_of_a_killed_one(serve, hello, tmp_path):
    path = tmp_path / "grpc.sock"
    first = serve(hello(server={"grpc": [f"unix:{path}"]}))
    first.process.kill()
    first.process.wait()
    assert path.is_socket()

    second = serve(hello(server={"grpc": [f"unix:{path}"]}))
    assert second.stop() == 0
    assert not path.exists()
