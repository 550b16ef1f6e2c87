"""What a configuration names on disk, looked at without using it."""

import os
import socket

import pytest

from batcher.config import file_problems, folder_problems, load_config, located
from batcher.config.files import unreadable

MODELS = "models: [{name: m, executor: emulated}]\n"
TLS = "server: {tls: {cert: tls/cert.pem, key: /abs/key.pem, client_ca: ca.pem}}\n"


@pytest.fixture
def config(tmp_path):
    """A function from a text to the configuration that is loaded from a file with it."""

    def call(text):
        path = tmp_path / "config.yaml"
        path.write_text(text + MODELS)
        return load_config(path, {})

    return call


def test_tls_files_that_are_not_there(config, tmp_path):
    (tmp_path / "ca.pem").mkdir()
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls/cert.pem").write_text("x")
    found = config(TLS)
    assert located(found, file_problems(found)) == [
        (
            "server.tls.key (line 1): got /abs/key.pem, No such file or directory;"
            " allowed: a readable file"
        ),
        (
            f"server.tls.client_ca (line 1): got {tmp_path}/ca.pem, Is a directory;"
            " allowed: a readable file"
        ),
    ]


def test_tls_files_that_are_there(config, tmp_path):
    (tmp_path / "a.pem").write_text("x")
    assert list(file_problems(config("server: {tls: {cert: a.pem, key: a.pem}}\n"))) == []
    assert list(file_problems(config(""))) == []


def test_labels_that_are_not_there(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("models: [{name: m, executor: e, outputs: [{output: Y, labels: no.txt}]}]")
    found = load_config(path, {})
    assert found.models[0].label_files() == {"Y": tmp_path / "no.txt"}
    assert located(found, file_problems(found)) == [
        (
            f"models[0].outputs[0].labels (line 1): got {tmp_path}/no.txt, No such file or"
            " directory; allowed: a readable file"
        )
    ]
    (tmp_path / "no.txt").write_text("cat")
    assert list(file_problems(found)) == []


def test_a_problem_has_the_line_of_what_is_written_down(config):
    found = config('# one\nserver:\n  tls: {cert: "${A:-a}", key: b}\n')
    assert located(
        found, [(("server", "tls", "cert"), "x"), (("models", 0, "options", "a"), "y")]
    ) == [
        "server.tls.cert (line 3): x",
        "models[0].options.a (line 4): y",
    ]


def test_folders_that_can_be_used(config, tmp_path):
    (tmp_path / "there").mkdir()
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(tmp_path / "old.sock"))
    text = f"""
server: {{grpc: ["127.0.0.1:1", "unix:{tmp_path}/old.sock"], http: "unix:{tmp_path}/h", admin: ["unix:{tmp_path}/a"]}}
journal: {{folder: to/be/made}}
flight_recorder: {{folder: there}}
"""
    assert list(folder_problems(config(text))) == []


def test_folders_that_cannot_be_used(config, tmp_path):
    (tmp_path / "file").touch()
    text = f"""
server: {{grpc: ["unix:{tmp_path}/file"], http: "unix:{tmp_path}/no/h", admin: ["unix:{tmp_path}/file/a"]}}
journal: {{folder: file/journal}}
flight_recorder: {{folder: file}}
"""
    found = dict(folder_problems(config(text)))
    allowed = "allowed: a folder that can be written to"
    assert found == {
        (
            "server",
            "grpc",
            0,
        ): f"got unix:{tmp_path}/file, which exists and is not a socket; allowed: a path that does not exist",
        ("server", "http"): f"got unix:{tmp_path}/no/h; allowed: a path in a folder that exists",
        (
            "server",
            "admin",
            0,
        ): f"got unix:{tmp_path}/file/a; allowed: a path in a folder that exists",
        (
            "journal",
            "folder",
        ): f"got {tmp_path}/file/journal, and {tmp_path}/file is not a folder; {allowed}",
        (
            "flight_recorder",
            "folder",
        ): f"got {tmp_path}/file, and {tmp_path}/file is not a folder; {allowed}",
    }


def test_folders_that_are_not_ours_to_write(config, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    found = dict(
        folder_problems(
            config(f"server: {{http: 'unix:{tmp_path}/h'}}\njournal: {{folder: logs}}\n")
        )
    )
    assert "a path in a folder that can be written to" in found["server", "http"]
    assert "cannot be written to" in found["journal", "folder"]


def test_a_pipe_is_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    assert unreadable(tmp_path / "pipe") is None
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "Permission denied" in unreadable(tmp_path / "pipe")


def test_a_folder_may_be_read_where_that_is_meant(tmp_path):
    assert unreadable(tmp_path) is None
    assert "Is a directory" in unreadable(tmp_path, folder=False)
