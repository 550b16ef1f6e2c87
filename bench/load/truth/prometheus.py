"""A real Prometheus on loopback that scrapes one server, and what it has stored."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from batcher.testing.server import free_address

Labels = frozenset[tuple[str, str]]
PROGRAM = "prometheus"
START_S = 60.0


def there() -> bool:
    """Whether the program is installed."""
    return shutil.which(PROGRAM) is not None


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one series; the scrape that it came with began at `at_ns` (monotonic)."""

    at_ns: int
    value: float


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running one."""

    address: str

    def ask(self, path: str, **query: str) -> Any:
        """The `data` of an answer of its HTTP API."""
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]

    def health(self) -> str:
        """What it says of the target: `up`, `down` or `unknown`, and its last error."""
        (target,) = self.ask("targets")["activeTargets"]
        return f"{target['health']} {target['lastError']}".strip()

    def stored(self, seconds: float) -> dict[str, dict[Labels, list[Sample]]]:
        """Every series of the last seconds, by its name and labels."""
        offset_ns = time.time_ns() - time.monotonic_ns()
        found = self.ask("query", query=f'{{job="batcher"}}[{round(seconds) + 1}s]')["result"]
        series: dict[str, dict[Labels, list[Sample]]] = {}
        for each in found:
            labels = each["metric"]
            name = labels.pop("__name__")
            labels.pop("job"), labels.pop("instance")
            series.setdefault(name, {})[frozenset(labels.items())] = [
                Sample(round(at * 1e3) * 1_000_000 - offset_ns, float(value))
                for at, value in each["values"]
            ]
        return series


@contextmanager
def running(target: str, folder: Path, interval: str) -> Iterator[Prometheus]:
    """Prometheus, scraping `target` (host:port) as often as that."""
    address = free_address()
    config = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval},
        "scrape_configs": [{"job_name": "batcher", "static_configs": [{"targets": [target]}]}],
    }
    path = folder / "prometheus.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [
        PROGRAM,
        f"--config.file={path}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        prometheus = Prometheus(address)
        _await_scrape(prometheus, process, folder)
        yield prometheus
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_scrape(prometheus: Prometheus, process: subprocess.Popen[bytes], folder: Path) -> None:
    end, health = time.monotonic() + START_S, ""
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError((folder / "prometheus.log").read_text())
        try:
            health = prometheus.health()
        except (OSError, ValueError):
            health = "it does not answer"
        if health == "up":
            return
        time.sleep(0.1)
    raise RuntimeError(f"nothing scraped after {START_S} s: {health}")
