"""What a figure depends on beside the code: cores, processor time, versions."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

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


def save(path: Path, result: dict[str, Any]) -> None:
    """Write a result with the machine's facts beside it, and say where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result | {"machine": facts()}, indent=2) + "\n")
    print(f"written to {path}")
