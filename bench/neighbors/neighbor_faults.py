"""Rounds of faults: a neighbor is killed, suspended, restarted or slow while requests arrive.

Each round plays one fault under load and says what is wrong with how the requests ended. What must
hold:

- an error says why: it has a status that fits, and a text that names the model (or that the caller's
  own deadline passed, which needs no other word);
- no request ends later than its deadline and `ALLOWANCE_S`, on the caller's clock;
- every request ends once, and an answer is the one to its own values;
- what is lost is counted: sent = answered + errors;
- from `RESUMED_S` after the neighbor says that it is ready, requests are answered.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from model_servers import ModelServer
from patient_callers import ON_STREAM, Caller, Ended

RATE = 60.0
"""Requests a second: far below what any neighbor takes, so that only the fault costs answers."""
DEADLINES_S = (0.3, 0.6, 1.2)
ALLOWANCE_S = 0.5
"""How much later than its deadline a call may end on the caller's clock: what the callers, the server and
the neighbor take from each other on two cores. Half of it would be enough on a quiet machine."""
RESUMED_S = 2.0
"""From this long after the neighbor is ready, requests are answered."""
CALM_S, DOWN_S, SUSPENDED_S, SLOW_S, AFTER_S = 0.3, 0.4, 3.0, 1.5, 0.5
"""Of a round: before the fault, without a neighbor, suspended, slow, and after service must be back."""
SLOW_BATCH_S = 0.8
"""What a batch of a slow neighbor takes more: longer than two of the three deadlines."""
LONGEST_S = 40.0
"""Everything ends by this, `execute_timeout` (30 s) being the longest wait there is."""
CLEAR = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", ON_STREAM}


@dataclass(slots=True)
class Round:
    """What one fault did."""

    fault: str
    ended: list[Ended] = field(default_factory=list)
    sent: int = 0
    back_s: float = 0.0
    """When the neighbor said that it was ready again, on the monotonic clock."""
    twice: list[str] = field(default_factory=list)

    @property
    def resumed_s(self) -> float | None:
        """How long after `back_s` the first request was answered that was sent after it; None: not."""
        after = [
            each.ended_s - self.back_s
            for each in self.ended
            if each.status == "OK" and each.sent_s >= self.back_s
        ]
        return min(after, default=None)

    @property
    def latest_s(self) -> float:
        """By how much a call ended after its deadline, at most."""
        late = [each.seconds - each.deadline_s for each in self.ended if each.deadline_s]
        return max(late, default=0.0)

    @property
    def statuses(self) -> dict[str, int]:
        """How many ended so."""
        return dict(Counter(each.status for each in self.ended))

    def wrong(self) -> list[str]:
        """What did not hold; empty if all did."""
        return list(self._wrong())

    def _wrong(self) -> Iterator[str]:
        if self.sent != len(self.ended):
            yield f"{self.sent} sent, {len(self.ended)} ended"
        if self.twice:
            yield f"answered more than once on the stream: {self.twice}"
        for each in self.ended:
            if each.answers != 1:
                yield f"{each.answers} answers: {each}"
            if each.status == "OK" and not each.right:
                yield f"a wrong answer: {each}"
            if each.status != "OK" and each.status not in CLEAR:
                yield f"an unclear status: {each}"
            if each.status not in {"OK", "DEADLINE_EXCEEDED"} and "double" not in each.text:
                yield f"an unclear text: {each}"
            if each.status == "UNAVAILABLE" and each.pushback is None:
                yield f"no hint when to try again: {each}"
            if each.deadline_s and each.seconds > each.deadline_s + ALLOWANCE_S:
                yield f"it waited past its deadline: {each}"
            if each.sent_s >= self.back_s + RESUMED_S and each.status != "OK":
                yield f"no service {each.sent_s - self.back_s:.1f} s after the neighbor was back: {each}"
        if self.resumed_s is None:
            yield "no request was answered after the neighbor was back"


async def play(address: str, neighbor: ModelServer, fault: str, first: int = 0) -> Round:
    """One round at that server; `first` numbers its first request."""
    played = Round(fault)
    over = asyncio.Event()
    async with Caller(address, "double") as caller:
        load = asyncio.create_task(_load(caller, played, over, first))
        try:
            await asyncio.sleep(CALM_S)
            await FAULTS[fault](neighbor)
            played.back_s = await asyncio.to_thread(neighbor.await_ready)
            await asyncio.sleep(RESUMED_S + AFTER_S)
        finally:
            over.set()
            await asyncio.wait_for(load, LONGEST_S)
        played.twice = await asyncio.wait_for(caller.answered_twice(), LONGEST_S)
    return played


async def _load(caller: Caller, played: Round, over: asyncio.Event, first: int) -> None:
    """Requests at a steady rate until it is over; returns when all have ended."""
    begun_s = time.monotonic()
    calls: list[asyncio.Task[Ended]] = []
    deadlines = itertools.cycle((*DEADLINES_S, None))
    while not over.is_set():
        place, deadline_s = first + len(calls), next(deadlines)
        rows = 1 + place % 3
        call = (
            caller.ask(place, rows, deadline_s) if deadline_s else caller.ask_on_stream(place, rows)
        )
        calls.append(asyncio.create_task(call))
        due_s = begun_s + len(calls) / RATE
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
    played.sent = len(calls)
    played.ended = list(await asyncio.gather(*calls))


async def _kill(neighbor: ModelServer) -> None:
    await asyncio.to_thread(neighbor.kill)
    await asyncio.sleep(DOWN_S)
    neighbor.start()


async def _restart(neighbor: ModelServer) -> None:
    await asyncio.to_thread(neighbor.terminate)
    neighbor.start()


async def _suspend(neighbor: ModelServer) -> None:
    neighbor.suspend()
    try:
        await asyncio.sleep(SUSPENDED_S)
    finally:
        neighbor.resume()


async def _slow(neighbor: ModelServer) -> None:
    neighbor.slow.write_text(str(SLOW_BATCH_S))
    try:
        await asyncio.sleep(SLOW_S)
    finally:
        neighbor.slow.unlink()


KINDS = ("kill", "suspend", "kill", "restart", "slow")
FAULTS: dict[str, Callable[[ModelServer], Awaitable[None]]] = {
    "kill": _kill,
    "suspend": _suspend,
    "restart": _restart,
    "slow": _slow,
}


def rounds(count: int, kinds: Sequence[str] = KINDS) -> Iterator[str]:
    """So many faults, the kinds in turns."""
    return itertools.islice(itertools.cycle(kinds), count)
