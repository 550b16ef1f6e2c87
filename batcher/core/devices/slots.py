"""When the slots of a model's instances are free: each takes one batch at a time.

An instance has `max_in_flight` slots. Where its device has a limit, all instances on the device share as
many slots as the limit says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from batcher.core.devices.instances import Instance, RunningBatch


def busy_until_ns(instance: Instance, batches: Mapping[int, RunningBatch]) -> list[float]:
    """Returns the expected ends of an instance's batches; a prefetched one counts for the one before."""
    if instance.next is not None:
        return [batches[instance.next].expected_end_ns]
    return [batches[i].expected_end_ns for i in instance.batches]


def slot_ends(
    own: Iterable[Instance],
    every: Iterable[Instance],
    batches: Mapping[int, RunningBatch],
    device_limits: Mapping[str, int],
) -> Sequence[float]:
    """Returns when the batch in each slot of a model should end, ascending, 0 for a free slot.

    `own` are the model's instances, `every` those of all models. Never empty.
    """
    ends: list[float] = []
    by_device: dict[str, int] = {}
    for instance in own:
        if instance.draining:
            continue
        device, slots = instance.up.device, instance.up.max_in_flight
        limit = device_limits.get(device)
        if limit is None:
            busy = busy_until_ns(instance, batches)
            ends += busy + [0.0] * (slots - len(busy))
        else:
            by_device[device] = min(by_device.get(device, 0) + slots, limit)
    for device, slots in by_device.items():
        on_device = sorted(
            end
            for instance in every
            if instance.up.device == device
            for end in busy_until_ns(instance, batches)
        )
        free = device_limits[device] - len(on_device)
        ends += ([0.0] * free + on_device)[:slots]
    return sorted(ends) or [0.0]
