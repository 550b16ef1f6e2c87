"""Requests of a run: when each arrives, its rows, model, tenant and priority level.

A `Workload` is a few numpy arrays with one entry per request, so that a million requests are cheap
and every policy can get the same ones. Events are made from it one by one, when they are due.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from batcher.core.events import Event, RequestArrived, Shapes
from batcher.errors import InputError
from batcher.simulation.traffic.arrivals import Times

Item = TypeVar("Item", int, str)

Progress: TypeAlias = Callable[[int], None]
"""Called with how many requests have arrived so far."""

_CHUNK = 4096


@dataclass(frozen=True, slots=True)
class Mix(Generic[Item]):
    """Values and the share of requests that has each; shares add up to 1."""

    values: tuple[Item, ...]
    shares: tuple[float, ...]

    @classmethod
    def of(cls, *weighted: tuple[Item, float]) -> Mix[Item]:
        """A mix of (value, weight) pairs; weights are above 0."""
        total = sum(weight for _, weight in weighted)
        return cls(tuple(v for v, _ in weighted), tuple(weight / total for _, weight in weighted))

    def draws(self, count: int, draw: np.random.Generator) -> NDArray[np.int64]:
        """Draws `count` indices of `values`."""
        if len(self.values) == 1:
            return np.zeros(count, np.int64)
        return draw.choice(len(self.values), count, p=self.shares)


def parse_mix(text: str) -> Mix[str]:
    """Read `gold=1,default=4`, or `gold` alone. Raises `InputError`."""
    pairs: dict[str, float] = {}
    for part in text.split(","):
        value, equals, weight = part.partition("=")
        try:
            share = float(weight) if equals else 1.0
        except ValueError:
            share = 0.0
        if not 0 < share < float("inf") or not value.strip() or value.strip() in pairs:
            raise InputError(f"got {text!r}; allowed: values and weights above 0, such as a=1,b=4")
        pairs[value.strip()] = share
    return Mix.of(*pairs.items())


def parse_whole_mix(text: str, *, least: int) -> Mix[int]:
    """The same of whole numbers: `1=8,4=2`. Raises `InputError`."""
    mix = parse_mix(text)
    if not all(v.isascii() and v.isdecimal() and int(v) >= least for v in mix.values):
        raise InputError(f"got {text!r}; allowed: whole numbers from {least} on, such as 1=8,4=2")
    values = tuple(int(v) for v in mix.values)
    if len(set(values)) < len(values):
        raise InputError(f"got {text!r}; allowed: each number once")
    return Mix(values, mix.shares)


@dataclass(frozen=True, slots=True)
class Kind:
    """What requests have in common apart from their rows."""

    model: str
    tenant: str
    priority: int


@dataclass(frozen=True, slots=True)
class Traffic:
    """The mixes that requests are drawn from, each independent of the others."""

    models: Mix[str]
    rows: Mix[int] = Mix((1,), (1.0,))
    tenants: Mix[str] = Mix(("",), (1.0,))
    priorities: Mix[int] = Mix((0,), (1.0,))
    lengths: Mix[int] | None = None
    """Lengths of the padded axis; None where nothing is padded."""

    @property
    def mean_rows(self) -> float:
        """Rows of a request, on average."""
        return sum(v * share for v, share in zip(self.rows.values, self.rows.shares, strict=True))

    def kinds(self) -> tuple[Kind, ...]:
        """Every combination of model, tenant and priority."""
        return tuple(
            Kind(*combination)
            for combination in product(
                self.models.values, self.tenants.values, self.priorities.values
            )
        )

    def draws(
        self, count: int, draw: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Draws rows and kinds (indices of `kinds()`) of `count` requests."""
        rows = np.array(self.rows.values, np.int64)[self.rows.draws(count, draw)]
        kinds = self.models.draws(count, draw)
        for mix in (self.tenants, self.priorities):
            kinds = kinds * len(mix.values) + mix.draws(count, draw)
        return rows, kinds


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests in order of arrival; request n is at index n of every array."""

    at_ns: Times
    rows: NDArray[np.int64]
    kind: NDArray[np.int64]
    kinds: Sequence[Kind]
    length: NDArray[np.int64] | None = None
    """Of the padded axis; None where nothing is padded."""

    @classmethod
    def of(cls, at_ns: Times, traffic: Traffic, draw: np.random.Generator) -> Workload:
        """Requests of this traffic at these times."""
        rows, kind = traffic.draws(len(at_ns), draw)
        lengths, length = traffic.lengths, None
        if lengths is not None:
            length = np.array(lengths.values, np.int64)[lengths.draws(len(at_ns), draw)]
        return cls(at_ns, rows, kind, traffic.kinds(), length)

    def __len__(self) -> int:
        return len(self.at_ns)

    def events(
        self, *, deadline_ns: int | None = None, progress: Progress | None = None
    ) -> Iterator[tuple[int, Event]]:
        """The arrivals, made one by one; each caller's deadline is `deadline_ns` after the arrival."""
        labels = [(kind.model, kind.tenant, kind.priority) for kind in self.kinds]
        for start in range(0, len(self), _CHUNK):
            stop = start + _CHUNK
            if progress is not None:
                progress(start)
            for request_id, (at_ns, rows, kind, shapes) in enumerate(
                zip(
                    self.at_ns[start:stop].tolist(),
                    self.rows[start:stop].tolist(),
                    self.kind[start:stop].tolist(),
                    self._shapes(start, stop),
                    strict=True,
                ),
                start,
            ):
                model, tenant, priority = labels[kind]
                yield (
                    at_ns,
                    RequestArrived(
                        request_id,
                        model,
                        rows,
                        0,
                        shapes,
                        "",
                        at_ns,
                        None,
                        None if deadline_ns is None else at_ns + deadline_ns,
                        priority,
                        tenant,
                    ),
                )
        if progress is not None:
            progress(len(self))

    def _shapes(self, start: int, stop: int) -> list[Shapes]:
        """The shapes of these requests: one input with one axis where a length is known."""
        if self.length is None:
            return [()] * (min(stop, len(self)) - start)
        return [((length,),) for length in self.length[start:stop].tolist()]
