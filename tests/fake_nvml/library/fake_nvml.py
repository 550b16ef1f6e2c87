"""A recorded NVML behind nvidia-ml-py: its functions, structs and errors are the real ones, the library is not.

nvidia-ml-py calls functions of libnvidia-ml.so.1. Here these are functions of `FakeLibrary`, which answer from a
`Machine`: GPUs with values as an H100 gives them, and faults. So the real wrappers, structs and error classes run.

In a test:

    machine = Machine(gpus=[FakeGpu(0), FakeGpu(1)])
    nvml = machine.load()               # a fresh module of nvidia-ml-py, which has this machine
    machine.gpus[1].error = "GPU_IS_LOST"
    machine.xid(0, 79)

For a server process, put `tests/fake_nvml/path` on its PYTHONPATH: its `pynvml.py` is the real one with a machine
that the file in `FAKE_NVML` describes. The file may change while the server runs:

    {"gpus": [{"uuid": "GPU-...", "utilization": 80, "error": "GPU_IS_LOST", "xids": [79], "hang": ["*"]}]}

The fields are those of `FakeGpu`; `error` is a name of `NVML_ERROR_*`, `errors` has one for each function, `hang`
the functions that do not return until the file says otherwise (`*` for all). `xids` grows: each is told once. Beside
`gpus` there are `init_error` and `hang`. Write the file anew and rename it into place.

To lose a device: a configuration with `devices: {gpu0: {gpu: 0}}` and a model (the executor `emulated` does) with
`device: gpu0`; then write `"error": "GPU_IS_LOST"`. Within three seconds /readyz answers 503 with the reason,
`batcher_device_failed{device="gpu0",cause="lost"}` is 1 and requests get UNAVAILABLE. Without the error the device
is in use again some ten seconds later; up to forty where NVML was initialized again meanwhile, which is tried every
30 s while a GPU is lost.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import sysconfig
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import ModuleType
from typing import Any

from fake_library import FakeLibrary

GI_ANY = 0xFFFFFFFF


@dataclass
class FakeMig:
    """One instance of a GPU that is split."""

    uuid: str
    gpu_instance: int = 1
    compute_instance: int = 0
    memory_total: int = 10_468_982_784
    memory_used: int = 12_582_912
    gpm_sm: float = 20.0
    gpm_occupancy: float = 10.0
    gpm_tensor: float = 5.0
    gpm_bandwidth: float = 3.0


@dataclass
class FakeGpu:
    """One GPU, with what an `NVIDIA H100 80GB HBM3` answered under a model of language."""

    index: int = 0
    uuid: str = ""
    pci: str = ""
    product: str = "NVIDIA H100 80GB HBM3"
    utilization: int = 87
    memory_total: int = 85_520_809_984
    memory_used: int = 40_265_318_400
    memory_reserved: int = 572_522_496
    power_mw: int = 412_351
    energy_mj: int = 98_765_432_100
    temperature: int = 54
    sm_clock: int = 1980
    memory_clock: int = 2619
    reasons: int = 0x4
    supported_reasons: int = 0x1FF
    corrected: int = 3
    uncorrected: int = 0
    recovery_action: int | None = 0
    gpm: bool = True
    gpm_sm: float = 71.5
    gpm_occupancy: float = 33.0
    gpm_tensor: float = 42.25
    gpm_bandwidth: float = 18.0
    split: bool = False
    migs: list[FakeMig] = field(default_factory=list)
    error: str = ""
    errors: dict[str, str] = field(default_factory=dict)
    hang: list[str] = field(default_factory=list)
    slow_s: float = 0.0
    events: bool = True
    xids: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.uuid = self.uuid or f"GPU-1b2c3d4e-0000-4000-8000-{self.index:012x}"
        self.pci = self.pci or f"00000000:{0x18 + self.index:02X}:00.0"
        self.migs = [each if isinstance(each, FakeMig) else FakeMig(**each) for each in self.migs]


class Machine:
    """GPUs and faults. Change them at any time, from any thread."""

    def __init__(
        self, gpus: list[FakeGpu] | None = None, *, init_error: str = "", file: str | None = None
    ) -> None:
        self.gpus = [FakeGpu(0)] if gpus is None else gpus
        self.init_error = init_error
        self.errors: dict[str, str] = {}
        """Errors of functions that are of no GPU."""
        self.hang: list[str] = []
        self.calls: list[str] = []
        """The functions that were called, in order, without those that wait for events."""
        self.in_call = 0
        """Calls that hang now."""
        self.changed = threading.Condition()
        self.queue: list[tuple[str, int, int, int]] = []
        self._file = file
        self._stamp: tuple[int, int] | None = None
        self._told: dict[int, int] = {}

    def load(self) -> ModuleType:
        """A fresh module of nvidia-ml-py that has this machine."""
        path = real_file()
        spec = importlib.util.spec_from_file_location("pynvml", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        before = sys.modules.get("pynvml")
        sys.modules["pynvml"] = module  # the module looks for itself there while it is made
        try:
            spec.loader.exec_module(module)
        finally:
            if before is None:
                del sys.modules["pynvml"]
            else:
                sys.modules["pynvml"] = before
        self.serve(module)
        return module

    def serve(self, module: Any) -> FakeLibrary | None:
        """Have a module of nvidia-ml-py ask this machine."""
        if self.init_error == "LIBRARY_NOT_FOUND":
            return None  # as on a machine without a driver: the real loader finds no library
        library = FakeLibrary(module, self)
        module.nvmlLib = library
        self.library = library
        return library

    def set(self, index: int = 0, **values: Any) -> None:
        """Change values of a GPU, and wake calls that hang."""
        with self.changed:
            for name, value in values.items():
                setattr(self.gpus[index], name, value)
            self.changed.notify_all()

    def release(self) -> None:
        """Have everything return that hangs."""
        with self.changed:
            self.hang = []
            for gpu in self.gpus:
                gpu.hang = []
            self.changed.notify_all()

    def xid(self, index: int, code: int, gi: int = GI_ANY, ci: int = GI_ANY) -> None:
        """Report an XID event."""
        with self.changed:
            self.queue.append((self.gpus[index].uuid, code, gi, ci))
            self.changed.notify_all()

    def refresh(self) -> None:
        """Read the file again, if there is one that has changed."""
        if self._file is None:
            return
        try:
            found = Path(self._file).stat()
            stamp = found.st_mtime_ns, found.st_ino
            if stamp == self._stamp:
                return
            described = json.loads(Path(self._file).read_text())
        except (OSError, ValueError):
            return
        self._stamp = stamp
        known = {each.name for each in fields(FakeGpu)}
        gpus = []
        for index, values in enumerate(described.get("gpus", [{}])):
            unknown = values.keys() - known
            if unknown:
                raise ValueError(f"{self._file}: {sorted(unknown)}")
            gpus.append(FakeGpu(**{"index": index, **values}))
        with self.changed:
            self.gpus = gpus
            self.init_error = described.get("init_error", "")
            self.hang = described.get("hang", [])
            for gpu in gpus:
                told = self._told.get(gpu.index, 0)
                self.queue += [(gpu.uuid, code, GI_ANY, GI_ANY) for code in gpu.xids[told:]]
                self._told[gpu.index] = max(told, len(gpu.xids))
            self.changed.notify_all()

    def block(self, name: str, gpu: FakeGpu | None) -> None:
        """Do not return while the function hangs."""
        index = None if gpu is None else gpu.index

        def hangs() -> bool:
            of_gpu = [] if index is None or index >= len(self.gpus) else self.gpus[index].hang
            return bool({"*", name}.intersection([*self.hang, *of_gpu]))

        if not hangs():
            return
        with self.changed:
            self.in_call += 1
            self.changed.notify_all()
            while hangs():
                if self._file is None:
                    self.changed.wait()
                else:
                    self.changed.wait(0.05)
                    self.refresh()
            self.in_call -= 1
            self.changed.notify_all()


def real_file() -> str:
    """The file of nvidia-ml-py itself."""
    path = Path(sysconfig.get_path("purelib")) / "pynvml.py"
    if path.exists():
        return str(path)
    own = Path(__file__).parents[1] / "path"
    for folder in sys.path:
        path = Path(folder or ".") / "pynvml.py"
        if path.exists() and path.parent.resolve() != own:
            return str(path)
    raise ImportError("nvidia-ml-py is not installed")


def from_environment(environ: Mapping[str, str]) -> Machine:
    """The machine that the file in `FAKE_NVML` describes; one H100 without it."""
    machine = Machine(file=environ.get("FAKE_NVML"))
    machine.refresh()
    return machine
