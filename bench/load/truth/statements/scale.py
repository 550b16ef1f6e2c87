"""What is offered over what can be served: the load that autoscalers read.

The truth is what the generator sent within the last seconds, at what the rows cost in the batches that the
emulated device serves best inside the target. The server says neither how it smooths nor over how long, but
that a step shows in full within five seconds: so the truth is a range, over windows up to that long.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from truth.capacity import Flow, parts
from truth.model import COLUMNS, DEEDS
from truth.statements.batches import busy_s, device_of, ended, rows
from truth.statements.live import HANDED_NS
from truth.statements.statement import RATIO as BUSY_RATIO
from truth.statements.statement import absent, every, of, when
from truth.world import NEVER_NS, SECOND, Scrape, Span, World

WINDOWS_S = (2.0, 3.0, 4.0, 5.0)
STEP_S = 5.0
"""After so long a step shows in full."""
SLOW_S = 15.0
"""What a batch took counts for about so long."""
RATIO = 0.1
FILL_WINDOWS_S = (5, 8, 10, 12, 15, 30)
"""The fill is that of about ten seconds."""


def slots(world: World, device: str) -> int:
    """Batches that run on the device at once."""
    configured = world.config.get("devices", {}).get(device, {}).get("max_in_flight")
    own = [
        section.get("instances", 1) * section.get("max_in_flight", 1)
        for model, section in world.models.items()
        if device_of(world, model) == device
    ]
    return int(configured or max(own))


def offered(world: World, flow: Flow) -> Callable[[Scrape], list[float]]:
    """Rows a second that were offered before a scrape, for each way to look at the last seconds."""
    sent = sorted(
        (each.sent_ns, each.rows)
        for each in world.of(flow.plan.name)
        if each.sent_ns
        and each.deed != DEEDS["wide"]
        and flow.plan.width(each.columns) == flow.width
    )
    moments = [at_ns for at_ns, _ in sent]
    sums = [0, *accumulate(rows for _, rows in sent)]

    def rate(begin_ns: int, end_ns: int) -> float:
        first, last = bisect_left(moments, begin_ns), bisect_right(moments, end_ns)
        return (sums[last] - sums[first]) * SECOND / (end_ns - begin_ns)

    def truth(scrape: Scrape) -> list[float]:
        now_ns = scrape.begin_ns
        rates = [rate(now_ns - int(each * SECOND), now_ns) for each in WINDOWS_S]
        # The busiest second of them may be left out, or count by itself as part of a long mean.
        busiest = max(rate(now_ns - (n + 1) * SECOND, now_ns - n * SECOND) for n in range(5))
        return [*rates, max(0.0, (rates[-1] * STEP_S - busiest * 1.1) / (STEP_S - 1))]

    return truth


def loads(world: World, device: str) -> Callable[[Scrape], list[dict[str, float]]]:
    """The parts of its models in the load of a device, for each way to look at the last seconds."""
    plans = [world.facts["plans"][model] for model in _devices(world)[device]]
    flows = {
        flow: offered(world, flow)
        for plan in plans
        for flow in (Flow(plan, width) for width in plan.padded or (COLUMNS,))
    }

    def truth(scrape: Scrape) -> list[dict[str, float]]:
        rates = {flow: rate(scrape) for flow, rate in flows.items()}
        found = []
        for place in range(len(WINDOWS_S) + 1):
            by_flow = parts({f: each[place] for f, each in rates.items()}, slots(world, device))
            by_model = dict.fromkeys((plan.name for plan in plans), 0.0)
            for flow, part in by_flow.items():
                by_model[flow.plan.name] += part
            found.append(by_model)
        return found

    return truth


def slowest(world: World, until_ns: int) -> float:
    """How many times as long as it should one of the larger batches of the last seconds took.

    The device is as slow as the machine lets it be, and what the server knows of a size are few batches.
    """
    found = 1.0
    for model in world.models:
        plan = world.facts["plans"][model]
        late = [
            (batch.end_ns - batch.begin_ns)
            / (1e6 * (plan.base_ms + plan.row_ms * batch.rows * batch.width / COLUMNS))
            for batch in world.batches[model]
            if batch.end_ns is not None and until_ns - SLOW_S * SECOND < batch.end_ns < until_ns
        ]
        found = max(found, *(min(each, 1.3) for each in late), 1.0)
    return found


def known(world: World, scrape: Scrape) -> bool | None:
    """Whether a load can be known; None where it may be: in the first second, and while no instance is up."""
    lost_ns, back_ns = world.event("lost"), world.event("back")
    ready_ns = world.event("ready") or 0
    if scrape.begin_ns < ready_ns + 2 * SECOND:
        return None
    # An instance that hangs takes no batches.
    for ran in world.batches.values():
        for batch in ran:
            end_ns = batch.end_ns or lost_ns or NEVER_NS
            if end_ns - batch.begin_ns > SECOND and batch.begin_ns < scrape.end_ns < end_ns:
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


def _spanned(world: World, values: Iterable[float], slow: float) -> Span:
    """From even arrivals to random ones: of those less can be served in time."""
    found = list(values)
    part = min(Flow(plan).uneven() for plan in world.facts["plans"].values())
    return Span(min(found), max(found) * slow / part)


@of("batcher_model_load_ratio")
def model_load(world: World) -> Iterator[str]:
    for device, models in _devices(world).items():
        each_way = loads(world, device)
        for model in models:

            def truth(scrape: Scrape) -> Span:
                slow = slowest(world, scrape.begin_ns)
                return _spanned(world, (by_model[model] for by_model in each_way(scrape)), slow)  # noqa: B023

            labels = {"model": model, "device": device}
            yield from _right(world, "batcher_model_load_ratio", truth, **labels)


def _of_device(world: World, device: str) -> Callable[[Scrape], Span]:
    each_way = loads(world, device)

    def truth(scrape: Scrape) -> Span:
        slow = slowest(world, scrape.begin_ns)
        return _spanned(world, (sum(by_model.values()) for by_model in each_way(scrape)), slow)

    return truth


@of("batcher_device_load_ratio")
def device_load(world: World) -> Iterator[str]:
    for device in _devices(world):
        truth = _of_device(world, device)
        yield from _right(world, "batcher_device_load_ratio", truth, device=device)


@of("batcher_desired_ratio")
def desired(world: World) -> Iterator[str]:
    each_device = [_of_device(world, device) for device in _devices(world)]

    def truth(scrape: Scrape) -> Span:
        spans = [each(scrape) for each in each_device]
        return Span(max(each.low for each in spans), max(each.high for each in spans))

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
