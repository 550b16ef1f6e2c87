"""Logs that were made under virtual time, and what reads them."""

import pytest

from batcher.clock import MILLISECOND
from batcher.core.events import DeviceConfigured, InstanceUp, ModelConfigured, RequestArrived
from batcher.core.settings import Adaptive, ModelSettings
from batcher.simulation import Driver
from batcher.testing.recording import RecordedScheduler


def story(requests, gap_ms=1.0):
    """One model on one device, and requests in even distances."""
    settings = ModelSettings(8, Adaptive(), target_ns=40 * MILLISECOND)
    yield 0, DeviceConfigured("d", 1)
    yield 0, ModelConfigured("m/1", settings)
    yield 0, InstanceUp("m/1#0", 1, "m/1", "d", 1, ((1, 4 * MILLISECOND), (8, 8 * MILLISECOND)))
    for number in range(1, requests + 1):
        at_ns = int(number * gap_ms * MILLISECOND)
        yield at_ns, RequestArrived(number, "m/1", 1, 16, (), "", at_ns)


@pytest.fixture
def recorded(tmp_path):
    """A function that records a story into a folder and returns the folder."""

    def record(requests=400, segment_ms=100, name="journal"):
        folder = tmp_path / name
        folder.mkdir()
        with RecordedScheduler(folder, segment_ns=segment_ms * MILLISECOND) as scheduler:
            took = 4 * MILLISECOND
            driver = Driver(scheduler, lambda dispatch: took, observe=lambda now, commands: None)
            driver.run(story(requests))
        return folder

    return record


class Sink:
    """Keeps what it gets."""

    def __init__(self):
        self.segments = []
        self.closed = False

    def begin(self, now_ns, opening):
        self.segments.append([now_ns, opening])

    def add(self, frame):
        self.segments[-1].append(frame)

    def close(self):
        self.closed = True

    @property
    def log(self):
        return b"".join(part for segment in self.segments for part in segment[1:])


@pytest.fixture
def sink():
    return Sink()
