"""How requests ended, and where their time went."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from truth.statements.live import HANDED_NS, target_ns
from truth.statements.statement import RATIO, at_the_end, every, of
from truth.world import MS, NEVER_NS, SECOND, Request, Scrape, Span, World

ENDS: tuple[tuple[str, str, str, str], ...] = (
    ("OK", "", "ok", ""),
    ("DEADLINE_EXCEEDED", "shorter than the time of the fastest", "expired", "deadline_too_short"),
    ("DEADLINE_EXCEEDED", "one batch alone takes", "expired", "deadline_too_short"),
    ("DEADLINE_EXCEEDED", "waited longer than", "expired", "queue_timeout"),
    ("DEADLINE_EXCEEDED", "", "expired", "caller_deadline"),
    ("CANCELLED", "", "cancelled", "caller_cancelled"),
    ("RESOURCE_EXHAUSTED", "requests may wait", "rejected", "queue_requests"),
    ("RESOURCE_EXHAUSTED", "rows may wait", "rejected", "queue_rows"),
    ("RESOURCE_EXHAUSTED", "overloaded:|with the margin|one batch", "rejected", "predicted_late"),
    ("UNAVAILABLE", "no instance is up", "rejected", "no_instance"),
    ("UNAVAILABLE", "shutting down", "rejected", "draining"),
    ("UNAVAILABLE", "instance that ran the request|did not end within", "failed", "instance_down"),
    ("UNAVAILABLE", "device failed", "failed", "device"),
    ("INVALID_ARGUMENT", "executor refused the input", "failed", "input"),
    ("INVALID_ARGUMENT", "must have shape", "rejected", "invalid"),
    ("NOT_FOUND", "", "rejected", "unknown_model"),
    ("INTERNAL", "", "failed", "unknown"),
)
"""Status and text of an answer -> outcome and reason."""

SHORT_S = 0.05
"""What is given up sooner than this may not have been sent yet on a busy machine."""
PREFIX = "batcher_request_duration_seconds"
STAGES = "batcher_stage_duration_seconds"


def end_of(request: Request) -> tuple[str, str]:
    """Its outcome and reason, by what its caller got; empty for one that got nothing."""
    for code, text, outcome, reason in ENDS:
        # On a stream an error has no code.
        alike = request.code == code or (request.code == "ERROR" and text)
        if alike and re.search(text, request.text):
            return outcome, reason
    return "", ""


def raced(request: Request) -> bool:
    """Whether the caller gave it up at about the moment at which it was answered or refused."""
    if not request.given_up:
        return False
    if unseen(request):
        return True
    ends = [batch.end_ns for batch in request.batches if batch.end_ns is not None]
    return any(abs(end_ns - request.done_ns) < 4 * HANDED_NS for end_ns in ends)


def unseen(request: Request) -> bool:
    """Whether it was given up so soon that it may never have been sent, or was refused for that."""
    soon = request.latency_ns < SHORT_S * SECOND
    return request.given_up and soon and not request.batches


def counted(requests: Iterable[Request], *, at: Scrape | None = None) -> Span:
    """How many of them have ended in the server: by the end of all, or during a scrape."""
    low = high = 0
    for each in requests:
        if at is None:
            high += 1
            low += not raced(each)
            continue
        early = each.earliest_end_ns
        if each.given_up:
            # The caller's library and the server both watch the deadline, and are a little apart.
            early = each.done_ns - HANDED_NS
        high += early <= at.end_ns and each.code != "unanswered"
        settled_ns = each.done_ns + (4 * HANDED_NS if each.given_up else 0)
        low += settled_ns < at.begin_ns and not raced(each)
    return Span(low, high)


@of("batcher_requests")
def requests(world: World) -> Iterator[str]:
    name = "batcher_requests_total"
    for model in world.models:
        by_end: dict[tuple[str, str], list[Request]] = {}
        for each in world.of(model):
            by_end.setdefault(end_of(each), []).append(each)
        unknown = by_end.pop(("", ""), [])
        yield from (f"a caller got {each.code}: {each.text}" for each in unknown[:3])
        maybe = sum(raced(each) for each in world.of(model))
        series = world.found(name, model=model)
        known = {(dict(ls)["outcome"], dict(ls).get("reason", "")) for ls in series}
        yield from (f"{end}: no such series" for end in set(by_end) - known)
        for outcome, reason in sorted(known):
            mine = by_end.get((outcome, reason), [])
            labels = {"model": model, "outcome": outcome}
            if reason:
                labels["reason"] = reason

            def truth(scrape: Scrape) -> Span:
                true = counted(mine, at=scrape)  # noqa: B023 - called in this turn
                return Span(true.low, true.high + maybe)  # noqa: B023

            yield from every(world, name, truth, **labels)
            whole = counted(mine)
            yield from at_the_end(world, name, Span(whole.low, whole.high + maybe), **labels)
        total = sum(samples[-1].value for samples in series.values())
        sent = len(world.of(model)) - len(unknown)
        true = Span(sent - sum(unseen(each) for each in world.of(model)), sent)
        if not true.holds(total):
            yield f"{total:g} requests have ended, and {true} were sent"
    unread = Counter(world.facts.get("unread", {}))
    for labels, samples in world.found(name, model="").items() or _without_model(world):
        reason = dict(labels)["reason"]
        if samples[-1].value != unread[reason]:
            yield f"{reason} without a model: {samples[-1].value:g}, and {unread[reason]} is true"


def _without_model(world: World) -> Iterable[tuple[frozenset[tuple[str, str]], list]]:
    every_series = world.series["batcher_requests_total"].items()
    return [(labels, samples) for labels, samples in every_series if "model" not in dict(labels)]


@of("batcher_predicted_refusals")
def predicted(world: World) -> Iterator[str]:
    reasons = {"predicted_late", "deadline_too_short"}
    for model in world.models:
        refused = [each for each in world.of(model) if end_of(each)[1] in reasons]
        series = world.found("batcher_predicted_refusals_total", model=model)
        total = sum(samples[-1].value for samples in series.values())
        maybe = sum(unseen(each) for each in world.of(model))
        if not Span(len(refused), len(refused) + maybe).holds(total):
            yield f"{model}: {total:g} by cause, and {len(refused)} were refused"
        for cause, text in (("margin", "with the margin"), ("queue_ahead", "overloaded")):
            mine = sum(text in each.text for each in refused)
            yield from at_the_end(
                world,
                "batcher_predicted_refusals_total",
                Span(mine, mine),
                model=model,
                cause=cause,
            )


def _durations_s(requests: Iterable[Request]) -> list[Span]:
    """Of each: from sending to the end of its execution, and to its answer."""
    return [
        Span(
            max(0, each.earliest_end_ns - each.sent_ns - each.lag_ns) / SECOND,
            each.latency_ns / SECOND,
        )
        for each in requests
    ]


@of(PREFIX)
def durations(world: World) -> Iterator[str]:
    for model in world.models:
        by_outcome: dict[str, list[Request]] = {}
        for each in world.of(model):
            if raced(each):
                return
            by_outcome.setdefault(end_of(each)[0], []).append(each)
        for outcome, mine in by_outcome.items():
            labels = {"model": model, "outcome": outcome}
            count = Span(len(mine), len(mine))
            yield from at_the_end(world, f"{PREFIX}_count", count, **labels)
            spent = _durations_s(mine)
            whole = sum(spent, Span(0, 0))
            slack = 0.0 if outcome == "ok" else 0.05 * len(mine)
            yield from at_the_end(world, f"{PREFIX}_sum", whole, ratio=RATIO, slack=slack, **labels)
            if outcome == "ok":
                yield from _buckets(world, spent, labels)


def _buckets(world: World, spent: list[Span], labels: dict[str, str]) -> Iterator[str]:
    for key in world.found(f"{PREFIX}_bucket", **labels):
        limit = dict(key)["le"]
        if limit == "+Inf":
            continue
        most_s = float(limit)
        low = sum(each.high <= most_s for each in spent)
        high = sum(each.low * (1 - RATIO) - 0.02 <= most_s for each in spent)
        yield from at_the_end(world, f"{PREFIX}_bucket", Span(low, high), le=limit, **labels)


@of(STAGES)
def stages(world: World) -> Iterator[str]:
    for model in world.models:
        mine = world.of(model)
        answered = [each for each in mine if each.code == "OK"]

        def total(stage: str) -> float:
            return world.last(f"{STAGES}_sum", model=model, stage=stage) or 0.0  # noqa: B023

        def both(names: Iterable[str]) -> float:
            return sum(map(total, names))

        every_stage = {dict(ls)["stage"] for ls in world.found(f"{STAGES}_sum", model=model)}
        whole = sum(
            samples[-1].value for samples in world.found(f"{PREFIX}_sum", model=model).values()
        )
        apart = abs(both(every_stage) - whole) > 1e-6 * max(1.0, whole)
        if apart:
            yield f"{model}: the stages add up to {both(every_stage):.6f} s, and durations to {whole:.6f} s"
        if len(answered) == len(mine):
            yield from _of_answered(answered, both, model)
            for stage in ("execute", "queue", "reply"):
                count = Span(len(answered), len(answered))
                yield from at_the_end(world, f"{STAGES}_count", count, model=model, stage=stage)


def _of_answered(
    answered: list[Request], both: Callable[[Iterable[str]], float], model: str
) -> Iterator[str]:
    """Of requests that were all answered: the time before, in and after their execution."""
    before = after = run = 0
    for each in answered:
        begin_ns, end_ns = each.batches[0].begin_ns, each.batches[-1].end_ns or NEVER_NS
        before += begin_ns - each.sent_ns
        run += end_ns - begin_ns
        after += each.done_ns - end_ns
    apart_s = len(answered) * 3 * MS / SECOND
    for names, true_ns in (
        (("admission", "queue", "gather"), before),
        (("execute",), run),
        (("scatter", "reply"), after),
    ):
        true_s, said_s = true_ns / SECOND, both(names)
        if not Span(0 if "reply" in names else true_s, true_s).holds(said_s, RATIO, apart_s):
            yield f"{model} {names}: {said_s:.3f} s, and {true_s:.3f} s is true"


@of("batcher_late_answers")
def late_answers(world: World) -> Iterator[str]:
    """As many as missed the target, by the hop that each is blamed on."""
    for model in world.models:
        hops = world.found("batcher_late_answers_total", model=model)
        total = sum(samples[-1].value for samples in hops.values())
        late = world.last("batcher_latency_target_missed_total", model=model)
        if total != late:
            yield f"{model}: {total:g} by hop, and {late} were late"


@of("batcher_budget_exceeded")
def budget_exceeded(world: World) -> Iterator[str]:
    """No model of a scene has a budget."""
    for labels, samples in world.found("batcher_budget_exceeded_total").items():
        if samples[-1].value:
            yield f"{dict(labels)}: {samples[-1].value:g}, and there is no budget"


@of("batcher_upstream_claims_ignored")
def claims_ignored(world: World) -> Iterator[str]:
    """No request of a scene says what it has spent before."""
    for labels, samples in world.found("batcher_upstream_claims_ignored_total").items():
        if samples[-1].value:
            yield f"{dict(labels)}: {samples[-1].value:g}, and there was no claim"


@of("batcher_latency_target_missed")
def missed(world: World) -> Iterator[str]:
    for model in world.models:
        target_s = target_ns(world, model) / SECOND
        spent = _durations_s([each for each in world.of(model) if each.code == "OK"])
        low = sum(each.low * (1 - RATIO) - 0.02 > target_s for each in spent)
        # From the end of the execution to the caller's clock: what a busy machine takes for it.
        high = sum(each.high > target_s for each in spent)
        truth = Span(low, high)
        yield from at_the_end(world, "batcher_latency_target_missed_total", truth, model=model)
