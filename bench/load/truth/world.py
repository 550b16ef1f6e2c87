"""What was true at every moment, from the logs of the load generator and of the models alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from truth.prometheus import Labels, Sample

MS = 1_000_000
SECOND = 1_000_000_000
NEVER_NS = 1 << 62
NEAR_NS = 50 * MS
"""A request may have been held up by what the machine did this long after it was sent."""


@dataclass(frozen=True, slots=True)
class Span:
    """Between two values, both included: what is known of something from the outside."""

    low: float
    high: float

    def holds(self, value: float, ratio: float = 0.0, slack: float = 0.0) -> bool:
        """Whether a value lies there, or off by at most that share of the truth, or that much."""
        low = self.low - max(slack, abs(self.low) * ratio)
        high = self.high + max(slack, abs(self.high) * ratio)
        return low <= value <= high

    def __add__(self, other: Span) -> Span:
        return Span(self.low + other.low, self.high + other.high)

    def __str__(self) -> str:
        return f"{self.low:.6g}" if self.low == self.high else f"{self.low:.6g}..{self.high:.6g}"


@dataclass(slots=True)
class Batch:
    """One execution, as the model wrote it down. `end_ns` is None where it never ended."""

    model: str
    pid: int
    instance: str
    begin_ns: int
    ids: list[int]
    end_ns: int | None = None
    failed: bool = False
    width: int = 4
    """Columns that it ran with."""
    me: int = 0
    """Which object of the model ran it."""
    after_ns: int = 0
    """When the batch before it on the instance began; it may have been handed over from then on."""

    @property
    def rows(self) -> int:
        """Rows that it ran with."""
        return len(self.ids)

    @property
    def requests(self) -> set[int]:
        """The requests in it; empty for a warm-up."""
        return {each for each in self.ids if each}


@dataclass(slots=True)
class Request:
    """One request, as the generator sent it; `batches` are its executions."""

    id: int
    model: str
    rows: int
    deed: int
    deadline_s: float | None = None
    columns: int = 4
    due_ns: int = 0
    sent_ns: int = 0
    lag_ns: int = 0
    """How much later it may have been sent in truth: the generator, or its machine, stood still then."""
    done_ns: int = NEVER_NS
    code: str = "unanswered"
    text: str = ""
    batches: list[Batch] = field(default_factory=list)

    @property
    def latency_ns(self) -> int:
        """From its sending to the answer, as the caller saw it."""
        return self.done_ns - self.sent_ns

    @property
    def given_up(self) -> bool:
        """Whether the caller gave it up: the server may have ended it a little earlier or later."""
        return self.code == "CANCELLED" or self.text == "Deadline Exceeded"

    @property
    def earliest_end_ns(self) -> int:
        """Before this it had not ended in the server."""
        ends = [batch.end_ns for batch in self.batches if batch.end_ns is not None]
        return max([self.sent_ns, *ends]) if self.code == "OK" else self.sent_ns

    @property
    def begin_ns(self) -> int | None:
        """When its first execution began."""
        return self.batches[0].begin_ns if self.batches else None


@dataclass(frozen=True, slots=True)
class Scrape:
    """One scrape: the server made its numbers within this time (monotonic nanoseconds)."""

    begin_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Event:
    """What the scene did, and when: `start`, `ready`, `stop`, ..."""

    what: str
    at_ns: int


@dataclass(slots=True)
class World:
    """A scene, looked at from the outside, and what Prometheus stored of it."""

    config: dict[str, Any]
    requests: dict[int, Request]
    batches: dict[str, list[Batch]]
    """By model, the warm-up included, in order of their begin."""
    life: dict[str, list[dict[str, Any]]]
    """What models wrote of their lives beside batches: made, loading, loaded, closed."""
    series: dict[str, dict[Labels, list[Sample]]]
    events: list[Event]
    facts: dict[str, Any] = field(default_factory=dict)
    """What the scene knows beside: versions, the start of the process, counts by outcome."""

    @property
    def models(self) -> dict[str, dict[str, Any]]:
        """Name -> its section of the configuration."""
        return {model["name"]: model for model in self.config["models"]}

    def of(self, model: str) -> list[Request]:
        """The requests for a model."""
        return [each for each in self.requests.values() if each.model == model]

    def run(self, model: str) -> list[Batch]:
        """The batches of a model that had requests in them."""
        return [batch for batch in self.batches.get(model, []) if batch.requests]

    @property
    def scrapes(self) -> list[Scrape]:
        """Those that succeeded, in order."""
        up = {s.at_ns for s in self.samples("up") if s.value == 1}
        return [
            Scrape(s.at_ns, s.at_ns + round(s.value * SECOND) + 2 * MS)
            for s in self.samples("scrape_duration_seconds")
            if s.at_ns in up
        ]

    def found(self, name: str, **labels: str) -> dict[Labels, list[Sample]]:
        """Every series of that name which has these labels."""
        wanted = set(labels.items())
        return {key: samples for key, samples in self.series.get(name, {}).items() if wanted <= key}

    def samples(self, name: str, **labels: str) -> list[Sample]:
        """Those of the one series with that name and labels; empty if it was never there."""
        found = self.found(name, **labels)
        if len(found) > 1:
            raise ValueError(f"{name} {labels}: {len(found)} series")
        return next(iter(found.values()), [])

    def pairs(self, name: str, **labels: str) -> Iterator[tuple[Scrape, float]]:
        """Each scrape that has the series, and its value."""
        values = {each.at_ns: each.value for each in self.samples(name, **labels)}
        for scrape in self.scrapes:
            if scrape.begin_ns in values:
                yield scrape, values[scrape.begin_ns]

    def last(self, name: str, **labels: str) -> float | None:
        """Its value at the last scrape of all, None where it was absent then."""
        pairs = list(self.pairs(name, **labels))
        if not pairs or pairs[-1][0] != self.scrapes[-1]:
            return None
        return pairs[-1][1]

    def event(self, what: str) -> int | None:
        """When the scene did that first."""
        return next((event.at_ns for event in self.events if event.what == what), None)

    def during(self, begin_ns: int, end_ns: int, ready_ns: int) -> World:
        """The life of one server process, which began then, was ready then and had ended then.

        Requests that ended in none of its scrapes are left out, and so are those that found no server.
        """
        scrapes = [s.at_ns for s in self.samples("up") if s.value == 1]
        last_ns = max(at_ns for at_ns in scrapes if begin_ns <= at_ns <= end_ns)
        requests = {
            number: each
            for number, each in self.requests.items()
            if begin_ns <= each.sent_ns and each.done_ns < last_ns
        }
        batches = {
            model: [
                b for b in ran if begin_ns <= b.begin_ns < end_ns and b.requests <= set(requests)
            ]
            for model, ran in self.batches.items()
        }
        life = {
            model: [each for each in said if begin_ns <= each["at"] < end_ns]
            for model, said in self.life.items()
        }
        series = {
            name: {
                labels: kept
                for labels, samples in of_name.items()
                if (kept := [s for s in samples if begin_ns <= s.at_ns <= last_ns])
            }
            for name, of_name in self.series.items()
        }
        events = [
            Event("start", begin_ns),
            Event("ready", ready_ns),
            *(e for e in self.events if begin_ns <= e.at_ns <= end_ns),
        ]
        events.append(Event("answered", end_ns))
        facts = (
            self.facts
            | {"cut": True}
            | {"started_s": self.facts["started_s"] + (begin_ns - self.began_ns) / 1e9}
        )
        return World(self.config, requests, batches, life, series, events, facts)

    @property
    def began_ns(self) -> int:
        """When the first server was started."""
        return self.events[0].at_ns

    @property
    def late_ms(self) -> float:
        """How far behind its plan the generator was, at the 99th percentile."""
        late = sorted(each.sent_ns - each.due_ns for each in self.requests.values())
        return late[int(len(late) * 0.99)] / MS if late else 0.0


def stood_ms(log: Path) -> float:
    """For how long the generator, or its machine, stood still at most."""
    lags = Path(f"{log}.lags")
    lines = lags.read_text().splitlines() if lags.exists() else []
    return max((json.loads(line)[1] / MS for line in lines), default=0.0)


def read_requests(plan: Sequence[Sequence[Any]], log: Path) -> dict[int, Request]:
    """Every request of the plan, with what the generator wrote of it."""
    requests = {each[0]: Request(each[0], *each[2:6], (*each[7:], 4)[0] or 4) for each in plan}
    lags = Path(f"{log}.lags")
    stood = [json.loads(line) for line in lags.read_text().splitlines()] if lags.exists() else []
    for line in log.read_text().splitlines() if log.exists() else ():
        number, due_ns, sent_ns, done_ns, code, text = json.loads(line)
        one = requests[number]
        one.due_ns, one.sent_ns, one.done_ns = due_ns, sent_ns, done_ns
        one.code, one.text = code, text
        one.lag_ns = sum(
            late_ns for at_ns, late_ns in stood if -late_ns - NEAR_NS < at_ns - sent_ns < NEAR_NS
        )
    return requests


def read_model(model: str, log: Path) -> tuple[list[Batch], list[dict[str, Any]]]:
    """The batches of a model, and the rest of what it wrote."""
    batches: list[Batch] = []
    life: list[dict[str, Any]] = []
    running: dict[tuple[int, int], Batch] = {}
    before: dict[tuple[int, int], int] = {}
    for line in log.read_text().splitlines() if log.exists() else ():
        said = json.loads(line)
        who = said["pid"], said["me"]
        if said["kind"] == "begin":
            batch = Batch(model, said["pid"], said["instance"], said["at"], said["ids"])
            batch.me, batch.width = said["me"], said["width"]
            batch.after_ns = before.get(who, 0)
            before[who] = batch.begin_ns
            running[who] = batch
            batches.append(batch)
        elif said["kind"] == "end":
            batch = running.pop(who)
            batch.end_ns, batch.failed = said["at"], said["failed"]
        else:
            life.append(said)
    batches.sort(key=lambda batch: batch.begin_ns)
    return batches, life


def joined(requests: dict[int, Request], batches: dict[str, list[Batch]]) -> None:
    """Tell each request its executions."""
    for of_model in batches.values():
        for batch in of_model:
            for number in batch.requests:
                requests[number].batches.append(batch)


def union_ns(spans: Iterable[tuple[int, int]], until_ns: float = inf) -> int:
    """The length of the union of spans, up to a moment."""
    spent, free_ns = 0, -NEVER_NS
    for begin_ns, end_ns in sorted(spans):
        first_ns, last_ns = max(begin_ns, free_ns), int(min(end_ns, until_ns))
        if last_ns > first_ns:
            spent += last_ns - first_ns
            free_ns = last_ns
    return spent


def codes(requests: Sequence[Request]) -> Counter[str]:
    """How many ended with each status."""
    return Counter(each.code for each in requests)
