"""A registry with a `Telemetry` on a manual clock that starts at zero."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from batcher.clock import MILLISECOND
from batcher.telemetry import Stamps, Telemetry
from batcher.testing import ManualClock


@pytest.fixture
def clock():
    return ManualClock(0)


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def telemetry(registry, clock):
    return Telemetry(registry, clock=clock)


@pytest.fixture
def model(telemetry):
    return telemetry.model("m:1", "m", "1")


@pytest.fixture
def value(registry):
    """The value of a sample of model m, version 1; None where there is no such sample."""

    def look_up(name, **labels):
        return registry.get_sample_value(name, {"model": "m", "version": "1", **labels})

    return look_up


@pytest.fixture
def stamps():
    """Stamps made from milliseconds, in the order of a request's walk."""

    def make(*milliseconds):
        return Stamps(*(int(moment * MILLISECOND) for moment in milliseconds))

    return make
