"""The process, its connections, and what it records."""

from __future__ import annotations

import platform
from collections.abc import Iterator

from truth.statements.models import _is_up
from truth.statements.statement import RATIO, at_the_end, constant, every, of
from truth.world import SECOND, Scrape, Span, World

KEPT_BYTES = 8192
"""More than a small message and what is kept of its call (`http2/server_connection.py`) take."""
LAG_INTERVAL_S = 0.25
"""How often the server measures the lag of its event loop (`telemetry/lag.py`)."""


@of("batcher_build_info")
def build_info(world: World) -> Iterator[str]:
    labels = {"version": world.facts["version"], "python": platform.python_version()}
    yield from every(world, "batcher_build_info", Span(1, 1), **labels)


@of("batcher_draining")
def draining(world: World) -> Iterator[str]:
    stop_ns = world.event("stop")

    def truth(scrape: Scrape) -> Span:
        if stop_ns is None or scrape.end_ns < stop_ns:
            return Span(0, 0)
        return Span(0, 1) if scrape.begin_ns < stop_ns + SECOND // 20 else Span(1, 1)

    yield from every(world, "batcher_draining", truth)


@of("batcher_ready")
def ready(world: World) -> Iterator[str]:
    stop_ns = world.event("stop")

    def truth(scrape: Scrape) -> Span:
        up = _is_up(world, scrape)
        if any(model.get("instances", 1) > 1 for model in world.models.values()):
            up = Span(1, 1)
        if stop_ns is None or scrape.end_ns < stop_ns:
            return up
        return Span(0, up.high) if scrape.begin_ns < stop_ns + SECOND // 20 else Span(0, 0)

    yield from every(world, "batcher_ready", truth)


@of("batcher_event_loop_lag_seconds")
def lag(world: World) -> Iterator[str]:
    """How often it was measured follows from the time. Of the lags nothing is known but the most: that time."""
    name = "batcher_event_loop_lag_seconds"
    scrapes = world.scrapes
    first, last = scrapes[0], scrapes[-1]
    lasted_s = (last.begin_ns - first.begin_ns) / SECOND
    pairs = dict(world.pairs(f"{name}_count"))
    sums = dict(world.pairs(f"{name}_sum"))
    count, late_s = pairs[last] - pairs[first], sums[last] - sums[first]
    expected = (lasted_s - late_s) / LAG_INTERVAL_S
    if not Span(expected, expected).holds(count, RATIO, 2):
        yield f"{count:g} measured in {lasted_s:.1f} s, and about {expected:.0f} are true"
    if late_s > lasted_s:
        yield f"{late_s:.1f} s late within {lasted_s:.1f} s"


@of("batcher_event_loop_stalls")
def stalls(world: World) -> Iterator[str]:
    """Each is logged, and each makes a measured lag of more than 50 ms, less what a timer is off."""
    said = world.facts["log"].count("the event loop")
    value = world.last("batcher_event_loop_stalls_total")
    if value is None or (said == 0 and value > 0):
        yield f"{value} are counted, and the log has {said}"


constant("batcher_settings_changes", 0, sample="batcher_settings_changes_total")


@of("batcher_settings_generation")
def settings_generation(world: World) -> Iterator[str]:
    number = world.facts.get("settings", 1)
    yield from at_the_end(world, "batcher_settings_generation", Span(number, number))


@of("batcher_settings_last_change_timestamp_seconds")
def settings_changed(world: World) -> Iterator[str]:
    """The start, where nothing was changed since."""
    first = world.facts["started_s"]
    ready_ns, start_ns = world.event("ready"), world.event("start")
    assert ready_ns is not None
    assert start_ns is not None
    changed = world.facts.get("changed_s")
    truth = Span(first, first + (ready_ns - start_ns) / SECOND) if changed is None else changed
    yield from at_the_end(world, "batcher_settings_last_change_timestamp_seconds", truth)


def _builtin(world: World) -> bool:
    return world.config["server"].get("transport", "builtin") == "builtin"


@of("batcher_connections")
def connections(world: World) -> Iterator[str]:
    name, count = "batcher_connections", world.facts["connections"]
    if not _builtin(world):
        yield from (f"{each}: of this transport nothing is known" for each in world.found(name))
        return
    answered_ns = world.event("answered")
    assert answered_ns is not None

    def truth(scrape: Scrape) -> Span:
        if _first_ns(world) < scrape.begin_ns and scrape.end_ns < answered_ns - SECOND:
            return Span(0 if scrape.begin_ns > _last_ns(world) else count, count)
        return Span(0, count)

    yield from every(world, name, truth)
    if "cut" not in world.facts:
        yield from at_the_end(world, name, Span(0, 0))


def _first_ns(world: World) -> int:
    begins = [each.done_ns for each in world.requests.values() if each.sent_ns]
    return min(begins, default=world.facts["began_ns"])


def _last_ns(world: World) -> int:
    return max((each.done_ns for each in world.requests.values()), default=0)


def _counted(family: str, **expected: int) -> None:
    """State counts of the transport at the end, by their one label; all others are 0."""
    name = f"{family}_total"

    def check(world: World) -> Iterator[str]:
        if not _builtin(world):
            return
        true = expected | world.facts.get("transport", {}).get(family, {})
        if family == "batcher_connection_events":
            true["accepted"] = world.facts["connections"]
        for labels, samples in world.found(name).items():
            ((_, what),) = labels
            said = what == "sent" and world.event("stop") is not None
            if samples[-1].value != true.get(what, 0) and not said:
                yield f"{what}: {samples[-1].value:g}, and {true.get(what, 0)} is true"

    of(family)(check)


_counted("batcher_connection_events")
_counted("batcher_connection_errors")
_counted("batcher_goaways")


@of("batcher_stream_events")
def streams(world: World) -> Iterator[str]:
    """Callers reset the calls that they cancel, and those whose deadline passes."""
    if not _builtin(world):
        return
    given_up = sum(each.given_up for each in world.requests.values())
    for labels, samples in world.found("batcher_stream_events_total").items():
        ((_, what),) = labels
        # The server may have ended the call first.
        most = given_up if what in {"reset_by_client", "answer_lost"} else 0
        if not 0 <= samples[-1].value <= most:
            yield f"{what}: {samples[-1].value:g}, and at most {most} callers gave up"


@of("batcher_buffered_bytes")
def buffered(world: World) -> Iterator[str]:
    """At least the values of what is open, and not much more."""

    def truth(scrape: Scrape) -> Span:
        low, high = 0, KEPT_BYTES * world.facts["connections"]
        for each in world.requests.values():
            values = 4 * each.columns * each.rows
            if each.sent_ns <= scrape.end_ns and each.done_ns >= scrape.begin_ns - SECOND // 20:
                high += 2 * values + KEPT_BYTES
            if each.begin_ns and each.begin_ns <= scrape.begin_ns and not each.given_up:
                low += values if each.earliest_end_ns > scrape.end_ns else 0
        return Span(low, high)

    yield from every(world, "batcher_buffered_bytes", truth)
    yield from at_the_end(world, "batcher_buffered_bytes", Span(0, 0))


@of("batcher_buffered_limit_bytes")
def buffered_limit(world: World) -> Iterator[str]:
    limit = world.facts.get("max_buffered", Span(128 << 20, 1 << 50))
    yield from every(world, "batcher_buffered_limit_bytes", limit)


@of("batcher_buffered_peak_bytes")
def buffered_peak(world: World) -> Iterator[str]:
    """No lower than any value that was seen, and never falling."""
    seen = 0.0
    now = dict(world.pairs("batcher_buffered_bytes"))
    for scrape, value in world.pairs("batcher_buffered_peak_bytes"):
        seen = max(seen, now.get(scrape, 0.0))
        if value < seen:
            yield f"{value:g}, and {seen:g} was seen"
        seen = max(seen, value)


constant("batcher_buffer_refusals", 0, sample="batcher_buffer_refusals_total")
constant("batcher_journal_written_bytes", 0, sample="batcher_journal_written_bytes_total")
constant("batcher_journal_lost_segments", 0, sample="batcher_journal_lost_segments_total")
constant("batcher_flight_recorder_memory_bytes", 0)
constant("batcher_incidents", 0, sample="batcher_incidents_total")
