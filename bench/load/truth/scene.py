"""Plays one scene: a server, Prometheus, a generator, and what the scene does to them meanwhile."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from batcher.testing.server import ServerProcess
from truth import prometheus
from truth.model import DEEDS
from truth.world import Event, World, joined, read_model, read_requests, stood_ms

HERE = Path(__file__).parent
FAKE_NVML = HERE.parents[2] / "tests" / "fake_nvml" / "path"
SETTLE_S = 1.0
"""After the last answer: so many seconds of scrapes see that nothing moves any more."""


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """A model of a scene: what it takes, and its keys of the configuration."""

    name: str = "hello"
    base_ms: float = 20.0
    row_ms: float = 2.0
    load_ms: float = 100.0
    padded: tuple[int, ...] = ()
    """Buckets of the length of its rows; none: rows of four values."""
    keys: dict[str, Any] = field(default_factory=dict)
    batching: dict[str, Any] = field(default_factory=dict)

    def width(self, columns: int) -> int:
        """Values of a row once it is padded."""
        return min([each for each in self.padded if each >= columns], default=columns)

    def section(self, folder: Path) -> dict[str, Any]:
        """Its section of the configuration; its log and what releases it lie in that folder."""
        args = {
            "log": str(folder / f"{self.name}.log"),
            "base_ms": self.base_ms,
            "row_ms": self.row_ms,
            "load_ms": self.load_ms,
            "release": str(folder / f"{self.name}.release"),
        }
        batching = {"max_batch_size": 16, "target_p99": "200ms"} | self.batching
        padding = [{"input": "X", "axis": 1, "buckets": list(self.padded)}] if self.padded else []
        return {
            "name": self.name,
            "executor": "python",
            "options": {
                "target": f"{HERE / 'model.py'}:{'Padded' if self.padded else 'Device'}",
                "args": args,
            },
            "padding": padding,
            "batching": batching,
            "warmup": {"batch_sizes": [1, batching["max_batch_size"]]},
        } | self.keys


@dataclass(slots=True)
class Scene:
    """What is played. `acts` are called with the scene that plays, at seconds after its begin."""

    models: Sequence[ModelPlan] = (ModelPlan(),)
    requests: list[list[Any]] = field(default_factory=list)
    seconds: float = 4.0
    """How long it lasts at least."""
    config: dict[str, Any] = field(default_factory=dict)
    interval: str = "500ms"
    connections: int = 2
    acts: Sequence[tuple[float, Callable[[Playing], None]]] = ()
    stream: bool = False
    environ: dict[str, str] = field(default_factory=dict)
    """Variables of the server's environment."""
    gpu: dict[str, Any] | None = None
    """The GPU that a recorded NVML has (`tests/fake_nvml`), and its values."""
    settle_s: float = SETTLE_S
    facts: dict[str, Any] = field(default_factory=dict)
    """What is known of it beforehand (`World.facts`)."""


@dataclass(slots=True)
class Playing:
    """A scene that is being played: what acts may use."""

    folder: Path
    server: ServerProcess
    began_ns: int
    events: list[Event]
    stack: ExitStack

    def restart(self) -> None:
        """Stop the server with SIGTERM, and start it again on the same addresses."""
        self.note("stop")
        self.server.stop()
        self.note("down")
        self.server = self.stack.enter_context(
            ServerProcess(self.server.config, folder=self.folder)
        )
        self.note("up")

    def fake_gpu(self, gpu: dict[str, Any]) -> None:
        """Have the recorded NVML say that from now on."""
        describe_gpu(self.folder, gpu)

    def note(self, what: str) -> None:
        """Write down that this happened now."""
        self.events.append(Event(what, time.monotonic_ns()))

    def pids(self, model: str) -> list[int]:
        """The processes that the model's instances said they run in, the latest last."""
        _, life = read_model(model, self.folder / f"{model}.log")
        return list(dict.fromkeys(said["pid"] for said in life))


def fake_nvml_path() -> str:
    """PYTHONPATH for a server that is to find the recorded NVML."""
    return os.pathsep.join((str(FAKE_NVML), os.environ.get("PYTHONPATH", "")))


def describe_gpu(folder: Path, gpu: dict[str, Any]) -> None:
    """Write what the recorded NVML of a server in that folder says."""
    fresh = folder / "nvml.new"
    fresh.write_text(json.dumps({"gpus": [gpu]}))
    fresh.replace(folder / "nvml.json")


def poisson(
    rate: float,
    seconds: float,
    *,
    model: str = "hello",
    first: int = 1,
    begin_s: float = 0.0,
    rows: int = 1,
    seed: int = 1,
    deadline_s: float | None = None,
) -> list[list[Any]]:
    """Requests at random moments, numbered from `first` on."""
    draw, at_s, requests = random.Random(seed), begin_s, []
    while (at_s := at_s + draw.expovariate(rate)) < begin_s + seconds:
        number = first + len(requests)
        requests.append([number, round(at_s * 1e9), model, rows, 0, deadline_s, None])
    return requests


def one(
    number: int,
    at_s: float,
    deed: str = "",
    *,
    model: str = "hello",
    deadline_s: float | None = None,
    cancel_s: float | None = None,
    rows: int = 1,
) -> list[Any]:
    """One request at that moment."""
    return [number, round(at_s * 1e9), model, rows, DEEDS[deed], deadline_s, cancel_s]


def play(scene: Scene, folder: Path) -> World:
    """Play it in that folder, which is empty; what is known afterwards."""
    config = dict(scene.config) | {"models": [each.section(folder) for each in scene.models]}
    events: list[Event] = []
    plan = sorted(scene.requests, key=lambda each: each[1])
    environ = dict(scene.environ)
    if scene.gpu is not None:
        describe_gpu(folder, scene.gpu)
        environ |= {"FAKE_NVML": str(folder / "nvml.json"), "PYTHONPATH": fake_nvml_path()}
    with ExitStack() as stack:
        started_s = time.time()
        events.append(Event("start", time.monotonic_ns()))
        server = stack.enter_context(ServerProcess(config, folder=folder, environ=environ))
        events.append(Event("ready", time.monotonic_ns()))
        assert server.http is not None
        watched = stack.enter_context(prometheus.running(server.http, folder, scene.interval))
        load = stack.enter_context(_generator(server.grpc, scene, plan, folder))
        began_ns = time.monotonic_ns() + 300_000_000
        assert load.stdin is not None
        load.stdin.write(f"{began_ns}\n".encode())
        load.stdin.flush()
        playing = Playing(folder, server, began_ns, events, stack)
        for at_s, act in sorted(scene.acts, key=lambda each: each[0]):
            time.sleep(max(0.0, began_ns / 1e9 + at_s - time.monotonic()))
            act(playing)
        time.sleep(max(0.0, began_ns / 1e9 + scene.seconds - time.monotonic()))
        load.wait(200)
        events.append(Event("answered", time.monotonic_ns()))
        time.sleep(scene.settle_s)
        events.append(Event("end", time.monotonic_ns()))
        lasted_s = (time.monotonic_ns() - events[0].at_ns) / 1e9
        series = watched.stored(lasted_s)
        metadata = watched.ask("metadata")
        document = server.config
        server_log = playing.server.log()
    requests = read_requests(plan, folder / "generator.log")
    batches, life = {}, {}
    for each in scene.models:
        batches[each.name], life[each.name] = read_model(each.name, folder / f"{each.name}.log")
    joined(requests, batches)
    facts = {
        "started_s": started_s,
        "began_ns": began_ns,
        "version": version("batcher-serve"),
        "plans": {each.name: each for each in scene.models},
        "metadata": metadata,
        "log": server_log,
        "connections": scene.connections,
        "gpu": scene.gpu,
        "stood_ms": stood_ms(folder / "generator.log"),
    } | scene.facts
    return World(document, requests, batches, life, series, events, facts)


class _generator:  # noqa: N801 - a context manager that reads as a function
    def __init__(self, address: str, scene: Scene, plan: list[list[Any]], folder: Path) -> None:
        written = {"address": address, "connections": scene.connections, "requests": plan}
        written["stream"] = scene.stream
        (folder / "plan.json").write_text(json.dumps(written))
        self._command = [
            sys.executable,
            str(HERE / "generator.py"),
            str(folder / "plan.json"),
            str(folder / "generator.log"),
        ]

    def __enter__(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != b"ready":
            raise RuntimeError("the load generator did not start")
        return self._process

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
