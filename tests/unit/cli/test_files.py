"""A server may open as many files as its connections need, where the system lets it."""

import resource

import pytest

from batcher.cli.files import OTHER_FILES, allow_files
from batcher.config import parse_config
from batcher.http2.listener import PROBE_CONNECTIONS

NEEDED = 2 * (500 + PROBE_CONNECTIONS) + OTHER_FILES


@pytest.fixture
def config():
    text = "server: {grpc: ['h:1'], admin: ['h:2'], max_connections: 500}\n"
    return parse_config(text + "models: [{name: m, executor: emulated}]")


@pytest.fixture
def limits(monkeypatch):
    """The (soft, hard) limits of a process that is not this one; changed by `setrlimit`."""
    found = [1024, 4096]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(found))
    monkeypatch.setattr(
        resource, "setrlimit", lambda _, limits: found.__setitem__(slice(2), limits)
    )
    return found


@pytest.mark.parametrize(
    ("before", "after", "warned"),
    [
        ([1024, 4096], [NEEDED, 4096], False),
        ([1024, resource.RLIM_INFINITY], [NEEDED, resource.RLIM_INFINITY], False),
        ([4096, 4096], [4096, 4096], False),
        ([resource.RLIM_INFINITY] * 2, [resource.RLIM_INFINITY] * 2, False),
        ([100, 1100], [1100, 1100], True),
    ],
)
def test_the_soft_limit_is_raised_to_what_is_needed(config, limits, caplog, before, after, warned):
    limits[:] = before
    allow_files(config)
    assert limits == after
    text = [record.getMessage() for record in caplog.records]
    assert bool(text) is warned
    if warned:
        assert (
            f"{NEEDED - OTHER_FILES} gRPC connections may need {NEEDED} open files, and this process may open 1100"
            in text[0]
        )
