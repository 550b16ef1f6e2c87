"""A machine with recorded GPUs behind nvidia-ml-py: see tests/fake_nvml."""

import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "fake_nvml" / "library"))

from fake_nvml import Machine

from batcher.clock import SECOND
from batcher.telemetry.devices.reader import Reader
from batcher.telemetry.devices.session import Claimed

PATIENCE_S = 30.0
"""How long a test waits for what a thread does, before it fails."""


class Reading:
    """A reader of a fake machine, under a manual clock. Waits for what its threads do."""

    def __init__(self, machine, **environ):
        self.machine = machine
        self.now_ns = SECOND
        self.changes = 0
        self.reader = Reader(self._changed, lambda: self.now_ns, load=self._load, environ=environ)
        self.modules = []
        self.threads = []

    def _load(self):
        self.threads.append(threading.current_thread())
        module = self.machine.load() if not self.modules else self.modules[0]
        self.modules.append(module)
        return module

    def _changed(self):
        self.changes += 1

    def read(self, *gpus, by_executor=False, **devices):
        """Read these GPUs: numbers as `gpu0` and so on, others by their devices."""
        named = {f"gpu{gpu}": gpu for gpu in gpus} | devices
        self.reader.wanted = {name: Claimed(gpu, by_executor) for name, gpu in named.items()}
        self.reader.start()

    def until(self, condition):
        """Wait until it holds."""
        pause = threading.Event()
        for _ in range(int(PATIENCE_S / 0.01)):
            if condition():
                return
            pause.wait(0.01)
        raise AssertionError("it did not come about")

    def calls(self, name="nvmlDeviceGetUtilizationRates"):
        return self.machine.calls.count(name)

    def next_reading(self, seconds=1.0):
        """Let time pass, and wait until everything was read again."""
        self.now_ns += int(seconds * SECOND)
        before = self.calls("nvmlDeviceGetFieldValues")
        self.until(lambda: self.calls("nvmlDeviceGetFieldValues") > before)

    def record(self, device="gpu0"):
        return self.reader.found[device]

    def state(self, device="gpu0"):
        found = self.reader.found.get(device)
        return None if found is None else getattr(found, "known", found).state

    def close(self):
        self.machine.release()
        self.reader.close(PATIENCE_S)
        for thread in self.threads:
            thread.join(PATIENCE_S)


@pytest.fixture
def reading():
    """Makes a `Reading` of a machine; ended, and checked for leaks, after the test."""
    made = []

    def make(machine=None, **environ):
        made.append(Reading(machine or Machine(), **environ))
        return made[-1]

    yield make
    for each in made:
        each.close()
        library = getattr(each.machine, "library", None)
        if library is not None:
            assert (library.opened, library.samples, library.sets) == (0, {}, {}), "leaks"


@pytest.fixture
def nvml():
    """Makes a module of nvidia-ml-py with a machine, and initializes it."""

    def make(machine):
        module = machine.load()
        module.nvmlInit()
        return module

    return make
