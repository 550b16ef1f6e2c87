"""All instances, by model and device, and the batches that run on them.

An instance that fails comes back as a new incarnation. What the old one still reports is ignored: its
batches are no longer here.
"""

from __future__ import annotations

from collections.abc import Sequence

from batcher.core.devices.instances import Instance, RunningBatch
from batcher.core.devices.slots import busy_until_ns, slot_ends
from batcher.core.events import InstanceUp
from batcher.core.times import NEVER_NS


class Fleet:
    """All instances, devices and running batches. A slot is a place for one batch in flight."""

    __slots__ = (
        "_ends",
        "batches",
        "by_model",
        "device_limits",
        "device_load",
        "dispatches",
        "instances",
        "serving",
    )

    def __init__(self) -> None:
        self.instances: dict[str, Instance] = {}
        self.batches: dict[int, RunningBatch] = {}
        self.device_limits: dict[str, int] = {}
        self.device_load: dict[str, int] = {}
        self.by_model: dict[str, list[Instance]] = {}
        self.dispatches = 0
        self._ends: dict[str, Sequence[float]] = {}
        self.serving: set[str] = set()
        """The models of which any instance is up and takes batches."""

    def changed(self) -> None:
        """Note that instances were added, removed or began to drain."""
        self._ends.clear()
        self.serving = {i.up.model for i in self.instances.values() if not i.draining}

    def limit_device(self, device: str, max_in_flight: int | None) -> None:
        """Limit how many batches run on a device at once; None removes the limit."""
        if max_in_flight is None:
            self.device_limits.pop(device, None)
        else:
            self.device_limits[device] = max_in_flight
        self.changed()

    def add(self, event: InstanceUp) -> None:
        """Add an incarnation; the one before it must have been removed."""
        assert event.instance not in self.instances
        instance = Instance(event)
        self.instances[event.instance] = instance
        self.by_model.setdefault(event.model, []).append(instance)
        self.device_load.setdefault(event.device, 0)
        self.changed()

    def remove(self, instance: Instance) -> list[RunningBatch]:
        """Remove an incarnation; returns the batches it had, oldest first."""
        held = {*instance.batches} if instance.next is None else {*instance.batches, instance.next}
        lost = [self.finish(batch_id, 0) for batch_id in sorted(held, reverse=True)][::-1]
        del self.instances[instance.up.instance]
        peers = self.by_model[instance.up.model]
        peers.remove(instance)
        if not peers:
            del self.by_model[instance.up.model]
        self.changed()
        return lost

    def incarnation(self, name: str, incarnation: int) -> Instance | None:
        """Returns this very incarnation, or None where it is unknown or was replaced."""
        instance = self.instances.get(name)
        return instance if instance and instance.up.incarnation == incarnation else None

    def free_ns(self, model: str, now_ns: int) -> Sequence[float]:
        """Returns when each of the model's slots can take a batch, the soonest first.

        A batch that is late by some time is expected to need as much time again.
        """
        ends = self._ends.get(model)
        if ends is None:
            ends = self._slot_ends(model)
        if ends[-1] <= 0.0:
            return [now_ns] * len(ends)
        return sorted(
            [now_ns if end <= 0.0 else end if end >= now_ns else 2 * now_ns - end for end in ends]
        )

    def next_free_ns(self, model: str, now_ns: int) -> float:
        """Returns the first of `free_ns`, which is cheaper than all."""
        ends = self._ends.get(model)
        if ends is None:
            ends = self._slot_ends(model)
        end = ends[0]
        if end >= now_ns:
            return end
        return now_ns if end <= 0.0 else 2 * now_ns - end

    def slots(self, model: str) -> int:
        """Returns how many batches the model's instances run at once; at least 1."""
        ends = self._ends.get(model)
        return len(self._slot_ends(model) if ends is None else ends)

    def _slot_ends(self, model: str) -> Sequence[float]:
        own = self.by_model.get(model, ())
        ends = slot_ends(own, self.instances.values(), self.batches, self.device_limits)
        self._ends[model] = ends
        return ends

    def on_device(self, model: str, device: str) -> bool:
        """Whether an instance of the model is on the device."""
        return any(i.up.device == device for i in self.by_model.get(model, ()))

    def shares_device(self, model: str) -> bool:
        """Whether the model's batches wait for those of another one, on a device with a limit."""
        return any(
            self.has_limit(i.up.device) and self._others_on(i.up.device, model)
            for i in self.by_model.get(model, ())
        )

    def alone(self, model: str) -> bool:
        """Whether the model has one instance, and no other model has one on the same device."""
        own = self.by_model.get(model, ())
        return len(own) == 1 and not self._others_on(own[0].up.device, model)

    def _others_on(self, device: str, model: str) -> bool:
        return any(self.on_device(other, device) for other in self.by_model if other != model)

    def has_limit(self, device: str) -> bool:
        """Whether the batches of a device wait for each other: it has a limit."""
        return device in self.device_limits

    def free_instance(self, model: str) -> Instance | None:
        """Returns the instance to use next: the least busy one, then the least recently used."""
        best: Instance | None = None
        for instance in self.by_model.get(model, ()):
            if not instance.free or not self._device_free(instance.up.device):
                continue
            if best is None or (len(instance.batches), instance.last_used) < (
                len(best.batches),
                best.last_used,
            ):
                best = instance
        return best

    def next_to_prefetch(self, model: str, now_ns: int) -> Instance | None:
        """Returns the busy instance that is free soonest, if it may get a prefetched batch.

        None where it may not, where another slot is free sooner, or where another model might need
        the device more urgently by then.
        """
        soonest_ns = self.free_ns(model, now_ns)[0]
        for instance in self.by_model.get(model, ()):
            if self.prefetch_at_ns(instance) == NEVER_NS:
                continue
            [end_ns] = busy_until_ns(instance, self.batches)
            if (end_ns if end_ns >= now_ns else 2 * now_ns - end_ns) <= soonest_ns:
                return None if self.shares_device(model) else instance
        return None

    def prefetch_at_ns(self, instance: Instance) -> int:
        """Returns when an instance may get a prefetched batch; `NEVER_NS` if it may not."""
        prefetches = (
            instance.up.prefetches and instance.up.max_in_flight == 1 and not instance.draining
        )
        if not prefetches or instance.next is not None or not instance.batches:
            return NEVER_NS
        return min(self.batches[i].prefetch_at_ns for i in instance.batches)

    def _device_free(self, device: str) -> bool:
        limit = self.device_limits.get(device)
        return limit is None or self.device_load[device] < limit

    def start(self, batch: RunningBatch) -> None:
        """Have an instance run a batch, or keep a prefetched one while it has no free slot."""
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

    def finish(
        self, batch_id: int, now_ns: int, ended_ns: int = 0, submitted_ns: int = 0
    ) -> RunningBatch:
        """Take a batch off its instance, which begins the prefetched one, if any.

        The batch ended at `ended_ns`, and was on its device at `submitted_ns`, by its instance's stamps.
        """
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
            begins.dispatched_ns, begins.after_ns = now_ns, ended_ns
            begins.given_ns = max(begins.given_ns, submitted_ns)
            begins.expected_end_ns += later_ns
            if begins.prefetch_at_ns < NEVER_NS:
                begins.prefetch_at_ns += later_ns
        return batch
