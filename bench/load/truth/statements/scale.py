"""What is offered over what can be served: the load that autoscalers read.

The truth is what the generator sent within the last seconds, at what the rows cost in the batches that the
emulated device serves best inside the target. The server says neither how it smooths nor over how long, but
that a step shows in full within five seconds: so the truth is a range, over windows up to that long.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path

from truth.model import COLUMNS, DEEDS
from truth.scene import ModelPlan
from truth.statements.batches import busy_s, device_of, ended, rows
from truth.statements.live import HANDED_NS
from truth.statements.statement import RATIO as BUSY_RATIO
from truth.statements.statement import absent, every, of, when
from truth.world import SECOND, Scrape, Span, World

WINDOWS_S = (2.0, 3.0, 4.0, 5.0)
STEP_S = 5.0
"""After so long a step shows in full."""
RATIO = 0.1
FILL_WINDOWS_S = (5, 8, 10, 12, 15, 30)
"""The fill is that of about ten seconds."""


def row_s(plan: ModelPlan, columns: int = COLUMNS) -> float:
    """What a row costs in the batch that serves the most and leaves room for one more in the target."""
    section = plan.section(Path())["batching"]
    row_ms = plan.row_ms * plan.width(columns) / COLUMNS
    target_ms = float(section["target_p99"].removesuffix("ms"))
    sizes = section.get("batch_sizes") or range(1, section["max_batch_size"] + 1)
    fits = [size for size in sizes if 2 * (plan.base_ms + row_ms * size) <= target_ms]
    return min((plan.base_ms + row_ms * size) / size / 1e3 for size in fits or [1])


def slots(world: World, device: str) -> int:
    """Batches that run on the device at once."""
    configured = world.config.get("devices", {}).get(device, {}).get("max_in_flight")
    own = [
        section.get("instances", 1) * section.get("max_in_flight", 1)
        for model, section in world.models.items()
        if device_of(world, model) == device
    ]
    return int(configured or max(own))


def offered(world: World, model: str) -> Callable[[Scrape], Span]:
    """Seconds of a slot that were offered for each second before a scrape."""
    plan = world.facts["plans"][model]
    sent = sorted(
        (each.sent_ns, each.rows * row_s(plan, each.columns))
        for each in world.of(model)
        if each.sent_ns and each.deed != DEEDS["wide"]
    )
    moments = [at_ns for at_ns, _ in sent]
    sums = [0.0, *accumulate(cost for _, cost in sent)]

    def rate(begin_ns: int, end_ns: int) -> float:
        first, last = bisect_left(moments, begin_ns), bisect_right(moments, end_ns)
        return (sums[last] - sums[first]) * SECOND / (end_ns - begin_ns)

    def truth(scrape: Scrape) -> Span:
        now_ns = scrape.begin_ns
        rates = [rate(now_ns - int(each * SECOND), now_ns) for each in WINDOWS_S]
        # The busiest second of them may be left out, or count by itself as part of a long mean.
        busiest = max(rate(now_ns - (n + 1) * SECOND, now_ns - n * SECOND) for n in range(5))
        calmest = max(0.0, (rates[-1] * STEP_S - busiest * 1.1) / (STEP_S - 1))
        return Span(min(*rates, calmest), max(rates))

    return truth


def load(world: World, model: str, device: str) -> Callable[[Scrape], Span]:
    """The part of a device that a model's offered work takes."""
    rate, number = offered(world, model), slots(world, device)

    def truth(scrape: Scrape) -> Span:
        work = rate(scrape)
        return Span(work.low / number, work.high / number)

    return truth


def known(world: World, scrape: Scrape) -> bool | None:
    """Whether a load can be known; None where it may be: in the first second, and while no instance is up."""
    lost_ns, back_ns = world.event("lost"), world.event("back")
    ready_ns = world.event("ready") or 0
    if scrape.begin_ns < ready_ns + 2 * SECOND:
        return None
    if lost_ns is None or scrape.end_ns < lost_ns:
        return True
    if any(section.get("instances", 1) > 1 for section in world.models.values()):
        return None
    if back_ns is not None and scrape.begin_ns > back_ns:
        return True
    return None


def _right(
    world: World, name: str, truth: Callable[[Scrape], Span], **labels: str
) -> Iterator[str]:
    values = dict(world.pairs(name, **labels))
    for scrape in world.scrapes:
        value, must = values.get(scrape), known(world, scrape)
        if value is None:
            if must:
                yield f"{when(world, scrape)} {labels}: it is absent"
            continue
        true = truth(scrape)
        if must is None and scrape.begin_ns < (world.event("ready") or 0) + 2 * SECOND:
            true = Span(0, true.high)
        if not true.holds(value, RATIO, 0.01):
            yield f"{when(world, scrape)} {labels or ''}: {value:.3f}, and {true} is true"


def _devices(world: World) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for model in world.models:
        found.setdefault(device_of(world, model), []).append(model)
    return found


def _of_device(world: World, device: str) -> Callable[[Scrape], Span]:
    each_load = [load(world, model, device) for model in _devices(world)[device]]
    return lambda scrape: sum((each(scrape) for each in each_load), Span(0, 0))


@of("batcher_model_load_ratio")
def model_load(world: World) -> Iterator[str]:
    for device, models in _devices(world).items():
        for model in models:
            truth = load(world, model, device)
            labels = {"model": model, "device": device}
            yield from _right(world, "batcher_model_load_ratio", truth, **labels)


@of("batcher_device_load_ratio")
def device_load(world: World) -> Iterator[str]:
    for device in _devices(world):
        truth = _of_device(world, device)
        yield from _right(world, "batcher_device_load_ratio", truth, device=device)


@of("batcher_desired_ratio")
def desired(world: World) -> Iterator[str]:
    each_device = [_of_device(world, device) for device in _devices(world)]

    def truth(scrape: Scrape) -> Span:
        loads = [each(scrape) for each in each_device]
        return Span(max(each.low for each in loads), max(each.high for each in loads))

    yield from _right(world, "batcher_desired_ratio", truth)


@of("batcher_device_headroom_ratio")
def headroom(world: World) -> Iterator[str]:
    """One over the load, at the same moment."""
    for device in _devices(world):
        loads = dict(world.pairs("batcher_device_load_ratio", device=device))
        rooms = dict(world.pairs("batcher_device_headroom_ratio", device=device))
        if loads.keys() != rooms.keys():
            yield f"{device}: {len(loads)} loads and {len(rooms)} headrooms"
        for scrape, value in rooms.items():
            true = 1 / loads[scrape] if loads.get(scrape) else float("inf")
            if value != true and not Span(true, true).holds(value, 0.01):
                yield f"{when(world, scrape)} {device}: {value:.3f}, and {true:.3f} is true"


@of("batcher_device_busy_seconds")
def device_busy(world: World) -> Iterator[str]:
    """The union of what its models ran."""
    name = "batcher_device_busy_seconds_total"
    for device, models in _devices(world).items():
        truth = busy_s(world, [batch for model in models for batch in world.run(model)])
        yield from every(world, name, truth, ratio=BUSY_RATIO, slack=0.05, device=device)


@of("batcher_device_batch_fill_ratio")
def device_fill(world: World) -> Iterator[str]:
    """Rows over room, of what was executed in the last ten seconds or so."""
    for device, models in _devices(world).items():
        ran = [
            (batch.end_ns, rows(world, batch), world.models[model]["batching"]["max_batch_size"])
            for model in models
            for batch in ended(world, model)
            if batch.end_ns is not None
        ]

        def truth(scrape: Scrape) -> Span:
            fills = []
            for end_ns in (scrape.begin_ns - HANDED_NS, scrape.end_ns):
                for window_s in FILL_WINDOWS_S:
                    begin_ns = end_ns - window_s * SECOND
                    mine = [each for each in ran if begin_ns <= each[0] <= end_ns]  # noqa: B023
                    if mine:
                        fills.append(sum(e[1] for e in mine) / sum(e[2] for e in mine))
            return Span(min(fills, default=0), max(fills, default=1))

        values = dict(world.pairs("batcher_device_batch_fill_ratio", device=device))
        if not ran and values:
            yield f"{device}: it is there, and nothing was executed"
        for scrape, value in values.items():
            if not truth(scrape).holds(value, BUSY_RATIO):
                yield f"{when(world, scrape)} {device}: {value:.3f}, and {truth(scrape)} is true"
        if ran and world.scrapes[-1] not in values:
            yield f"{device}: it is not there at the end"


absent("batcher_tenant_requests", "batcher_trace_spans")
