"""The load of each model and device: what is offered over what can be served inside the target."""

from __future__ import annotations

from collections.abc import Mapping

from batcher.core.devices.fleet import Fleet
from batcher.core.model import Model
from batcher.core.observation import DeviceObservation
from batcher.core.record import record
from batcher.core.scale.capacity import RowCosts


@record
class ModelLoad:
    """What is offered to one model, in rows a second and as parts of what can be served; None is unknown."""

    offered_rows_per_s: float | None = None
    capacity_rows_per_s: float | None = None
    load: float | None = None
    device_loads: tuple[tuple[str, float], ...] = ()


UNKNOWN = ModelLoad()


def loads(
    models: Mapping[str, Model], fleet: Fleet, now_ns: int
) -> tuple[dict[str, ModelLoad], tuple[DeviceObservation, ...], float | None]:
    """The load of every model, that of every device, and the highest of a device."""
    own = {name: _slots(fleet, name) for name in models}
    devices: dict[str, int] = {}
    for slots in own.values():
        for device, number in slots.items():
            devices[device] = devices.get(device, 0) + number
    devices = {d: min(n, fleet.device_limits.get(d, n)) for d, n in devices.items()}
    found = {name: _load(model, own[name], devices, now_ns) for name, model in models.items()}
    observed = tuple(
        DeviceObservation(device, slots, _device_load(device, found, own))
        for device, slots in devices.items()
    )
    known = [each.load for each in observed if each.load is not None]
    highest = max(known, default=None)
    blind = any(load.load is None for load in found.values()) or len(known) < len(observed)
    if highest is not None and blind and highest <= 1.0:
        highest = None
    return found, observed, highest


def _slots(fleet: Fleet, name: str) -> dict[str, int]:
    """Device -> how many batches the model's instances run there at once, of those that take batches."""
    slots: dict[str, int] = {}
    for instance in fleet.by_model.get(name, ()):
        if not instance.draining:
            device = instance.up.device
            slots[device] = slots.get(device, 0) + instance.up.max_in_flight
    return {d: min(n, fleet.device_limits.get(d, n)) for d, n in slots.items()}


def _load(
    model: Model, own: Mapping[str, int], devices: Mapping[str, int], now_ns: int
) -> ModelLoad:
    costs = RowCosts(model.times, model.settings)
    rows_per_ns = model.offered.rate(now_ns, lambda rows: sum(rows.values()))
    if rows_per_ns is None:
        return UNKNOWN
    offered = rows_per_ns * 1e9
    slots = sum(own.values())
    if not costs or not slots:
        return ModelLoad(offered)
    work = model.offered.rate(now_ns, costs.cost_ns) or 0.0
    row_ns = work / rows_per_ns if rows_per_ns else costs.usual_ns
    return ModelLoad(
        offered,
        slots / row_ns * 1e9,
        work / slots,
        tuple((device, work * number / slots / devices[device]) for device, number in own.items()),
    )


def _device_load(
    device: str, found: Mapping[str, ModelLoad], own: Mapping[str, Mapping[str, int]]
) -> float | None:
    """The sum of its models' loads, at least the highest of one model on the slots that it has there."""
    models = [found[name] for name, slots in own.items() if device in slots]
    if any(each.load is None for each in models):
        return None
    total = sum([dict(each.device_loads)[device] for each in models])
    return max([total, *[each.load for each in models if each.load is not None]])
