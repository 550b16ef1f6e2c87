"""Instances, the devices they share, and the batches they run.

An instance is one loaded copy of a model on a device. It may be lost and come back as a new
incarnation; what the old one still reports is ignored, because its batches are gone from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from batcher.core.commands import Part
from batcher.core.events import InstanceUp, Shapes
from batcher.core.faults.bisection import SuspectGroup
from batcher.core.times import NEVER_NS


@dataclass(slots=True)
class RunningBatch:
    """A dispatched batch and the requests in it that have not been reported yet.

    `expected_end_ns` is when it should be done, `dispatched_ns` where nothing is known of what it takes.
    One that its instance got `prefetched` while it ran another counts from when it should begin, or did.
    From `prefetch_at_ns` on its instance may get the next in hand. `group` is what of a failed batch it runs again, and `split` says whether some request in it has
    further rows elsewhere; the rows of `filled` only took room that was left.
    """

    batch_id: int
    model: str
    instance: str
    dispatched_ns: int
    unreported: set[int]
    rows: int = 0
    expected_end_ns: float = 0.0
    canary: bool = False
    shapes: Shapes = ()
    parts: tuple[Part, ...] = ()
    split: bool = False
    suspects: SuspectGroup | None = None
    filled: int | None = None
    prefetched: bool = False
    prefetch_at_ns: int = NEVER_NS


@dataclass(slots=True)
class Instance:
    """One incarnation of an instance. `last_used` orders the idle ones, least recent first.

    `batches` run; `next` is the one in hand, that begins when one of them is done.
    """

    up: InstanceUp
    draining: bool = False
    last_used: int = 0
    batches: set[int] = field(default_factory=set)
    next: int | None = None

    @property
    def free(self) -> bool:
        """Whether it takes another batch, its device permitting."""
        return not self.draining and len(self.batches) < self.up.max_in_flight


class Fleet:
    """All instances, devices and running batches."""

    __slots__ = (
        "_by_model",
        "_ends",
        "_serving",
        "batches",
        "device_limits",
        "device_load",
        "dispatches",
        "instances",
    )

    def __init__(self) -> None:
        self.instances: dict[str, Instance] = {}
        self.batches: dict[int, RunningBatch] = {}
        self.device_limits: dict[str, int] = {}
        self.device_load: dict[str, int] = {}
        self._by_model: dict[str, list[Instance]] = {}
        self.dispatches = 0
        self._ends: dict[str, Sequence[float]] = {}
        self._serving: dict[str, bool] = {}

    def changed(self) -> None:
        """Instances came, went or began to drain."""
        self._ends.clear()
        self._serving.clear()

    def limit_device(self, device: str, max_in_flight: int | None) -> None:
        """Bound how many batches run on a device at once; None lifts the bound."""
        if max_in_flight is None:
            self.device_limits.pop(device, None)
        else:
            self.device_limits[device] = max_in_flight
        self.changed()

    def up(self, event: InstanceUp) -> None:
        """Add an incarnation; the one before it must be gone."""
        assert event.instance not in self.instances
        instance = Instance(event)
        self.instances[event.instance] = instance
        self._by_model.setdefault(event.model, []).append(instance)
        self.device_load.setdefault(event.device, 0)
        self.changed()

    def remove(self, instance: Instance) -> list[RunningBatch]:
        """Forget an incarnation; returns the batches it had, oldest first."""
        held = {*instance.batches} if instance.next is None else {*instance.batches, instance.next}
        lost = [self.finish(batch_id, 0) for batch_id in sorted(held, reverse=True)][::-1]
        del self.instances[instance.up.instance]
        peers = self._by_model[instance.up.model]
        peers.remove(instance)
        if not peers:
            del self._by_model[instance.up.model]
        self.changed()
        return lost

    def incarnation(self, name: str, incarnation: int) -> Instance | None:
        """That very incarnation, or None when it is unknown or another one has its place."""
        instance = self.instances.get(name)
        return instance if instance and instance.up.incarnation == incarnation else None

    def serves(self, model: str) -> bool:
        """Whether any instance of the model is up and takes batches."""
        serving = self._serving.get(model)
        if serving is None:
            serving = any(not i.draining for i in self._by_model.get(model, ()))
            self._serving[model] = serving
        return serving

    def free_ns(self, model: str, now_ns: int) -> Sequence[float]:
        """When each slot of the model's instances can take a batch, the soonest first.

        A batch that should have ended is taken to need as long again as it is late.
        """
        ends = self._ends.get(model)
        if ends is None:
            ends = self._ends[model] = self._sorted_ends(model)
        if ends[-1] <= 0.0:
            return [now_ns] * len(ends)
        return sorted(
            [now_ns if end <= 0.0 else end if end >= now_ns else 2 * now_ns - end for end in ends]
        )

    def soonest_ns(self, model: str, now_ns: int) -> float:
        """When the model's instances take the next batch; `free_ns` says the others."""
        ends = self._ends.get(model)
        if ends is None:
            ends = self._ends[model] = self._sorted_ends(model)
        end = ends[0]
        if end >= now_ns:
            return end
        return now_ns if end <= 0.0 else 2 * now_ns - end

    def slots(self, model: str) -> int:
        """How many batches the model's instances take at once."""
        return len(self.free_ns(model, 0))

    def _sorted_ends(self, model: str) -> Sequence[float]:
        """The expected ends of what keeps each place busy, 0 for a free one; never empty."""
        ends: list[float] = []
        by_device: dict[str, int] = {}
        for instance in self._by_model.get(model, ()):
            if instance.draining:
                continue
            device, slots = instance.up.device, instance.up.max_in_flight
            limit = self.device_limits.get(device)
            if limit is None:
                busy = self._busy_until_ns(instance)
                ends += busy + [0.0] * (slots - len(busy))
            else:
                by_device[device] = min(by_device.get(device, 0) + slots, limit)
        for device, slots in by_device.items():
            on_device = sorted(
                end
                for instance in self.instances.values()
                if instance.up.device == device
                for end in self._busy_until_ns(instance)
            )
            free = self.device_limits[device] - len(on_device)
            ends += ([0.0] * free + on_device)[:slots]
        return sorted(ends) or [0.0]

    def _busy_until_ns(self, instance: Instance) -> list[float]:
        """The expected ends of an instance's batches; the one in hand stands for the one before."""
        if instance.next is not None:
            return [self.batches[instance.next].expected_end_ns]
        return [self.batches[i].expected_end_ns for i in instance.batches]

    def on_device(self, model: str, device: str) -> bool:
        """Whether an instance of the model is on the device."""
        return any(i.up.device == device for i in self._by_model.get(model, ()))

    def shares(self, model: str) -> bool:
        """Whether another model's batches keep those of this one out."""
        return any(
            self.sharing(i.up.device) and self._others_on(i.up.device, model)
            for i in self._by_model.get(model, ())
        )

    def _others_on(self, device: str, model: str) -> bool:
        return any(self.on_device(other, device) for other in self._by_model if other != model)

    def sharing(self, device: str) -> bool:
        """Whether batches on the device keep each other out."""
        return device in self.device_limits

    def free_instance(self, model: str) -> Instance | None:
        """The idle instance to use next: least busy, then least recently used."""
        best: Instance | None = None
        for instance in self._by_model.get(model, ()):
            if not instance.free or not self._device_free(instance.up.device):
                continue
            if best is None or (len(instance.batches), instance.last_used) < (
                len(best.batches),
                best.last_used,
            ):
                best = instance
        return best

    def next_to_prefetch(self, model: str, now_ns: int) -> Instance | None:
        """The busy instance that is free soonest, if it may get a batch in hand before it is.

        None where it may not, where another place is free sooner, or where another model might need
        the device more urgently then.
        """
        soonest_ns = self.free_ns(model, now_ns)[0]
        for instance in self._by_model.get(model, ()):
            if self.prefetch_at_ns(instance) == NEVER_NS:
                continue
            [end_ns] = self._busy_until_ns(instance)
            if (end_ns if end_ns >= now_ns else 2 * now_ns - end_ns) <= soonest_ns:
                return None if self.shares(model) else instance
        return None

    def prefetch_at_ns(self, instance: Instance) -> int:
        """When an instance may get its next batch in hand; `NEVER_NS` if it may not."""
        queues = instance.up.queues and instance.up.max_in_flight == 1 and not instance.draining
        if not queues or instance.next is not None or not instance.batches:
            return NEVER_NS
        return min(self.batches[i].prefetch_at_ns for i in instance.batches)

    def _device_free(self, device: str) -> bool:
        limit = self.device_limits.get(device)
        return limit is None or self.device_load[device] < limit

    def start(self, batch: RunningBatch) -> None:
        """Put a batch on its instance, or in its hand while it runs as many as it can."""
        instance = self.instances[batch.instance]
        self.dispatches += 1
        instance.last_used = self.dispatches
        self.batches[batch.batch_id] = batch
        self._ends.clear()
        if batch.prefetched and len(instance.batches) >= instance.up.max_in_flight:
            instance.next = batch.batch_id
        else:
            self._run(instance, batch.batch_id)

    def _run(self, instance: Instance, batch_id: int) -> None:
        instance.batches.add(batch_id)
        self.device_load[instance.up.device] += 1

    def finish(self, batch_id: int, now_ns: int) -> RunningBatch:
        """Take a batch off its instance, which begins with the one that it has in hand."""
        batch = self.batches.pop(batch_id)
        instance = self.instances[batch.instance]
        self._ends.clear()
        if batch_id == instance.next:
            instance.next = None
            return batch
        instance.batches.remove(batch_id)
        self.device_load[instance.up.device] -= 1
        if instance.next is not None:
            begins = self.batches[instance.next]
            instance.next = None
            self._run(instance, begins.batch_id)
            later_ns = now_ns - begins.dispatched_ns
            begins.dispatched_ns = now_ns
            begins.expected_end_ns += later_ns
            if begins.prefetch_at_ns < NEVER_NS:
                begins.prefetch_at_ns += later_ns
        return batch

    def validate(self) -> None:
        """Loads and limits agree with the batches that run."""
        load = dict.fromkeys(self.device_load, 0)
        prefetched = 0
        for name, instance in self.instances.items():
            assert instance.up.instance == name
            assert len(instance.batches) <= instance.up.max_in_flight
            assert instance in self._by_model[instance.up.model]
            if instance.next is not None:
                assert len(instance.batches) == instance.up.max_in_flight
                assert instance.next not in instance.batches
                assert self.batches[instance.next].instance == name
                assert self.batches[instance.next].prefetched
                prefetched += 1
            load[instance.up.device] += len(instance.batches)
            for batch_id in instance.batches:
                assert self.batches[batch_id].instance == name
        assert load == self.device_load
        assert sum(load.values()) + prefetched == len(self.batches)
