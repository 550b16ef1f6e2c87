"""Asks a model's policy about a batch group, and checks its answer.

A policy is code that may come from elsewhere. Where it raises, or answers what is not possible, its
model falls back to greedy batches, and the group is asked again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import inf
from operator import index
from typing import assert_never

from batcher.core.batching.cutting import cut, filling
from batcher.core.batching.proposal import Proposal
from batcher.core.devices.instances import Instance
from batcher.core.model import Model
from batcher.core.policies import Choose, PolicyInput, Take, Wait
from batcher.core.queueing.batch_groups import BatchGroup
from batcher.core.queueing.request import LiveRequest
from batcher.core.requests.splitting import fill
from batcher.core.times import NEVER_NS, TIMER_NS

NO_REQUESTS: tuple[LiveRequest, ...] = ()


@dataclass(slots=True)
class Answers:
    """What policies gave up, by model, and when one wants to be asked again."""

    ask_again_ns: int | None = None
    given_up: list[tuple[Model, Sequence[LiveRequest]]] = field(default_factory=list)


def ask(
    model: Model,
    instance: Instance,
    group: BatchGroup,
    given: PolicyInput,
    answers: Answers,
    most_rows: int | None = None,
) -> Proposal | None:
    """Returns the batch of a group that its policy wants now, if any; adds the rest to `answers`.

    `most_rows` are the most that it should have while requests fail.
    """
    try:
        take, rows, drop, until_ns = _decide(model, group, given)
    except Exception as exc:  # noqa: BLE001 - whatever a policy does, no request may hang
        model.policy_raised(exc)
        take, rows, drop, until_ns = _decide(model, group, given)
    if drop:
        answers.given_up.append((model, drop))
    if until_ns is not None and until_ns < NEVER_NS:
        # A moment in the past is asked for again a little later: else the policy would spin.
        until_ns = until_ns if until_ns > given.now_ns else given.now_ns + TIMER_NS
        again_ns = answers.ask_again_ns
        answers.ask_again_ns = until_ns if again_ns is None else min(again_ns, until_ns)
    if not take:
        return None
    filled = None
    if given.times.batch_sizes is not None:
        take, rows = cut(take, rows, given.times, most_rows)
    if model.queue.splits and rows < given.times.max_rows:
        filled = _fill(model, group, take, drop, rows, given)
        if filled is not None:
            rows += filled[1]
    curve = given.times.curve
    return Proposal(
        model,
        instance,
        group,
        group.key[1],
        take,
        rows,
        curve[rows] if curve else 0.0,
        given.now_ns,
        filled,
        longest_ns=given.longest_ns,
    )


def _fill(
    model: Model,
    group: BatchGroup,
    take: Sequence[LiveRequest],
    drop: Sequence[LiveRequest],
    rows: int,
    given: PolicyInput,
) -> tuple[LiveRequest, int] | None:
    """Returns the split request whose rows fill the batch up, and how many of them."""
    found = fill(group, take, drop, rows, model, given)
    if found is None:
        return None
    room = filling(rows, found[1], given.times)
    return (found[0], room) if room else None


def expected_rate(model: Model, now_ns: int) -> float:
    """Returns the rows per nanosecond that a model's policy expects; 0.0 where the policy fails."""
    try:
        rate = float(model.policy.expected_rate(now_ns))
    except Exception as exc:  # noqa: BLE001 - a policy's own code; the model goes on without it
        model.policy_raised(exc)
        return 0.0
    if 0.0 <= rate < inf:
        return rate
    model.policy_raised(ValueError(f"expects {rate} rows a nanosecond"))
    return 0.0


def _decide(
    model: Model, group: BatchGroup, given: PolicyInput
) -> tuple[Sequence[LiveRequest], int, Sequence[LiveRequest], int | None]:
    """Returns what the policy takes, its rows, what it gives up, and when to ask again.

    Raises what the policy raises, and `ValueError` or `TypeError` for an answer that is not possible.
    """
    decision = model.policy.decide(group, given)
    if isinstance(decision, Take):
        count, drop = index(decision.count), index(decision.drop)
        if count < 1 or drop < 0 or drop + count > len(group):
            raise ValueError(f"took {count} behind {drop} of {len(group)} waiting requests")
        chosen = _first_of(group, drop + count)
        take = chosen[drop:] if drop else chosen
        return take, _rows(take, given), chosen[:drop], None
    if isinstance(decision, Wait):
        if not 0 <= decision.drop <= len(group):
            raise ValueError(f"gave up {decision.drop} of {len(group)} waiting requests")
        return NO_REQUESTS, 0, _first_of(group, decision.drop), index(decision.until_ns)
    if isinstance(decision, Choose):
        choice = Choose(
            tuple(decision.take),
            tuple(decision.drop),
            None if decision.until_ns is None else index(decision.until_ns),
        )
        _check_choice(group, choice)
        return choice.take, _rows(choice.take, given), choice.drop, choice.until_ns
    assert_never(decision)


def _rows(take: Sequence[LiveRequest], given: PolicyInput) -> int:
    rows = sum([request.rows for request in take])
    most = given.times.max_rows
    if rows > most:
        raise ValueError(f"took {rows} rows for a batch of at most {most}")
    return rows


def _first_of(group: BatchGroup, count: int) -> Sequence[LiveRequest]:
    first = group.classes[0].requests
    return first[:count] if len(first) >= count else list(islice(group, count))


def _check_choice(group: BatchGroup, choice: Choose) -> None:
    named = {*choice.take, *choice.drop}
    if len(named) != len(choice.take) + len(choice.drop):
        raise ValueError("named a request twice")
    for each in group.classes:
        if not named:
            break
        named = named.difference(each.requests)
    if named:
        raise ValueError("named a request that does not wait in this group")
    if not choice.take and choice.until_ns is None and len(choice.drop) < len(group):
        raise ValueError("took nothing, and did not say when to ask again")
