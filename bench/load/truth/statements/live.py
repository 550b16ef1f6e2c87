"""What waits and what runs, at any moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from truth.model import COLUMNS
from truth.statements.statement import AGE_SLACK_S, RATIO, every, of
from truth.world import MS, NEVER_NS, SECOND, Batch, Request, Scrape, Span, World

HANDED_NS = 20 * MS
"""A batch is handed over, and its end is heard of, within this of what the model wrote: nothing is
said of what happens in it."""


def _ends_ns(request: Request) -> tuple[int, int]:
    """The earliest and the latest moment at which it ended in the server."""
    if request.given_up:
        return request.done_ns - round(AGE_SLACK_S * SECOND), request.done_ns + HANDED_NS
    ends = [NEVER_NS if batch.end_ns is None else batch.end_ns for batch in request.batches]
    earliest = max(ends) if ends and max(ends) <= request.done_ns else request.sent_ns
    return earliest, request.done_ns


def _waits(request: Request) -> tuple[int, int]:
    """The earliest and the latest moment at which it stopped waiting."""
    first, last = _ends_ns(request)
    if not request.batches:
        return first, last
    batch = request.batches[0]
    # A batch may have been prefetched while the one before it ran.
    handed_ns = batch.after_ns or batch.begin_ns - HANDED_NS
    # What is executed again waits again in between.
    return min(first, handed_ns), min(last, request.batches[-1].begin_ns)


def _runs(request: Request) -> tuple[int, int, int, int]:
    """When it began to run, earliest and latest, and stopped, earliest and latest; 0s if never."""
    if not request.batches:
        return 0, 0, 0, 0
    first, last = _ends_ns(request)
    last_begin_ns = request.batches[-1].begin_ns
    return _waits(request)[0], last_begin_ns, max(last_begin_ns, first), last


def waiting(
    world: World, model: str, weight: Callable[[Request], float]
) -> Callable[[Scrape], Span]:
    """What waited during a scrape, in requests, rows or bytes."""
    requests = [(each, *_waits(each)) for each in world.of(model)]

    def truth(scrape: Scrape) -> Span:
        low = high = 0.0
        for each, first_ns, last_ns in requests:
            if each.sent_ns <= scrape.end_ns and last_ns >= scrape.begin_ns:
                high += weight(each)
                if (
                    each.sent_ns + HANDED_NS + each.lag_ns < scrape.begin_ns
                    and first_ns > scrape.end_ns
                ):
                    low += weight(each)
        return Span(low, high)

    return truth


def _executing(world: World, model: str) -> Callable[[Scrape], Span]:
    requests = [(each, _runs(each)) for each in world.of(model)]

    def truth(scrape: Scrape) -> Span:
        low = high = 0
        for _, (first, begun, ends, ended) in requests:
            if first <= scrape.end_ns and ended >= scrape.begin_ns and ended:
                high += 1
                low += begun < scrape.begin_ns and ends > scrape.end_ns
        return Span(low, high)

    return truth


def _age(
    requests: list[tuple[Request, int, int, int, int]],
) -> Callable[[Scrape], Span]:
    """The age of the oldest that is in a state; with each: in it from, surely from, surely to, to."""

    def truth(scrape: Scrape) -> Span:
        low = high = 0.0
        for each, first, begun, ends, ended in requests:
            sent_ns = each.sent_ns
            if first <= scrape.end_ns and ended >= scrape.begin_ns:
                high = max(high, (min(scrape.end_ns, ended) - sent_ns) / SECOND)
                if begun <= scrape.begin_ns and ends >= scrape.end_ns:
                    low = max(low, (scrape.begin_ns - sent_ns - each.lag_ns) / SECOND)
        return Span(low, high)

    return truth


def ages(world: World, model: str, state: str) -> Callable[[Scrape], Span]:
    """The age of the oldest request that is `waiting`, `executing`, or `either`."""
    spans = []
    for each in world.of(model):
        first_ns, last_ns = _ends_ns(each)
        if state == "waiting":
            first_ns, last_ns = _waits(each)
        in_it = each.sent_ns, each.sent_ns + HANDED_NS + each.lag_ns
        if state == "executing":
            *in_it, first_ns, last_ns = _runs(each)
            if not last_ns:
                continue
        spans.append((each, *in_it, first_ns, last_ns))
    return _age(spans)


@of("batcher_oldest_request_age_seconds")
def oldest_age(world: World) -> Iterator[str]:
    for model in world.models:
        for state in ("waiting", "executing"):
            truth = ages(world, model, state)
            yield from every(
                world,
                "batcher_oldest_request_age_seconds",
                truth,
                slack=AGE_SLACK_S,
                model=model,
                state=state,
            )


@of("batcher_oldest_request_target_ratio")
def oldest_ratio(world: World) -> Iterator[str]:
    name = "batcher_oldest_request_target_ratio"
    for model in world.models:
        target_s = target_ns(world, model) / SECOND
        age = ages(world, model, "either")

        def truth(scrape: Scrape) -> Span:
            true = age(scrape)  # noqa: B023 - called in this turn
            return Span(true.low / target_s, true.high / target_s)  # noqa: B023

        yield from every(world, name, truth, slack=AGE_SLACK_S / target_s, ratio=RATIO, model=model)


def target_ns(world: World, model: str) -> int:
    """Its target; every model of a scene has one, in whole milliseconds."""
    return int(world.models[model]["batching"]["target_p99"].removesuffix("ms")) * MS


def _request(_: Request) -> float:
    return 1


def _rows(request: Request) -> float:
    return request.rows


def _bytes(request: Request) -> float:
    return request.rows * request.columns * 4


@of("batcher_queue_requests")
def queue_requests(world: World) -> Iterator[str]:
    yield from _waiting_is(world, "batcher_queue_requests", _request)


@of("batcher_queue_rows")
def queue_rows(world: World) -> Iterator[str]:
    yield from _waiting_is(world, "batcher_queue_rows", _rows)


@of("batcher_queue_bytes")
def queue_bytes(world: World) -> Iterator[str]:
    yield from _waiting_is(world, "batcher_queue_bytes", _bytes)


def _waiting_is(world: World, name: str, weight: Callable[[Request], float]) -> Iterator[str]:
    for model in world.models:
        yield from every(world, name, waiting(world, model, weight), model=model)


@of("batcher_queue_backlog_seconds")
def backlog(world: World) -> Iterator[str]:
    """What rows cost in the largest batches; what fills none costs up to as much as one of its size."""
    name = "batcher_queue_backlog_seconds"
    for model in world.models:
        plan = world.facts["plans"][model]
        most = world.models[model]["batching"]["max_batch_size"]

        def seconds(request: Request) -> float:
            row_ms = plan.row_ms * plan.width(request.columns) / COLUMNS  # noqa: B023
            return request.rows * (plan.base_ms / most + row_ms) / 1e3  # noqa: B023

        cost = waiting(world, model, seconds)

        def truth(scrape: Scrape) -> Span:
            true = cost(scrape)  # noqa: B023 - called in this turn
            more = plan.base_ms / 1e3 * max(1, len(plan.padded)) if true.high else 0  # noqa: B023
            return Span(true.low, true.high + more)

        yield from every(world, name, truth, ratio=RATIO, slack=0.002, model=model)


@of("batcher_executing_requests")
def executing(world: World) -> Iterator[str]:
    for model in world.models:
        yield from every(world, "batcher_executing_requests", _executing(world, model), model=model)


def running(world: World, batches: list[Batch]) -> Callable[[Scrape], Span]:
    """How many batches of these ran during a scrape; those lost end when the scene says so."""
    lost_ns = world.event("lost") or NEVER_NS

    def truth(scrape: Scrape) -> Span:
        low = high = 0
        for batch in batches:
            first = batch.after_ns or batch.begin_ns - HANDED_NS
            end_ns = batch.end_ns or lost_ns
            heard_ns = end_ns + (HANDED_NS if batch.end_ns else 10 * HANDED_NS)
            if first <= scrape.end_ns and heard_ns >= scrape.begin_ns:
                high += 1
                low += batch.begin_ns < scrape.begin_ns and end_ns > scrape.end_ns
        return Span(low, high)

    return truth


@of("batcher_batches_in_flight")
def in_flight(world: World) -> Iterator[str]:
    for model in world.models:
        truth = running(world, world.run(model))
        yield from every(world, "batcher_batches_in_flight", truth, model=model)


@of("batcher_instances")
def instances(world: World) -> Iterator[str]:
    for model, section in world.models.items():
        count = section.get("instances", 1)
        lost_ns, back_ns = world.event("lost"), world.event("back")

        def up(scrape: Scrape) -> Span:
            if scrape.begin_ns < (world.event("ready") or 0):
                return Span(0, count)  # noqa: B023
            if lost_ns is None or scrape.end_ns < lost_ns:  # noqa: B023 - called in this turn
                return Span(count, count)  # noqa: B023
            if back_ns is not None and scrape.begin_ns > back_ns:  # noqa: B023
                return Span(count, count)  # noqa: B023
            return Span(count - 1, count)  # noqa: B023

        yield from every(world, "batcher_instances", up, model=model, state="up")


@of("batcher_latency_target_seconds")
def target(world: World) -> Iterator[str]:
    for model in world.models:
        true = target_ns(world, model) / SECOND
        yield from every(world, "batcher_latency_target_seconds", Span(true, true), model=model)


@of("batcher_latency_target_reachable")
def reachable(world: World) -> Iterator[str]:
    for model in world.models:
        plan = world.facts["plans"][model]
        fits = int((plan.base_ms + plan.row_ms) * MS <= target_ns(world, model))
        yield from every(
            world,
            "batcher_latency_target_reachable",
            Span(fits, fits),
            model=model,
        )
