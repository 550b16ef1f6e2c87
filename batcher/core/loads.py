"""The load of each model and device: what is offered over what can be served inside the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from batcher.core.devices.fleet import Fleet
from batcher.core.devices.instances import Instance
from batcher.core.events import Shapes
from batcher.core.model import Model
from batcher.core.observation import DeviceObservation
from batcher.core.record import record
from batcher.core.scale.capacity import Flow, flow, times_served
from batcher.core.scale.offered import Offered
from batcher.core.times import LATELY_NS

MOST_FLOWS: Final = 8
"""Buckets of a model that are told apart, those that cost most. The others count as more of these."""

SECOND_NS: Final = 1e9


@record
class ModelLoad:
    """What is offered to one model, in rows a second and as parts of what can be served; None is unknown."""

    offered_rows_per_s: float | None = None
    capacity_rows_per_s: float | None = None
    load: float | None = None
    device_loads: tuple[tuple[str, float], ...] = ()


Figures: TypeAlias = tuple[float | None, float | None, float | None]
"""The first three of a `ModelLoad`."""


@record
class Offer:
    """What is offered to one model now: its flows, and the part of the highest rate that can be served in time.

    The first of `flows` has a rate although nothing is offered where `rows` is 0.
    """

    rows: float
    flows: tuple[Flow, ...]
    part: float


def loads(
    models: Mapping[str, Model], fleet: Fleet, now_ns: int
) -> tuple[dict[str, ModelLoad], tuple[DeviceObservation, ...], float | None]:
    """The load of every model, that of every device, and the highest of a device."""
    serving = {name: _slots(fleet, name, now_ns) for name in models}
    superseded: set[str] = set()
    takes_on: dict[str, Model] = {}
    for name, model in models.items():
        before = models.get(model.replaces) if model.replaces else None
        if before is not None and (serving[name] or serving[before.name]):
            # Whichever of the two takes batches is offered what either is.
            superseded |= {each for each in (name, before.name) if not serving[each]}
            if before.name in superseded:
                takes_on[name] = before
    # More servers like this one are whole, also where no instance takes batches here.
    own = {
        name: slots or ({} if name in superseded else _slots_when_whole(models[name], fleet))
        for name, slots in serving.items()
    }
    offers = {n: _offer(model, own[n], now_ns, takes_on.get(n)) for n, model in models.items()}
    alone = {name: _model_load(offers[name], own[name]) for name in models}
    observed, parts = _device_loads(fleet, own, offers, alone)
    known = [each.load for each in observed if each.load is not None]
    highest = max(known, default=None)
    if highest is not None and highest <= 1.0:
        # What is offered at an unknown cost may be more.
        costs = {name for name, offer in offers.items() if offer and offer.rows and not offer.flows}
        highest = None if costs - superseded else highest
    found = {
        name: ModelLoad(*figures, tuple(parts.get(name, ()))) for name, figures in alone.items()
    }
    return found, tuple(observed), highest


def _device_loads(
    fleet: Fleet,
    own: Mapping[str, Mapping[str, int]],
    offers: Mapping[str, Offer | None],
    alone: Mapping[str, Figures],
) -> tuple[list[DeviceObservation], dict[str, list[tuple[str, float]]]]:
    """All devices, and by model its parts of their loads."""
    devices: dict[str, dict[str, int]] = {}
    for name, of_model in own.items():
        for device, number in of_model.items():
            devices.setdefault(device, {})[name] = number
    observed: list[DeviceObservation] = []
    parts: dict[str, list[tuple[str, float]]] = {}
    for device, there in devices.items():
        slots = _limited(fleet, device, sum(there.values()))
        load = _device_load(device, slots, there, own, offers, parts)
        if load is not None:
            # No less than a model needs that has fewer slots than the device.
            load = max([load, *[needed for name in there if (needed := alone[name][2])]])
        observed.append(DeviceObservation(device, slots, load))
    return observed, parts


def _slots(fleet: Fleet, name: str, now_ns: int) -> dict[str, int]:
    """Device -> how many batches the model's instances run there at once, of those that take batches."""
    slots: dict[str, int] = {}
    for instance in fleet.by_model.get(name, ()):
        if not instance.draining and not _hangs(instance, fleet, now_ns):
            device = instance.up.device
            slots[device] = slots.get(device, 0) + instance.up.max_in_flight
    return {d: _limited(fleet, d, n) for d, n in slots.items()}


def _slots_when_whole(model: Model, fleet: Fleet) -> dict[str, int]:
    """Device -> how many batches ran there at once while all instances of the model took batches."""
    slots: dict[str, int] = {}
    for device, number in model.whole.values():
        slots[device] = slots.get(device, 0) + number
    return {d: _limited(fleet, d, n) for d, n in slots.items()}


def _limited(fleet: Fleet, device: str, slots: int) -> int:
    """So many of the slots as the device runs at once; its last one counts while a warm-up batch has it."""
    return max(1, min(slots, fleet.device_limits.get(device, slots)))


def _hangs(instance: Instance, fleet: Fleet, now_ns: int) -> bool:
    """Whether a batch of it takes twice as long as expected and a second more, and is not over."""
    for batch_id in instance.batches:
        batch = fleet.batches[batch_id]
        expected_ns = batch.expected_end_ns - batch.dispatched_ns
        if expected_ns > 0 and now_ns - batch.dispatched_ns > 2 * expected_ns + LATELY_NS:
            return True
    return False


def _offer(model: Model, own: Mapping[str, int], now_ns: int, before: Model | None) -> Offer | None:
    """What is offered to a model, and to the one `before` it; `rows` alone where nothing is known of its batches, None in the first second."""
    settings, offered = model.settings, model.offered
    if before is not None:
        offered = Offered()
        offered.restore(model.offered.capture())
        offered.take_over(before.offered)
    known = {bucket: times for bucket, times in model.times.items() if times}
    usual = next(reversed(known), None)

    def cost_ns(rows: Mapping[Shapes, float]) -> float:
        return sum([each * _full_row_ns(model, bucket, usual) for bucket, each in rows.items()])

    rates = offered.lately(now_ns, cost_ns)
    if rates is None:
        return None
    rows = sum(rates.values())
    if usual is None or not own:
        return Offer(rows, (), 1.0)
    by_bucket: dict[Shapes, float] = {}
    for bucket, rate in rates.items():
        if not rate:
            continue  # what has only just come is a burst as yet
        at = bucket if bucket in known else usual
        by_bucket[at] = by_bucket.get(at, 0.0) + rate
    heaviest = sorted(by_bucket, key=lambda bucket: -cost_ns({bucket: by_bucket[bucket]}))
    heaviest = heaviest[:MOST_FLOWS]
    more = (
        cost_ns(by_bucket) / cost_ns({bucket: by_bucket[bucket] for bucket in heaviest})
        if rows
        else 1.0
    )
    flows = [
        flow(by_bucket[bucket] * more, known[bucket], settings, offered.mean_rows)
        for bucket in heaviest
    ]
    part, evenness = 1.0, offered.evenness
    if settings.target_ns is not None and evenness.block_rows:
        part = evenness.part()
    if not flows:
        flows = [flow(1.0 / SECOND_NS, known[usual], settings, offered.mean_rows)]
    return Offer(rows, tuple(flows), part)


def _full_row_ns(model: Model, bucket: Shapes, usual: Shapes | None) -> float:
    """What a row costs in the largest batch, to compare buckets; 1 while nothing is known."""
    times = model.times.get(bucket) or (None if usual is None else model.times[usual])
    return times.curve[-1] / (len(times.curve) - 1) if times else 1.0


def _model_load(offer: Offer | None, own: Mapping[str, int]) -> Figures:
    """The load of a model that has the slots of its instances to itself."""
    if offer is None:
        return None, None, None
    if not offer.flows:
        return offer.rows * SECOND_NS, None, None
    times = times_served(offer.flows, sum(own.values())) * offer.part
    rate = sum([each.rate for each in offer.flows])
    return offer.rows * SECOND_NS, rate * times * SECOND_NS, 1.0 / times if offer.rows else 0.0


def _device_load(
    device: str,
    slots: int,
    there: Mapping[str, int],
    own: Mapping[str, Mapping[str, int]],
    offers: Mapping[str, Offer | None],
    parts: dict[str, list[tuple[str, float]]],
) -> float | None:
    """The load of a device, and the part of each model in it, which goes to `parts`.

    None while something is offered whose cost is not known, or nothing is known of any model.
    """
    flows: dict[str, Sequence[Flow]] = {}
    work: dict[str, float] = {}
    for name, number in there.items():
        offer = offers[name]
        if offer is None or not offer.flows:
            if offer is not None and offer.rows:
                return None
            continue
        work[name] = 0.0
        share = number / sum(own[name].values())
        if offer.rows:
            flows[name] = [_times(each, share) for each in offer.flows]
    every = [each for of_model in flows.values() for each in of_model]
    load = 0.0
    if every:
        times = times_served(every, slots)
        for name, of_model in flows.items():
            work[name] = sum([each.rate * each.row_ns(times) for each in of_model])
        total = sum(work.values())
        part = sum([work[name] * offer.part for name in flows if (offer := offers[name])]) / total
        load = 1.0 / (times * part)
        work = {name: each / total for name, each in work.items()}
    for name, each in work.items():
        parts.setdefault(name, []).append((device, each * load))
    return load if work else None


def _times(of: Flow, share: float) -> Flow:
    """A flow with a part of its rate."""
    if share == 1.0:
        return of
    return Flow(of.rate * share, of.curve, of.alone, of.least, of.target_ns)
