from pathlib import PurePosixPath

import pytest

from batcher.config import TcpAddress, UnixAddress, parse_address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8001", TcpAddress("127.0.0.1", 8001)),
        ("localhost:0", TcpAddress("localhost", 0)),
        ("Model-Host.example:65535", TcpAddress("model-host.example", 65535)),
        ("[::1]:8001", TcpAddress("::1", 8001)),
        ("[fe80::1%eth0]:1", TcpAddress("fe80::1%eth0", 1)),
        ("unix:/run/batcher/a.sock", UnixAddress(PurePosixPath("/run/batcher/a.sock"))),
        ("unix:///run//b/../a.sock", UnixAddress(PurePosixPath("/run/a.sock"))),
    ],
)
def test_the_parts_of_an_address(text, expected):
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8001",
        ":8001",
        "host",
        "host:",
        "host:http",
        "::1:8001",
        "[::1]",
        "http://h:80",
        "a b:1",
        "[x y]:1",
    ],
)
def test_what_is_no_address_is_reported_the_three_forms(text):
    with pytest.raises(ValueError, match="host:port"):
        parse_address(text)


def test_a_port_is_at_most_65535():
    with pytest.raises(ValueError, match="a port from 0 to 65535"):
        parse_address("host:65536")


@pytest.mark.parametrize("text", ["unix:", "unix:relative", "unix:/folder/", "unix:/a\0b"])
def test_a_socket_path_is_absolute_and_names_a_file(text):
    with pytest.raises(ValueError, match="absolute path"):
        parse_address(text)


def test_a_socket_path_is_as_long_as_the_kernel_takes():
    longest = "/" + "é" * 53
    assert parse_address(f"unix:{longest}") == UnixAddress(PurePosixPath(longest))
    with pytest.raises(ValueError, match="at most 107 bytes"):
        parse_address(f"unix:{longest}x")
