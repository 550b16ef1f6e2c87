"""A scheduler whose devices take what their curves say, and every moment of every request."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest

from batcher.clock import MILLISECOND
from batcher.core.commands import Dispatch, Outcome, Reason, Settle
from batcher.core.events import InstanceUp, ModelConfigured
from batcher.core.scheduler import Scheduler
from batcher.simulation.engine.stalls import StalledDriver, Stalls
from batcher.testing.invariants import validate

PREDICTED = (Reason.PREDICTED_LATE,)
"""What a request is refused for that a prediction alone turns away."""


@dataclass
class Ended:
    at_ns: int
    outcome: Outcome
    reason: Reason
    retry_ns: int | None


@dataclass
class Played:
    """What became of the requests, by id. `begun_ns` is when each was first dispatched."""

    arrived: dict = field(default_factory=dict)
    begun_ns: dict = field(default_factory=dict)
    ended: dict = field(default_factory=dict)
    beside_idle: list = field(default_factory=list)
    """(request, moment) of every refusal beside an idle instance, nothing waiting, where the device has
    shown that it can answer it by its limit."""
    busy_ns: int = 0

    def refused(self):
        return {i: e for i, e in self.ended.items() if e.reason in PREDICTED}

    def waited_ns(self):
        return {
            i: e.at_ns - self.arrived[i].arrival_ns
            for i, e in self.ended.items()
            if e.outcome is Outcome.OK
        }

    def outcomes(self):
        return Counter((e.outcome, e.reason) for e in self.ended.values())


@dataclass(frozen=True)
class Device:
    """A batch takes `base` + `row` for each row, by its padded length: nanoseconds."""

    base_ns: int
    row_ns: int
    per_length_ns: int = 0

    def takes_ns(self, rows, bucket=()):
        length = bucket[0][0] if bucket and bucket[0] else 0
        return self.base_ns + rows * (self.row_ns + self.per_length_ns * length)

    def profile(self, most, bucket=()):
        sizes = sorted({*(1 << n for n in range(most.bit_length())), most})
        return tuple((rows, self.takes_ns(rows, bucket)) for rows in sizes if rows <= most)


class Game:
    """One model `m` on devices of its own."""

    def __init__(self, settings, device, slower, again, validate):
        self.scheduler, self.played = Scheduler(), Played()
        self.device, self.slower, self.again, self.validate = device, slower, again, validate
        self.limit_ns = getattr(settings.policy, "limit_ns", None)
        self.driver = None

    def until_ns(self, request):
        """The last moment at which an answer is of use."""
        ends = [request.deadline_ns, self.limit_ns and request.arrival_ns + self.limit_ns]
        return min([each for each in ends if each is not None], default=1 << 62)

    def run(self, dispatch, from_ns):
        rows = sum(part.stop - part.start for part in dispatch.parts)
        took_ns = round(self.device.takes_ns(rows, dispatch.bucket) * self.slower(from_ns))
        self.played.busy_ns += took_ns
        return from_ns, from_ns + took_ns

    def observe(self, now_ns, commands):
        for command in commands:
            if isinstance(command, Dispatch):
                for part in command.parts:
                    self.played.begun_ns.setdefault(part.id, now_ns)
            if isinstance(command, Settle):
                self.end(command, now_ns)
        self.count_beside_idle(commands, now_ns)
        if self.validate:
            validate(self.scheduler)

    def end(self, command, now_ns):
        played = self.played
        for request_id in command.ids:
            assert request_id not in played.ended
            ended = Ended(now_ns, command.outcome, command.reason, command.retry_after_ns)
            played.ended[request_id] = ended
            if self.again is not None and (sent := self.again(ended, now_ns)):
                played.arrived[sent.id] = sent
                self.driver.post(sent.arrival_ns, sent)

    def count_beside_idle(self, commands, now_ns):
        """Note what a step refused that leaves an instance idle and nothing waiting.

        What a request of the same step stood before that has ended was not next.
        """
        ended = [c for c in commands if isinstance(c, Settle) and c.outcome is not Outcome.OK]
        idle = self.scheduler.fleet.free_instance("m") is not None
        if not idle or self.scheduler.models["m"].queue.requests:
            return
        given_up = [self.played.arrived[i] for c in ended for i in c.ids]
        could = [r for r in given_up if now_ns + self.least_ns(r) < self.until_ns(r)]
        if len(could) == len(given_up) and all(c.reason in PREDICTED for c in ended):
            self.played.beside_idle += [(request, now_ns) for request in could]

    def least_ns(self, request):
        """What it takes alone where the device is as it was at the start, or faster."""
        most = self.scheduler.models["m"].settings.max_batch_size
        bucket = self.scheduler.models["m"].bucket_of(request.shapes)
        full, rest = divmod(request.rows, most)
        return full * self.device.takes_ns(most, bucket) + self.device.takes_ns(rest, bucket)


def _play(
    settings,
    requests,
    device,
    *,
    instances=1,
    stalls=None,
    slower=lambda _now_ns: 1.0,
    cold=False,
    gap_ns=0,
    validate=True,
    again=None,
):
    """Play requests of one model `m` to their end. `slower`: by what factor batches take longer now.

    `again` makes from a request's end and its moment the one that its caller sends then, or None.
    """
    game = Game(settings, device, slower, again, validate)
    game.driver = StalledDriver(
        game.scheduler, game.run, gap_ns, stalls or Stalls(), observe=game.observe
    )
    most = settings.max_batch_size
    buckets = {((n,),) for axis in settings.padding for n in axis.buckets}
    events = [ModelConfigured("m", settings)]
    for number in range(instances):
        profile = () if cold else device.profile(most)
        profiles = () if cold else tuple((b, device.profile(most, b)) for b in sorted(buckets))
        up = (f"m#{number}", 1, "m", f"d{number}", 1, profile, profiles)
        events.append(InstanceUp(*up, prefetches=gap_ns > 0))
    game.driver.step(events, 0)
    played = game.played
    played.arrived = {request.id: request for request in requests}
    game.driver.run([(request.arrival_ns, request) for request in requests])
    assert set(played.ended) == set(played.arrived)
    return played


@pytest.fixture(scope="session")
def play():
    """A function that plays requests of one model `m` to their end: see `_play`."""
    return _play


@pytest.fixture(scope="session")
def device_of():
    """A device by milliseconds for a batch, for a row, and microseconds for an element of it."""

    def make(base_ms, row_ms=0.0, element_us=0.0):
        return Device(
            round(base_ms * MILLISECOND), round(row_ms * MILLISECOND), round(element_us * 1000)
        )

    return make
