"""Scenes that alerts and dashboards are looked at in: real servers, load, a fault, and its end."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from truth.model import DEEDS
from truth.scene import ModelPlan, describe_gpu, fake_nvml_path

from batcher.testing.server import ServerProcess, free_address
from monitoring.load import Load
from monitoring.prometheus import FACTOR, RULES, Watching
from monitoring.prometheus import running as watching
from monitoring.scaler import Scaler

GPU = {
    "uuid": "GPU-8c4b1a52-0d3e-4f6a-9b7c-1e2f3a4b5c6d",
    "product": "NVIDIA H100 80GB HBM3",
    "utilization": 61,
    "memory_total": 85_520_809_984,
    "memory_used": 40_265_318_400,
    "power_mw": 412_351,
    "temperature": 54,
    "sm_clock": 1980,
    "corrected": 3,
}

PLAN = ModelPlan(
    base_ms=40,
    row_ms=4,
    load_ms=20,
    keys={
        "device": "gpu0",
        "budget": {"queue": "100ms", "execute": "150ms"},
    },
    batching={"target_p99": "400ms"},
)
"""16 rows in 104 ms: 154 rows a second, of which about 140 can be served in time."""

SLOW = replace(
    PLAN,
    base_ms=100,
    row_ms=10,
    keys={"device": "gpu0", "budget": {"queue": "500ms", "execute": "400ms"}},
    batching={"target_p99": "1s"},
)
"""16 rows in 260 ms: 61 rows a second, so that an overload is none of this machine."""

SHARED = replace(
    PLAN,
    keys=PLAN.keys | {"queue": {"tenants": {"gold": 2}}},
    batching=PLAN.batching | {"batch_sizes": [1, 2, 4, 8, 16]},
)
"""The same with a tenant and certain sizes of batches, which have metrics of their own."""

NORMAL = 15.0
"""Requests a second for a replica with room."""

OVER = 130.0
"""About twice what one of `SLOW` can serve."""

HEALTHY_S = 5.0
"""What is looked at before the fault: five minutes of the rules."""

ATTEMPTS = 3
"""A scene in which the machine stood still is played again."""

BOUND_S = 100.0
"""By then whatever was to happen has happened, on a machine many times slower than one that takes 15 s."""


LASTING = frozenset({"BatcherGoodputBurnsSlowly"})
"""Alerts about so long a time that they outlast every scene."""


class NeverError(AssertionError):
    """What a scene waited for did not come."""


class DisturbedError(Exception):
    """Servers that ran could not be scraped: this machine stood still, and what followed says nothing."""


@dataclass(slots=True)
class Replica:
    """One server of a scene, and the load on it."""

    folder: Path
    server: ServerProcess
    load: Load

    def kill(self) -> None:
        """End its process at once."""
        self.server.process.kill()
        self.server.process.wait()

    def hang(self) -> None:
        """Have its next batch not end until `release`."""
        self.load.send(DEEDS["hang"])

    def release(self) -> None:
        """Let batches end that hang."""
        (self.folder / "hello.release").touch()


@dataclass(slots=True)
class Scene:
    """A scene that was played. Its replicas have the labels `job`, `namespace="ml"` and `pod`.

    A scaler beside them has the job `JOB-scaler`, and calls them the fleet `ranker`.
    """

    name: str
    job: str
    watching: Watching
    replicas: list[Replica] = field(default_factory=list)
    scaler: Scaler | None = None
    killed: set[str] = field(default_factory=set)
    """Addresses of what the scene itself has ended."""
    at: dict[str, float] = field(default_factory=dict)
    """Unix time at the end of each part: `healthy`, `fault` and `after`, and of its begin: `begin`."""

    def query(self, expression: str, at: str | float = "fault") -> list[dict[str, Any]]:
        """What an instant query answers at the end of a part, or at a Unix time."""
        return self.watching.query(expression, self.at[at] if isinstance(at, str) else at)

    def range(
        self, expression: str, begin: str = "begin", end: str = "after"
    ) -> list[dict[str, Any]]:
        """What a range query answers over some parts."""
        return self.watching.range(expression, self.at[begin], self.at[end])

    def firing(self, at: str | float = "fault", **labels: str) -> set[str]:
        """The alerts of this scene's replicas that fire then."""
        return self._named(self.query(self._alerts("firing", labels), at))

    def fired(self, **labels: str) -> set[str]:
        """Those that fired at any time in it."""
        return self._named(self.range(self._alerts("firing", labels)))

    def now(self, **labels: str) -> set[str]:
        """Those that fire now."""
        return self._named(self.watching.query(self._alerts("firing", labels)))

    def until(self, what: str, so: Callable[[], bool]) -> None:
        """Wait until that is so. Raises `NeverError` after `BOUND_S`."""
        end = time.monotonic() + BOUND_S
        while not so():
            if time.monotonic() > end:
                firing = self.watching.query(self._alerts("(firing|pending)", {}))
                said = [each["metric"] for each in firing]
                raise NeverError(f"{self.name}: {what}; alerts now: {said}")
            time.sleep(0.2)

    def fire(self, *alerts: str) -> None:
        """Wait until these alerts fire at once."""
        self.until(f"{alerts} did not fire", lambda: set(alerts) <= self.now())

    def resolved(self) -> None:
        """Wait until no alert of the scene fires but those that remember for hours."""
        self.until("did not resolve", lambda: self.now() <= LASTING)

    def disturbed(self) -> bool:
        """Whether a server that ran could not be scraped."""
        down = f'up{{job=~"{self.job}(-scaler)?"}} == 0'
        found = self.watching.range(down, self.at["begin"], time.time())
        return any(each["metric"]["instance"] not in self.killed for each in found)

    def part(self, name: str) -> None:
        """A part ends here."""
        # What is asked at this moment has been scraped and evaluated.
        time.sleep(1.0)
        self.at[name] = time.time() - 0.05

    def _alerts(self, state: str, labels: Mapping[str, str]) -> str:
        wanted = "".join(f',{label}="{value}"' for label, value in labels.items())
        return f'ALERTS{{job=~"{self.job}(-scaler)?",alertstate=~"{state}"{wanted}}}'

    @staticmethod
    def _named(found: list[dict[str, Any]]) -> set[str]:
        return {each["metric"]["alertname"] for each in found}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a scene is: its replicas, and what happens to them between the healthy part and the end."""

    replicas: int
    fault: Callable[[Scene], None]
    mend: Callable[[Scene], None]
    alerts: frozenset[str]
    """Those that have to fire in the fault, all at once."""
    critical: frozenset[str] = frozenset()
    """Those that may page."""
    config: dict[str, Any] = field(default_factory=dict)
    gpu: bool = False
    scaler: bool = False
    model: ModelPlan = PLAN
    rate: float = NORMAL
    """Requests a second for each replica, but for what the fault changes."""
    recorded: bool = False
    """Whether the first replica has a journal, a flight recorder and a model repository."""


def _nothing(_: Scene) -> None:
    """Nothing happens."""


def _overload(scene: Scene) -> None:
    scene.replicas[0].load.rate = OVER


def _as_before(scene: Scene) -> None:
    for replica in scene.replicas:
        replica.load.rate = NORMAL


def _stall(scene: Scene) -> None:
    scene.replicas[0].hang()


def _release(scene: Scene) -> None:
    scene.replicas[0].release()


def _kill(scene: Scene) -> None:
    scene.killed.add(str(scene.replicas[0].server.http))
    scene.replicas[0].kill()


def _start_again(scene: Scene) -> None:
    for replica in scene.replicas:
        if replica.server.process.poll() is not None:
            # A balancer sends nothing to a replica that is not ready.
            replica.load.rate = 0.0
            again = ServerProcess(replica.server.config, folder=replica.folder)
            replica.server.__exit__(None, None, None)
            replica.server = again
            again.__enter__()
            replica.load.rate = NORMAL


def _kill_scaler(scene: Scene) -> None:
    assert scene.scaler is not None
    scene.killed.add(scene.scaler.http)
    scene.scaler.kill()


def _start_scaler_again(scene: Scene) -> None:
    assert scene.scaler is not None
    scene.scaler.start()


def _lose_device(scene: Scene) -> None:
    lost = scene.replicas[0]
    describe_gpu(lost.folder, GPU | {"error": "GPU_IS_LOST"})
    ready = f'batcher_ready{{job="{scene.job}",instance="{lost.server.http}"}} == 0'
    scene.until("is still ready", lambda: bool(scene.watching.query(ready)))
    # A balancer sends nothing to a replica that is not ready.
    lost.load.rate = 0.0


def _bring_device_back(scene: Scene) -> None:
    back = scene.replicas[0]
    describe_gpu(back.folder, GPU)
    ready = f'batcher_ready{{job="{scene.job}",instance="{back.server.http}"}} == 1'
    scene.until("is not ready again", lambda: bool(scene.watching.query(ready)))
    back.load.rate = NORMAL


PLANS = {
    "normal": Plan(
        2,
        _nothing,
        _nothing,
        frozenset(),
        config={"metrics": {"triton_names": True}},
        gpu=True,
        scaler=True,
        model=SHARED,
        recorded=True,
    ),
    "idle": Plan(1, _nothing, _nothing, frozenset(), rate=0.0),
    "overload": Plan(
        1,
        _overload,
        _as_before,
        frozenset({"BatcherTurnsAway", "BatcherNeedsMoreReplicas", "BatcherGoodputBurnsFast"}),
        critical=frozenset({"BatcherGoodputBurnsFast"}),
        model=SLOW,
    ),
    "stalled": Plan(
        2,
        _stall,
        _release,
        frozenset({"BatcherExecutorStalled"}),
        critical=frozenset({"BatcherExecutorStalled", "BatcherGoodputBurnsFast"}),
    ),
    "dead": Plan(
        2,
        _kill,
        _start_again,
        frozenset({"BatcherReplicaDown", "BatcherScalerReplicasUnknown"}),
        scaler=True,
    ),
    "all-dead": Plan(
        1,
        _kill,
        _start_again,
        frozenset({"BatcherAllReplicasDown", "BatcherScalerFleetUnknown"}),
        critical=frozenset({"BatcherAllReplicasDown"}),
        scaler=True,
    ),
    "scaler-dead": Plan(
        1, _kill_scaler, _start_scaler_again, frozenset({"BatcherScalerDown"}), scaler=True
    ),
    "lost-device": Plan(
        2,
        _lose_device,
        _bring_device_back,
        frozenset({"BatcherDeviceFailed", "BatcherReplicaNotReady"}),
        gpu=True,
    ),
}
"""By name: what is played, and what has to come of it."""


class Scenes:
    """One Prometheus, and the scenes that it has seen."""

    def __init__(self, watching: Watching, folder: Path) -> None:
        self.watching = watching
        self._folder = folder
        self._played: dict[str, Scene] = {}

    def __getitem__(self, name: str) -> Scene:
        return self._played[name]

    def play(self, *names: str) -> None:
        """Play these beside each other, unless they were. Raises what went wrong in the first that failed."""
        failed: list[BaseException] = []

        def one(name: str) -> None:
            try:
                self._played[name] = self._undisturbed(name)
            except BaseException as error:  # noqa: BLE001 - it is raised again where it is seen
                failed.append(error)

        new = [name for name in names if name not in self._played]
        threads = [threading.Thread(target=one, args=(name,), name=name) for name in new]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]

    def _undisturbed(self, name: str) -> Scene:
        for attempt in range(ATTEMPTS):
            job = f"{name}-{attempt}" if attempt else name
            scene = Scene(name, job, self.watching)
            try:
                self._play(scene)
            except NeverError:
                if not scene.disturbed():
                    raise
            if not scene.disturbed():
                return scene
        raise DisturbedError(f"{name}: servers could not be scraped, {ATTEMPTS} times")

    def _play(self, scene: Scene) -> None:
        plan, job = PLANS[scene.name], scene.job
        with ExitStack() as stack:
            stack.callback(self.watching.watch, job, [])
            stack.callback(self.watching.watch, f"{job}-scaler", [])
            for place in range(plan.replicas):
                scene.replicas.append(self._replica(job, place, plan, stack))
            self.watching.watch(job, [str(each.server.http) for each in scene.replicas])
            watched = plan.replicas
            if plan.scaler:
                served = [each.server.grpc for each in scene.replicas]
                scene.scaler = stack.enter_context(Scaler(scene.replicas[0].folder, served))
                self.watching.watch(f"{job}-scaler", [scene.scaler.http])
                watched += 1
            up = f'sum(up{{job=~"{job}(-scaler)?"}}) == {watched}'
            scene.at["begin"] = time.time()
            scene.until("is not scraped", lambda: bool(self.watching.query(up)))
            for replica in scene.replicas:
                stack.enter_context(replica.load)
            scene.at["begin"] = time.time()
            time.sleep(HEALTHY_S)
            # The first seconds of a server are no part of what is judged.
            scene.resolved()
            scene.part("healthy")
            plan.fault(scene)
            scene.fire(*plan.alerts)
            scene.part("fault")
            plan.mend(scene)
            scene.resolved()
            scene.part("after")

    def _replica(self, job: str, place: int, plan: Plan, stack: ExitStack) -> Replica:
        folder = self._folder / f"{job}-replica-{place}"
        folder.mkdir()
        config = dict(plan.config) | {"models": [plan.model.section(folder)]}
        config["server"] = {"grpc": [free_address()], "http": free_address(), "drain_delay": 0}
        environ = {}
        if plan.recorded and place == 0:
            (folder / "models").mkdir()
            config["journal"] = {"folder": str(folder / "journal")}
            config["flight_recorder"] = {"folder": str(folder / "incidents")}
            config["model_repository"] = {"path": str(folder / "models")}
        if plan.gpu:
            config["devices"] = {"gpu0": {"gpu": 0}}
            describe_gpu(folder, GPU)
            environ = {"FAKE_NVML": str(folder / "nvml.json"), "PYTHONPATH": fake_nvml_path()}
        server = ServerProcess(config, folder=folder, environ=environ)
        server.__enter__()
        replica = Replica(folder, server, Load(server.grpc, plan.rate))
        stack.callback(_end, replica)
        return replica


def _end(replica: Replica) -> None:
    replica.release()
    if replica.server.process.poll() is None:
        os.kill(replica.server.process.pid, signal.SIGINT)
    replica.server.__exit__(None, None, None)


@contextmanager
def running(folder: Path, rules: Path = RULES) -> Iterator[Scenes]:
    """Scenes in that folder, which is empty, under one Prometheus that answers until the end."""
    with watching(folder, rules) as prometheus:
        yield Scenes(prometheus, folder)


__all__ = [
    "FACTOR",
    "PLANS",
    "DisturbedError",
    "NeverError",
    "Plan",
    "Replica",
    "Scene",
    "Scenes",
    "running",
]
