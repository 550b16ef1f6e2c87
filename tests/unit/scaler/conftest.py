"""Load reports, and what a replica's say of it."""

import pytest

from batcher.clock import SECOND
from batcher.scaler.discovery import Endpoint
from batcher.scaler.replica import Replica
from batcher.testing.replica import FakeReplica


class Now:
    """A clock that a test sets, in seconds."""

    def __init__(self):
        self.s = 1000.0

    def __call__(self):
        return round(self.s * SECOND)


@pytest.fixture
def now():
    """The time, which moves when a test says so."""
    return Now()


@pytest.fixture
def speaker():
    """A replica whose reports a test makes, and never starts."""
    return FakeReplica()


@pytest.fixture
def heard(now, speaker):
    """A function that has the scaler's side hear the next report, and returns that side."""
    replica = Replica(Endpoint("127.0.0.1:8001"), now(), fresh_ns=4 * SECOND, keep_ns=30 * SECOND)

    def hear(**changes):
        for name, value in changes.items():
            setattr(speaker, name, value)
        replica.answered(speaker.report().SerializeToString(), now())
        return replica

    return hear
