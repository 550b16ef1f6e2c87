"""What the requests of `outcomes` are like: each function changes some of one request by chance."""

from __future__ import annotations

import random
from typing import Final

from scripted import Fault, Request

from batcher.clock import MICROSECOND, MILLISECOND


def faulty(share: float, fault: Fault, draw: random.Random, request: Request) -> None:
    """So many requests fail."""
    if draw.random() < share:
        request.fault = fault


def prioritized(draw: random.Random, request: Request) -> None:
    """Four levels; some requests name none, or one that does not exist."""
    request.priority = draw.choice((0, 1, 2, 3, 4, 4, 4, 9))


def tenanted(draw: random.Random, request: Request) -> None:
    """Tenants with a share and without; `silver` sends most requests."""
    request.tenant = draw.choice(("", "gold", "silver", "silver", "silver", "unknown"))
    request.priority = draw.choice((1, 2, 2, 3))


SIZES: Final = (1, 1, 2, 3, 5, 8, 31, 32, 33, 100)
MEAN_ROWS: Final = sum(SIZES) / len(SIZES)


def rows(draw: random.Random, request: Request) -> None:
    """From one row to several batches."""
    request.rows = draw.choice(SIZES)
    request.priority = draw.choice((0, 1, 3))


def padded(split: bool, draw: random.Random, request: Request) -> None:
    """Lengths as sentences have them; with `split`, some requests have many rows."""
    request.length = min(300, max(2, round(draw.lognormvariate(3.2, 0.9))))
    request.fault = Fault.UNKNOWN if draw.random() < 0.002 else Fault.NONE
    if split:
        request.rows = draw.choice((1, 1, 2, 40))


def grouped(count: int, draw: random.Random, request: Request) -> None:
    """Half of the requests share a batch only with those of one of `count` keys."""
    if draw.random() < 0.5:
        request.key = f"k{draw.randrange(count)}"
    request.priority = draw.choice((1, 2, 2, 2, 3))


def limited(draw: random.Random, request: Request) -> None:
    """Callers that cancel, deadlines, limits of the time in the queue, targets of a request's own."""
    kind = draw.randrange(6)
    after_ns = draw.randrange(1_000, 120_000) * MICROSECOND
    if kind == 0:
        request.cancel_after_ns = after_ns
    elif kind == 1:
        request.deadline_after_ns = after_ns
    elif kind == 2:
        request.deadline_after_ns = request.cancel_after_ns = after_ns
    elif kind == 3:
        request.queue_after_ns = after_ns
    elif kind == 4:
        request.target_after_ns = after_ns


def bounded(draw: random.Random, request: Request) -> None:
    """Rows and bytes, some beyond what is accepted; a few requests are for a model that does not exist."""
    request.rows = draw.choice((1, 1, 2, 3, 40, 5_000) if draw.random() < 0.1 else (1, 2, 3))
    request.nbytes = draw.choice((10, 100, 400, 5_000))
    request.model = "m" if draw.random() < 0.98 else "unknown"
    request.queue_after_ns = draw.choice((None, 10 * MILLISECOND, 200 * MILLISECOND))
