"""The same arrivals and service times through the runtime's runner and through the simulator."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from batcher.core.commands import Command, Dispatch
from batcher.core.events import (
    CancelCause,
    Event,
    InstanceUp,
    ModelConfigured,
    RequestArrived,
    RequestCancelled,
)
from batcher.core.scheduler import Scheduler
from batcher.core.settings import FixedWindow, ModelSettings, NoBatching, QueueLimits
from batcher.errors import RequestError
from batcher.executor import BatchResult
from batcher.runtime.execution.execute import ExecutedBatch
from batcher.runtime.execution.gather import Slice
from batcher.runtime.interface.layout import Layout
from batcher.runtime.interface.signature import RequestSummary
from batcher.runtime.pending import PendingRequest
from batcher.runtime.request import InferenceReply, InferenceRequest
from batcher.runtime.runner import Runner
from batcher.simulation import Driver
from batcher.tensors import Tensor
from batcher.testing.invariants import validate

MS = 1_000_000
MODEL = "hello/1"


def service_time(batch_id: int, rows: int) -> int:
    """Odd, and another for each batch: nothing ends at the moment something else happens."""
    return 5 * MS + rows * MS // 2 + 2 * random.Random(batch_id).randrange(MS) + 1


class LoggedScheduler(Scheduler):
    def __init__(self) -> None:
        super().__init__()
        self.log: list[tuple[int, tuple[Command, ...]]] = []

    def handle(self, events: Sequence[Event], now_ns: int) -> list[Command]:
        commands = super().handle(events, now_ns)
        if commands:
            self.log.append((now_ns, tuple(commands)))
        return commands


class Target:
    key = MODEL
    name = "hello"
    version = "1"
    layout = Layout({"Y": "FP32"})
    settings = ModelSettings(8, NoBatching(), QueueLimits(max_requests=40, timeout_ns=60 * MS))
    padding = None


class Port:
    def __init__(self) -> None:
        self.ends: list[InferenceReply | RequestError] = []

    def send(self, part: InferenceReply, *, last: bool) -> None:
        assert last
        self.ends.append(part)

    def fail(self, error: RequestError) -> None:
        self.ends.append(error)


class World:
    """A clock, a loop that only collects callbacks, a timer and instances: all by hand."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.soon: list[Callable[[], None]] = []
        self.wakeup_ns: int | None = None
        self.completions: list[tuple[int, int, Callable[[], None]]] = []
        self.scheduler = LoggedScheduler()
        self.runner = Runner(self.scheduler, self, lambda: self.now_ns, lambda wake: self)

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def arm(self, at_ns: int | None) -> None:
        self.wakeup_ns = at_ns

    def close(self) -> None:
        self.wakeup_ns = None

    def run(
        self, batch_id: int, slices: Sequence[Slice], done: Callable[[ExecutedBatch], None]
    ) -> None:
        rows = sum(s.stop - s.start for s in slices)
        outputs = {"Y": np.concatenate([s.request.inputs["X"].array for s in slices])}
        executed = ExecutedBatch(self.now_ns, self.now_ns, self.now_ns, BatchResult(outputs))
        ends_ns = self.now_ns + service_time(batch_id, rows)
        heapq.heappush(self.completions, (ends_ns, batch_id, lambda: done(executed)))

    def play(self, arrivals: list[tuple[int, Callable[[], None]]]) -> None:
        upcoming = list(arrivals)
        while True:
            moments = [
                upcoming[0][0] if upcoming else None,
                self.completions[0][0] if self.completions else None,
                self.wakeup_ns,
            ]
            ahead = [m for m in moments if m is not None]
            if not ahead:
                return
            self.now_ns = max(self.now_ns, min(ahead))
            while self.completions and self.completions[0][0] <= self.now_ns:
                heapq.heappop(self.completions)[2]()
            while upcoming and upcoming[0][0] <= self.now_ns:
                upcoming.pop(0)[1]()
            callbacks, self.soon = self.soon, []
            for callback in callbacks:
                callback()
            if self.wakeup_ns is not None and self.wakeup_ns <= self.now_ns:
                self.runner.wake()


def setup(settings: ModelSettings) -> list[Event]:
    return [
        ModelConfigured(MODEL, settings),
        InstanceUp(f"{MODEL}#0", 1, MODEL, "cpu"),
        InstanceUp(f"{MODEL}#1", 1, MODEL, "cpu"),
    ]


def traffic(seed: int) -> list[tuple[int, int, int | None, int | None]]:
    """(arrival, rows, deadline, cancelled at), bursts included; no two moments coincide."""
    source = random.Random(seed)
    now_ns = 0
    requests = []
    for _ in range(400):
        if source.random() < 0.8:
            now_ns += int(source.expovariate(1 / (0.6 * MS))) * 2 + 2
        expires_ns = now_ns + source.randrange(20 * MS) * 2 if source.random() < 0.3 else None
        cancel_ns = now_ns + source.randrange(10 * MS) * 2 + 1 if source.random() < 0.1 else None
        requests.append((now_ns, source.randint(1, 5), expires_ns, cancel_ns))
    return requests


@pytest.mark.parametrize(
    "policy", [FixedWindow(3 * MS, (4, 8)), FixedWindow(2 * MS), FixedWindow(), NoBatching()]
)
@pytest.mark.parametrize("seed", range(3))
def test_equal_logs(policy: FixedWindow | NoBatching, seed: int) -> None:
    settings = ModelSettings(8, policy, QueueLimits(max_requests=40, timeout_ns=60 * MS))
    requests = traffic(seed)

    world = World()
    for event in setup(settings):
        if isinstance(event, InstanceUp):
            world.runner.instance_up(event, world)
        else:
            world.runner.feed(event)
    pendings: list[PendingRequest] = []
    ports: list[Port] = []

    def arrive(number: int) -> Callable[[], None]:
        arrival_ns, rows, expires_ns, _ = requests[number]
        tensor = Tensor("FP32", np.full((rows, 1), number, np.float32))
        request = InferenceRequest("hello", {"X": tensor}, arrival_ns, deadline_ns=expires_ns)

        def submit() -> None:
            ports.append(Port())
            pendings.append(
                world.runner.submit(
                    request, Target(), RequestSummary(rows, 4 * rows, (), ""), ports[-1]
                )
            )

        return submit

    def leave(number: int) -> Callable[[], None]:
        return lambda: world.runner.cancel(pendings[number], CancelCause.CANCELLED)

    actions = [(r[0], n, arrive(n)) for n, r in enumerate(requests)]
    actions += [(r[3], n, leave(n)) for n, r in enumerate(requests) if r[3] is not None]
    world.play([(at_ns, action) for at_ns, _, action in sorted(actions, key=lambda a: a[:2])])

    scheduler = LoggedScheduler()
    driver = Driver(
        scheduler, lambda d: service_time(d.batch_id, sum(p.stop - p.start for p in d.parts))
    )
    for event in setup(settings):
        driver.step([event], 0)
    events: list[tuple[int, int, Event]] = []
    for number, (arrival_ns, rows, expires_ns, cancel_ns) in enumerate(requests):
        arrived = RequestArrived(
            number + 1, MODEL, rows, 4 * rows, (), "", arrival_ns, deadline_ns=expires_ns
        )
        events.append((arrival_ns, number, arrived))
        if cancel_ns is not None:
            cancelled = RequestCancelled(number + 1, CancelCause.CANCELLED)
            events.append((cancel_ns, number, cancelled))
    driver.run([(at_ns, event) for at_ns, _, event in sorted(events, key=lambda e: e[:2])])

    assert world.scheduler.log == scheduler.log
    assert sum(isinstance(c, Dispatch) for _, commands in scheduler.log for c in commands) > 50
    validate(scheduler)
    validate(world.scheduler)
    assert world.runner.unanswered == 0
    for number, port in enumerate(ports):
        (end,) = port.ends
        if isinstance(end, InferenceReply):
            answer = end.outputs["Y"].array
            assert answer.shape == (requests[number][1], 1)
            assert (answer == number).all()
