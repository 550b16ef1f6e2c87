"""What `batcher top` says of what it finds at an address."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager

import pytest

from batcher.cli.live import client
from batcher.cli.live.client import LiveError, events, read_address


@contextmanager
def answering(answer, family=socket.AF_INET, address=("127.0.0.1", 0)):
    """A server that answers its first connection with these bytes, and ends it."""
    with socket.socket(family) as listener:
        listener.bind(address)
        listener.listen()

        def serve():
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        name = listener.getsockname()
        yield f"unix:{name}" if family == socket.AF_UNIX else f"127.0.0.1:{name[1]}"
        thread.join(30)


def stream(*events):
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\r\nretry: 1000\n\n"
    )
    body = b"".join(
        f"event: second\nid: {n}\ndata: {text}\n\n".encode() for n, text in enumerate(events, 1)
    )
    return head + body


def test_events_come_with_their_numbers(values):
    answer = stream(json.dumps(values()), json.dumps(values()))
    with answering(answer) as address:
        found = list(events(address))
    assert [each.number for each in found] == [1, 2]
    assert found[0].values == values()


def test_a_unix_socket(values, tmp_path):
    with answering(stream(json.dumps(values())), socket.AF_UNIX, str(tmp_path / "s")) as address:
        assert len(list(events(address))) == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 404 Not Found\r\ncontent-type: text/html\r\n\r\n", "not as batcher does"),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", "no type"),
        (b"HTTP/1.1 503 X\r\n\r\n50 viewers are looking already\n", "50 viewers are looking"),
        (b"\x00\x00\x18\x04\x00\x00\x00\x00\x00", "does not speak HTTP"),
        (b"", "does not speak HTTP"),
        (stream("{}"), "not those of batcher"),
        (stream("nonsense"), "not those of batcher"),
        (stream("[1]"), "not those of batcher"),
        (stream("[" * 100_000), "not those of batcher"),
        (b"HTTP/1.1 503 X\r\n\r\n\x1b]0;title\x07", r"\?\]0;title\?$"),
        (b"HTTP/1.1 200 OK\r\ncontent-type: \x1b[2J\r\n\r\n", r", \?\[2J"),
    ],
)
def test_what_is_no_batcher_is_said_so(answer, said):
    with answering(answer) as address, pytest.raises(LiveError, match=said):
        list(events(address))


def test_where_nothing_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(LiveError, match=r"Connection refused; is `batcher serve` running"):
            list(events(address))


@pytest.mark.parametrize("size", [b"f" * 20, b"-1"])
def test_a_chunk_of_no_size(size):
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked"
    answer = head + b"\r\n\r\n" + size + b"\r\n"
    with answering(answer) as address, pytest.raises(LiveError, match="does not speak HTTP"):
        list(events(address))


def test_a_name_that_no_host_can_have():
    with pytest.raises(LiveError, match="no name of a host"):
        list(events(f"{'x' * 64}.invalid:8002"))


def test_a_host_that_is_not_there():
    with pytest.raises(LiveError, match="cannot reach"):
        list(events("nowhere.invalid:8002"))


def test_silence_ends(monkeypatch):
    monkeypatch.setattr(client, "SILENCE_S", 0.01)
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, pytest.raises(LiveError, match="is silent"):
        list(events(f"127.0.0.1:{silent.getsockname()[1]}"))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.1:8002", "10.0.0.1:8002"),
        ("8002", "127.0.0.1:8002"),
        ("http://pod:8002/", "pod:8002"),
        ("http://pod:8002/v1/live", "pod:8002"),
        ("[::1]:8002", "[::1]:8002"),
        ("unix:/run/b.sock", "unix:/run/b.sock"),
    ],
)
def test_addresses(text, address):
    assert read_address(text) == address


@pytest.mark.parametrize("text", ["", "pod", "pod:", ":8002", "pod:x", "pod:99999"])
def test_what_is_no_address(text):
    with pytest.raises(LiveError, match="allowed: HOST:PORT"):
        read_address(text)


def test_no_text_can_change_the_terminal(values):
    text = "\x1b]0;title\x07\x9b2J\u202e\r\n\udc80e\u0301\u96ea"
    given = values(
        changes=[{"timestamp_seconds": 0, "severity": "ok", "text": text}], more={text: [text]}
    )
    with answering(stream(json.dumps(given))) as address:
        (found,) = events(address)
    plain = "??]0;title??2J????e\u0301\u96ea".replace("??", "?", 1)
    assert found.values["changes"][0]["text"] == plain
    assert found.values["more"] == {plain: [plain]}


def test_a_number_that_is_none_is_0(values):
    answer = stream(json.dumps(values())).replace(b"id: 1", b"id: \xffone")
    with answering(answer) as address:
        assert [each.number for each in events(address)] == [0]
