"""A real Prometheus with the rules, all that they say divided by one factor, and targets that come and go."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from truth import prometheus

from batcher.testing.server import free_address
from monitoring.durations import divided, scaled_rules

RULES = Path(__file__).parents[3] / "deploy" / "monitoring" / "rules"
FACTOR = 60.0
"""A minute takes a second."""

SCRAPE, EVALUATE, LOOKBACK = "50s", "50s", "5m"
"""As if scraped so often, which is as seldom as the rules have to bear; and Prometheus' own default."""

REAL = ("batcher:scaler_report_age_limit:seconds",)
"""The scaler of a scene asks its replicas about as often as any other."""


@dataclass(slots=True)
class Watching:
    """A running one. Times are Unix seconds."""

    api: prometheus.Prometheus
    targets: Path
    log: Path
    """What Prometheus says, from warnings up."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _jobs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def watch(self, job: str, addresses: list[str]) -> None:
        """Scrape these as a job of that name from now on; none ends it."""
        with self._lock:
            self._jobs[job] = [
                {
                    "targets": [address],
                    "labels": {"job": job, "namespace": "ml", "pod": f"{job}-{place}"},
                }
                for place, address in enumerate(addresses)
            ]
            fresh = self.targets.with_suffix(".new")
            fresh.write_text(json.dumps([each for job in self._jobs.values() for each in job]))
            fresh.replace(self.targets)

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """The series of an instant query, each with `metric` and `value`."""
        moment = time.time() if at is None else at
        return list(self.api.ask("query", query=expression, time=f"{moment:.3f}")["result"])

    def range(self, expression: str, begin: float, end: float) -> list[dict[str, Any]]:
        """The series of a range query, each with `metric` and `values`."""
        return list(
            self.api.ask(
                "query_range",
                query=expression,
                start=f"{begin:.3f}",
                end=f"{end:.3f}",
                step=divided(EVALUATE, FACTOR),
            )["result"]
        )

    def rules(self) -> list[dict[str, Any]]:
        """Every rule with its health, the last error, and how long its evaluation took."""
        return [rule for group in self.api.ask("rules")["groups"] for rule in group["rules"]]


@contextmanager
def running(folder: Path, rules: Path = RULES) -> Iterator[Watching]:
    """Prometheus with the rule files of that folder, scaled, and no target yet."""
    copies = folder / "rules"
    copies.mkdir()
    for path in sorted(rules.glob("*.yaml")):
        document = scaled_rules(yaml.safe_load(path.read_text("utf-8")), FACTOR, REAL)
        (copies / path.name).write_text(yaml.safe_dump(document, sort_keys=False))
    targets = folder / "targets.json"
    targets.write_text("[]")
    scrape, evaluate = divided(SCRAPE, FACTOR), divided(EVALUATE, FACTOR)
    config = {
        "global": {
            "scrape_interval": scrape,
            "scrape_timeout": scrape,
            "evaluation_interval": evaluate,
        },
        "rule_files": [f"{copies}/*.yaml"],
        "scrape_configs": [{"job_name": "batcher", "file_sd_configs": [{"files": [str(targets)]}]}],
    }
    path = folder / "prometheus.yaml"
    path.write_text(yaml.safe_dump(config))
    address = free_address()
    command = [
        prometheus.PROGRAM,
        f"--config.file={path}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address={address}",
        f"--query.lookback-delta={divided(LOOKBACK, FACTOR)}",
        "--log.level=warn",
    ]
    log_path = folder / "prometheus.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        api = prometheus.Prometheus(address)
        end = time.monotonic() + prometheus.START_S
        while not _answers(api):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(log_path.read_text())
            time.sleep(0.1)
        yield Watching(api, targets, log_path)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(api: prometheus.Prometheus) -> bool:
    try:
        return bool(api.ask("rules")["groups"])
    except (OSError, ValueError):
        return False
