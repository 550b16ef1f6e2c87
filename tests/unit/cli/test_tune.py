"""`batcher tune` against a server of its own: an admin service in a thread."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from batcher.protocol import ADMIN, admin, handlers


class Admin:
    """Gives scripted answers, and records its requests."""

    def __init__(self):
        self.asked = []
        self.refuses = None

    def methods(self):
        return {"GetSettings": self.get, "UpdateSettings": self.update, "Reload": self.reload}

    def note(self, request, context):
        self.asked.append(request)
        if self.refuses is not None:
            context.abort(*self.refuses)

    def get(self, request, context):
        self.note(request, context)
        answer = admin.GetSettingsResponse(generation=3)
        answer.models.add(model="m", version="1", settings="batching:\n  max_batch_size: 32\n")
        return answer

    def update(self, request, context):
        self.note(request, context)
        answer = admin.UpdateSettingsResponse(generation=4)
        fields = {"model": "m", "version": "1", "old": "32", "new": "16"}
        answer.changes.add(path="batching.max_batch_size", **fields)
        return answer

    def reload(self, request, context):
        self.note(request, context)
        return admin.ReloadResponse(generation=5)


@pytest.fixture
def service():
    return Admin()


@pytest.fixture
def address(service):
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((handlers(ADMIN, service.methods()),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_it_shows_the_settings_in_force(run, address, service):
    result = run("tune", address)
    assert result.exit_code == 0
    assert result.stdout == ("# generation 3\n# m version 1\nbatching:\n  max_batch_size: 32\n")
    assert service.asked == [admin.GetSettingsRequest()]


def test_it_changes_values(run, address, service):
    result = run(
        *("tune", address, "--model", "m", "--version", "1"),
        *("--set", "batching.max_batch_size=16", "--set", "queue={max_rows: 3}"),
    )
    assert result.exit_code == 0
    assert result.stdout == "m/1 batching.max_batch_size: 32 -> 16\ngeneration 4\n"
    changes = {"batching.max_batch_size": "16", "queue": "{max_rows: 3}"}
    assert service.asked == [admin.UpdateSettingsRequest(model="m", version="1", changes=changes)]


def test_it_validates(run, address, service):
    result = run("tune", address, "--model", "m", "--set", "queue.max_rows=3", "--validate-only")
    assert result.stdout.endswith("valid; nothing was changed, generation 4 stays in force\n")
    assert service.asked[0].validate_only


def test_it_makes_the_server_read_its_file_again(run, address, service):
    result = run("tune", address, "--reload")
    assert (result.exit_code, result.stdout) == (
        0,
        "no value differs: nothing to change\ngeneration 5\n",
    )
    assert service.asked == [admin.ReloadRequest()]


@pytest.mark.parametrize(
    ("code", "exit_code", "text"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 2, "error: refused, nothing has changed: why"),
        (grpc.StatusCode.NOT_FOUND, 2, "error: refused, nothing has changed: why"),
        (grpc.StatusCode.INTERNAL, 1, ": INTERNAL: why"),
        (
            grpc.StatusCode.UNIMPLEMENTED,
            1,
            "is not an admin listener of batcher; give an address of server.admin",
        ),
    ],
)
def test_a_refusal_is_an_exit_code(run, address, service, code, exit_code, text):
    service.refuses = code, "why"
    result = run("tune", address, "--model", "m", "--set", "queue.max_rows=0")
    assert result.exit_code == exit_code
    assert text in result.stderr


def test_a_server_that_cannot_be_reached_is_reported(run, tmp_path):
    result = run("tune", f"unix:{tmp_path}/none.sock", "--timeout", "2s")
    assert result.exit_code == 1
    assert "UNAVAILABLE" in result.stderr


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--set", "queue.max_rows=3"], "--set needs --model"),
        (["--model", "m", "--set", "queue.max_rows"], "allowed: PATH=VALUE"),
        (["--model", "m", "--set", "=3"], "allowed: PATH=VALUE"),
        (["--model", "m", "--set", "a=1", "--set", "a=2"], "got a a second time"),
        (["--validate-only"], "--validate-only needs --set"),
        (["--reload", "--model", "m"], "--reload applies the whole file"),
        (["--timeout", "5"], "--timeout: got '5'; allowed: a number with a unit"),
        (["--cert", "x"], "--cert and --key go together"),
        (["--cert", "x", "--key", "y"], "--cert needs --ca"),
        (["--ca", "/none.pem"], "--ca: /none.pem: No such file or directory"),
    ],
)
def test_a_wrong_option_is_an_error_before_the_server_is_called(
    run, address, service, options, text
):
    result = run("tune", address, *options)
    assert (result.exit_code, text in result.stderr) == (2, True), result.stderr
    assert service.asked == []


def test_a_wrong_address_is_reported(run):
    result = run("tune", "nowhere")
    assert result.exit_code == 2
    assert "ADDRESS: got 'nowhere'; allowed: host:port" in result.stderr
