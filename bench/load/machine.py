"""What a figure depends on beside the code: cores, processor time, versions."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

RESULTS = Path(os.path.relpath(Path(__file__).resolve().parent.parent / "results"))
PACKAGES = ("batcher-serve", "grpcio", "numpy", "protobuf", "uvloop")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def facts() -> dict[str, Any]:
    """The machine and the versions, to be kept beside every result."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def cores() -> tuple[int, int]:
    """One core for the server and another for the load. Exits when there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        sys.exit("needs two cores: one for the server, one for the load")
    return usable[0], usable[-1]


def stay_on(core: int) -> None:
    """This process, and the threads it will start, run on that core alone."""
    os.sched_setaffinity(0, {core})


@contextmanager
def children_on(core: int) -> Iterator[None]:
    """Processes started inside run on that core alone, with all the threads they will have."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_seconds(pid: int) -> float:
    """Processor time that all threads of a process have used, in steps of 10 ms."""
    # The program's name, in parentheses, may hold spaces; the fields are counted after it.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def steal_seconds(core: int, stat: Path = Path("/proc/stat")) -> float:
    """For how long the host has taken that core away since the start, in steps of 10 ms."""
    for line in stat.read_text().splitlines():
        name, *ticks = line.split()
        if name == f"cpu{core}":
            return int(ticks[7]) / _TICKS_PER_SECOND
    raise ValueError(f"{stat}: no core {core}")


class Steal:
    """What part of the time inside the host takes each of some cores away."""

    def __init__(self, cores: Mapping[str, int]) -> None:
        self._cores = cores
        self._before: dict[str, float] = {}
        self._began = 0.0
        self.shares: dict[str, float] = {}
        """By the cores' names, once it is over. Stalls of some milliseconds may be missing."""

    def __enter__(self) -> Self:
        self._before = {name: steal_seconds(core) for name, core in self._cores.items()}
        self._began = time.monotonic()
        return self

    def __exit__(self, *exception: object) -> None:
        seconds = time.monotonic() - self._began
        for name, core in self._cores.items():
            self.shares[name] = round((steal_seconds(core) - self._before[name]) / seconds, 4)


def switches(pid: int) -> int:
    """How often threads of a process have left a core, to wait or for another."""
    kinds = ("voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")
    return sum(
        int(value)
        for status in Path(f"/proc/{pid}/task").glob("*/status")
        for name, _, value in (line.partition(":") for line in status.read_text().splitlines())
        if name in kinds
    )


def save(path: Path, result: dict[str, Any]) -> None:
    """Write a result with the machine's facts beside it, and say where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result | {"machine": facts()}, indent=2) + "\n")
    print(f"written to {path}")
