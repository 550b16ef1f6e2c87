"""Whether the statistics of a GPU are those that nvidia-smi gives, under known loads, in two minutes.

    python bench/gpu/signals.py            # exit code 77 where there is no GPU, nvidia-smi or PyTorch
    python bench/gpu/signals.py --gpu 1    # another one than GPU 0, as nvidia-smi counts

A server has the GPU as its device; another process computes on the GPU for 0, 30, 60 and 100 % of the time.
Meanwhile nvidia-smi and `/metrics` are read in turn, and their means compared. Exit code 1 where they differ by
more than the table allows: utilization by 5 points, memory by 1 %, power by 10 %, clocks by 5 %, temperature by
3 degrees. With a GPU that has GPM, the utilization of its multiprocessors is shown beside.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from statistics import fmean
from typing import Final, NamedTuple

from batcher.testing.server import ServerProcess

SKIPPED: Final = 77
"""The exit code where there is no GPU: what test runners take for skipped."""

LOADS: Final = (0.0, 0.3, 0.6, 1.0)

SETTLE_S: Final = 4.0
"""Seconds of a load before anything is compared: nvidia-smi and NVML look back by up to a second, clocks take longer."""

MIB: Final = 1 << 20

LOAD: Final = """
import sys, time
import torch
share, gpu = float(sys.argv[1]), sys.argv[2]
torch.cuda.init()
x = torch.randn(4096, 4096, device="cuda", dtype=torch.float16)
x @ x
torch.cuda.synchronize()
print("ready", flush=True)
while True:
    end = time.monotonic() + share * 0.1
    while time.monotonic() < end:
        for _ in range(4):
            y = x @ x
        torch.cuda.synchronize()
    time.sleep((1 - share) * 0.1)
"""
"""Computes for a share of each tenth of a second."""


class Signal(NamedTuple):
    """One value: what nvidia-smi calls it, its sample in `/metrics`, a factor, and what may differ."""

    query: str
    sample: str
    factor: float
    least: float
    """What may differ at least, in nvidia-smi's unit."""
    share: float
    """What may differ of nvidia-smi's value."""


SIGNALS: Final = (
    Signal("utilization.gpu", 'batcher_device_utilization_ratio{device="gpu0",source="nvml"}', 100, 5, 0),
    Signal("memory.used", 'batcher_device_memory_used_bytes{device="gpu0"}', 1 / MIB, 16, 0.01),
    Signal("memory.total", 'batcher_device_memory_total_bytes{device="gpu0"}', 1 / MIB, 16, 0.01),
    Signal("power.draw", 'batcher_device_power_watts{device="gpu0"}', 1, 5, 0.1),
    Signal("temperature.gpu", 'batcher_device_temperature_celsius{device="gpu0"}', 1, 3, 0),
    Signal("clocks.sm", 'batcher_device_clock_hertz{clock="sm",device="gpu0"}', 1e-6, 30, 0.05),
    Signal("clocks.mem", 'batcher_device_clock_hertz{clock="memory",device="gpu0"}', 1e-6, 30, 0.05),
)  # fmt: skip

SHOWN: Final = (
    ("SM utilization (GPM)", 'batcher_device_utilization_ratio{device="gpu0",source="gpm"}'),
    ("tensor activity (GPM)", 'batcher_device_tensor_activity_ratio{device="gpu0"}'),
    ("age, s", 'batcher_device_statistics_age_seconds{device="gpu0"}'),
)


class Row(NamedTuple):
    """The means of one value under one load."""

    name: str
    smi: float | None
    ours: float | None
    may_differ: float

    @property
    def right(self) -> bool:
        """Whether both are equal enough; also where neither tells."""
        if self.smi is None or self.ours is None:
            return self.smi is None and self.ours is None
        return abs(self.smi - self.ours) <= self.may_differ


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--gpu", type=int, default=0, help="its number, as nvidia-smi counts (0)")
    parser.add_argument("--seconds", type=float, default=15.0, help="seconds of each load (15)")
    parser.add_argument("--idle", action="store_true", help="compare without a load of our own")
    return parser.parse_args(given)


def why_not(options: argparse.Namespace) -> str:
    """Why nothing can be compared; empty if it can."""
    if importlib.util.find_spec("pynvml") is None:
        return "nvidia-ml-py is not installed"
    if shutil.which("nvidia-smi") is None:
        return "there is no nvidia-smi"
    if subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode:
        return "nvidia-smi finds no GPU"
    if not options.idle and importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed, which makes the load"
    return ""


def ask_smi(gpu: int) -> dict[str, float]:
    """What nvidia-smi says now, without what it does not know."""
    names = [each.query for each in SIGNALS]
    query = f"--query-gpu={','.join(names)}"
    command = ["nvidia-smi", "-i", str(gpu), query, "--format=csv,noheader,nounits"]
    line = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    found = {}
    for name, value in zip(names, line.strip().split(","), strict=True):
        if re.fullmatch(r"[0-9.]+", value.strip()):
            found[name] = float(value)
    return found


def scrape(server: ServerProcess) -> dict[str, float]:
    """The samples of devices in `/metrics` now."""
    with urllib.request.urlopen(f"http://{server.http}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line.startswith("batcher_device_"))
    return {name: float(value) for name, value in pairs}


def mean(values: list[dict[str, float]], name: str, factor: float = 1.0) -> float | None:
    """The mean of a value, or None if it was never there."""
    known = [each[name] for each in values if name in each]
    return fmean(known) * factor if known else None


def compare(smi: list[dict[str, float]], ours: list[dict[str, float]]) -> list[Row]:
    """The means of each value, of nvidia-smi and of ours."""
    rows = []
    for each in SIGNALS:
        theirs = mean(smi, each.query)
        may_differ = max(each.least, each.share * (theirs or 0))
        rows.append(Row(each.query, theirs, mean(ours, each.sample, each.factor), may_differ))
    return rows


def shown(value: float | None) -> str:
    """A number for the table."""
    return "-" if value is None else f"{value:,.1f}"


def measure(server: ServerProcess, options: argparse.Namespace) -> bool:
    """Read both in turn, print the table, and return whether all is right."""
    time.sleep(SETTLE_S)
    smi: list[dict[str, float]] = []
    ours: list[dict[str, float]] = []
    end = time.monotonic() + options.seconds
    while time.monotonic() < end or not ours:
        smi.append(ask_smi(options.gpu))
        ours.append(scrape(server))
        time.sleep(0.25)
    rows = compare(smi, ours)
    for row in rows:
        judged = "ok" if row.right else "DIFFERS"
        print(
            f"  {row.name:<24}{shown(row.smi):>12}{shown(row.ours):>12}{row.may_differ:>10.1f}  {judged}"
        )
    for name, sample in SHOWN:
        value = mean(ours, sample)
        print(f"  {name:<24}{'':>12}{'-' if value is None else f'{value:.3f}':>12}")
    return all(row.right for row in rows)


def under_load(server: ServerProcess, share: float, options: argparse.Namespace) -> bool:
    """The same while another process computes for that share of the time."""
    environ = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": str(options.gpu)}
    command = [sys.executable, "-c", LOAD, str(share), str(options.gpu)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **environ}) as load:
        try:
            if load.stdout is None or not load.stdout.readline():
                print("the load did not start")
                return False
            return measure(server, options)
        finally:
            load.kill()


def main() -> int:
    """Compare under each load."""
    options = arguments()
    if why := why_not(options):
        print(f"skipped: {why}")
        return SKIPPED
    config = {
        "models": [{"name": "m", "executor": "emulated", "device": "gpu0"}],
        "devices": {"gpu0": {"gpu": options.gpu}},
    }
    right = True
    with ServerProcess(config) as server:
        for share in (None,) if options.idle else LOADS:
            print(f"{'as it is' if share is None else f'load {share:.0%}'}")
            print(f"  {'':<24}{'nvidia-smi':>12}{'ours':>12}{'may differ':>10}")
            if not share:
                right &= measure(server, options)
            else:
                right &= under_load(server, share, options)
        states = {
            name for name, value in scrape(server).items() if "statistics_state" in name and value
        }
        print("; ".join(sorted(states)))
    print("all as nvidia-smi says" if right else "it DIFFERS from nvidia-smi")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
