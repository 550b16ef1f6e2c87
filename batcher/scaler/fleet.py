"""One fleet: its replicas as they are listed and asked, and the answers that follow."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from batcher.clock import MILLISECOND, SECOND, Clock
from batcher.errors import on_one_line
from batcher.scaler.activity import Activity, Facts, activity
from batcher.scaler.aggregation import Estimate, Member, estimate, size_of
from batcher.scaler.channels import Channels
from batcher.scaler.config import FleetConfig
from batcher.scaler.discovery import STALE_NS, Discovery, Endpoint, Found
from batcher.scaler.metrics import Metric
from batcher.scaler.polling import Poller, PollSpacing
from batcher.scaler.replica import MISSED_POLLS, PollResult, Replica, State
from batcher.telemetry.families import LATENCY
from batcher.telemetry.histogram import Histogram

log = logging.getLogger(__name__)

_VIEW_NS: Final = 100 * MILLISECOND
"""What was computed is answered again for so long: callers may ask thousands of times a second."""

_RETRY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Value:
    """An answer to `GetMetrics`."""

    estimate: Estimate | None
    """None: not known."""
    reason: str
    """Why it is not known; else empty."""


@dataclass(frozen=True, slots=True)
class _View:
    """What is known at a moment."""

    members: list[Member]
    activity: Activity
    models: frozenset[str]
    at_ns: int


class FleetCounts:
    """What is counted of a fleet, for `/metrics`."""

    def __init__(self) -> None:
        self.polls: Counter[PollResult] = Counter()
        self.unbelieved: Counter[str] = Counter()
        self.listings: Counter[bool] = Counter()
        self.wakes: Counter[str] = Counter()
        self.durations = Histogram(LATENCY)


class Fleet:
    """Lists and polls the replicas of one fleet while `run` runs. Every method is called on the event loop."""

    def __init__(
        self,
        config: FleetConfig,
        discovery: Discovery,
        channels: Channels,
        spacing: PollSpacing,
        clock: Clock,
    ) -> None:
        self.config = config
        self.counts = FleetCounts()
        self.found: Found | None = None
        """The last look at the list; None before the first."""
        self.changed: Callable[[], None] = lambda: None
        """Called when the fleet may have become active or idle."""
        self._discovery = discovery
        self._channels = channels
        self._spacing = spacing
        self._clock = clock
        self._listed = False
        self._pollers: dict[str, Poller] = {}
        self._stopping: set[asyncio.Task[None]] = set()
        self._asked_ns: int | None = None
        self._worked_ns: int | None = None
        """The same of replicas that have reported: what was only listed has done nothing."""
        self._woken_until_ns = 0
        self._size: int | None = None
        """How many replicas there were when most of them served last; before that, when some were there first."""
        self._values: dict[tuple[str, str], Value] = {}
        self._view: _View | None = None

    async def run(self) -> None:
        """List and poll until cancelled; in the end, close every connection."""
        try:
            while True:
                try:
                    await self._discovery.run(self._update)
                    error = "the discovery has ended"
                except Exception as raised:
                    log.exception("fleet %s: internal error in its discovery", self.config.name)
                    error = f"internal error: {type(raised).__name__}: {on_one_line(str(raised))}"
                self._not_listed(error)
                await asyncio.sleep(_RETRY_S)
        finally:
            tasks = [asyncio.ensure_future(each.stop()) for each in self._pollers.values()]
            self._pollers.clear()
            if pending := {*tasks, *self._stopping}:
                await asyncio.wait(pending)

    # --- what it is asked ---

    @property
    def replicas(self) -> list[Replica]:
        """Those that are asked."""
        return [poller.replica for poller in self._pollers.values()]

    @property
    def has_looked(self) -> bool:
        """Whether the list was looked at, and each replica on it asked, at least once."""
        return self.found is not None and all(
            replica.result is not None for replica in self.replicas
        )

    def activity(self) -> Activity:
        """Whether it is active now, and why."""
        return self._look().activity

    def value(self, metric: Metric, model: str) -> Value:
        """The value of a metric now."""
        members = self._look().members
        key = metric.name, model
        if key not in self._values:
            self._values[key] = self._value(members, metric, model)
        return self._values[key]

    def last_value(self, metric: Metric) -> float | None:
        """The value of a metric by the last report of each replica alone; None: not known."""
        if self.value(metric, "").estimate is None:
            return None
        members = [Member(each.state, each.report) for each in self._look().members]
        found = estimate(members, metric)
        return None if found is None else found.value

    def states(self) -> Counter[State]:
        """How many replicas are in each state."""
        return Counter(member.state for member in self._look().members)

    def model_names(self) -> frozenset[str]:
        """The names of all models in reports that count."""
        return self._look().models

    def report_age_ns(self, now_ns: int) -> int | None:
        """The age of the oldest report that counts; None: none does."""
        ages = (
            replica.age_ns(now_ns)
            for replica in self.replicas
            if replica.reported(now_ns) is not None
        )
        return max((age for age in ages if age is not None), default=None)

    def refresh_certificates(self) -> None:
        """Read the files of TLS again if they have changed."""
        self._channels.refresh()

    def wake(self) -> int:
        """Keep it active for `wake_for` from now on, in nanoseconds; 0: waking is off."""
        now_ns, wake_ns = self._clock(), self.config.wake_for
        news = now_ns >= self._woken_until_ns
        self._woken_until_ns = max(self._woken_until_ns, now_ns + wake_ns)
        if news:
            self._forget()
            self.changed()
        return wake_ns

    # --- what happens to it ---

    def _not_listed(self, error: str) -> None:
        try:
            self._update(Found((), ok=False, error=error, at_ns=self._clock()))
        except Exception:
            # The list is looked at again whatever fails here.
            log.exception("fleet %s: internal error after its discovery failed", self.config.name)

    def _update(self, found: Found) -> None:
        before, self.found = self.found, found
        self.counts.listings[found.ok] += 1
        if not found.ok:
            if before is None or before.ok or before.error != found.error:
                log.warning(
                    "fleet %s: its replicas cannot be listed, those that are known are still asked: %s",
                    self.config.name,
                    on_one_line(found.error),
                )
        else:
            if before is not None and not before.ok:
                log.info("fleet %s: its replicas can be listed again", self.config.name)
            self._listed = True
            self._reconcile(found.endpoints)
        self._forget()
        self.changed()

    def _reconcile(self, endpoints: tuple[Endpoint, ...]) -> None:
        listed = {each.address: each for each in endpoints}
        for address in self._pollers.keys() - listed.keys():
            poller = self._pollers.pop(address)
            self._note_asked(poller.replica)
            task = asyncio.create_task(poller.stop())
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)
        for address, endpoint in listed.items():
            known = self._pollers.get(address)
            if known is not None:
                known.replica.endpoint = endpoint
                continue
            replica = Replica(
                endpoint,
                self._clock(),
                models=self.config.models,
                fresh_ns=self._fresh_ns(),
                keep_ns=self.config.keep_last,
                average_ns=self.config.average,
            )
            poller = Poller(
                replica, self._channels, self.config.poll, self._spacing, self._clock, self._polled
            )
            self._pollers[address] = poller
            poller.start()

    def _polled(self, replica: Replica, took_s: float) -> None:
        if replica.result is not None:
            self.counts.polls[replica.result] += 1
        if replica.cause is not None:
            self.counts.unbelieved[replica.cause] += 1
        if replica.news:
            level = logging.INFO if replica.result is PollResult.BELIEVED else logging.WARNING
            log.log(
                level,
                "fleet %s: replica %s: %s",
                self.config.name,
                replica.endpoint.address,
                replica.said,
            )
        self.counts.durations.observe(round(took_s * SECOND))

    def _note_asked(self, replica: Replica) -> None:
        self._asked_ns = _later(self._asked_ns, replica.asked_ns)
        self._worked_ns = _later(self._worked_ns, replica.worked_ns)

    # --- what follows ---

    def _forget(self) -> None:
        self._view = None
        self._values.clear()

    def _look(self) -> _View:
        now_ns = self._clock()
        if self._view is None or now_ns - self._view.at_ns > _VIEW_NS:
            self._values.clear()
            replicas, fresh_ns = self.replicas, self._fresh_ns()
            for replica in replicas:
                replica.fresh_ns = fresh_ns
                self._note_asked(replica)
            members = _members(replicas, now_ns)
            there, serves = size_of(members)
            if serves or (self._size is None and there):
                self._size = there
            self._view = _View(
                members,
                activity(self._facts(replicas, now_ns), self.config.idle_after, now_ns),
                frozenset(
                    name
                    for member in members
                    if member.report is not None
                    for name, _ in member.report.models
                ),
                now_ns,
            )
        return self._view

    def _fresh_ns(self) -> int:
        poll = self.config.poll
        return MISSED_POLLS * self._spacing.interval_ns(poll) + poll.timeout

    def _facts(self, replicas: list[Replica], now_ns: int) -> Facts:
        found = self.found
        listed: bool | None = None
        error = "" if found is None else found.error
        if self._listed and found is not None:
            stale = now_ns - found.at_ns > STALE_NS
            listed = found.ok and not stale
            if found.ok and stale:
                error = f"nothing was heard of the list for {(now_ns - found.at_ns) / SECOND:.0f} s"
        unsure = next((each.endpoint.address for each in replicas if not each.is_known(now_ns)), "")
        return Facts(
            listed=listed,
            listing_error=error,
            replicas=len(replicas),
            unsure=unsure,
            asked_ns=self._asked_ns,
            woken_until_ns=self._woken_until_ns,
        )

    def _value(self, members: list[Member], metric: Metric, model: str) -> Value:
        found = estimate(members, metric, model, self._size)
        if found is None:
            return Value(None, self._unknown(members, metric))
        hidden = self._hidden(members)
        return Value(None, hidden) if hidden else Value(found, "")

    def _hidden(self, members: list[Member]) -> str:
        """Why replicas of which none says anything may have a load; empty where they have none, or one says so."""
        if any(member.report is not None for member in members):
            return ""
        now_ns = self._clock()
        facts = self._facts([], now_ns)
        if not facts.listed:
            return f"its replicas cannot be listed: {facts.listing_error or 'not yet'}"
        woken = now_ns < self._woken_until_ns
        if self._worked_ns is None:
            return "" if woken else self._silent()
        if woken and not members:
            return ""
        if now_ns - self._worked_ns < self.config.idle_after:
            ago_s = (now_ns - self._worked_ns) / SECOND
            return f"no replica is ready, and {ago_s:.0f} s ago something was asked of one"
        return ""

    def _silent(self) -> str:
        """Why a fleet that never reported may have a load; empty where it starts.

        The scaler may have started when all of them hung already. Where one starts, nothing listens.
        """
        return next(
            (
                f"no replica has reported yet, and {each.endpoint.address} is there: {each.error}"
                for each in self.replicas
                if each.result not in (None, PollResult.UNREACHABLE)
            ),
            "",
        )

    def _unknown(self, members: list[Member], metric: Metric) -> str:
        """Why no replica has a value, though some are listed."""
        if any(member.report is not None for member in members):
            return f"no replica that reports says {metric.name}"
        errors = (
            f"{replica.endpoint.address}: {replica.error}"
            for replica in self.replicas
            if replica.error
        )
        first = next(errors, "none has been asked yet")
        return f"of {len(members)} replicas none is known: {first}"


def _members(replicas: list[Replica], now_ns: int) -> list[Member]:
    """Each replica as it is known; of several addresses of one start, only one."""
    members: dict[str, Member] = {}
    for replica in replicas:
        state, report = replica.state(now_ns), replica.reported(now_ns)
        key = replica.endpoint.address if report is None else f"start {report.start_id}"
        member = Member(state, report, replica.readings, now_ns)
        if key not in members or _rank(member) < _rank(members[key]):
            members[key] = member
    return list(members.values())


_ORDER: Final = (State.KNOWN, State.NOT_READY, State.KEPT, State.UNKNOWN)


def _rank(member: Member) -> tuple[int, float]:
    """What is known best comes first, and of that the highest load: no replica hides another by its start_id."""
    load = None if member.report is None else member.report.load
    return _ORDER.index(member.state), -(load or 0.0)


def _later(one_ns: int | None, other_ns: int | None) -> int | None:
    return max((each for each in (one_ns, other_ns) if each is not None), default=None)
