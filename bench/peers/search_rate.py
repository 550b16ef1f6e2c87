"""Searches: the highest rate that holds, and the best of several settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

Holds = Callable[[float], Awaitable[bool]]
"""Whether a server holds a rate; may say either near its limit."""

Setting = TypeVar("Setting")

STEP = 1.2
"""From a guess on, the first rates tried are this factor apart: an interval this wide takes three
more rounds to be 3 % wide, and a guess is rarely further off."""


def _never() -> bool:
    return False


async def highest(
    holds: Holds,
    *,
    guess: float,
    least: float,
    most: float,
    tolerance: float = 0.03,
    stop: Callable[[], bool] = _never,
) -> float:
    """The highest rate that held, to `tolerance`; 0 where none from `least` on did.

    Once `stop` says so, no further rate is tried: what held by then is returned. Rates are tried from `guess` on upwards while they hold, or downwards until one does, by a
    factor that grows, and then between the highest that held and the lowest that did not.
    """
    low, high = 0.0, most * (1 + tolerance)
    rate, step = min(max(guess, least), most), STEP
    while not stop():
        if await holds(rate):
            low = rate
            if rate >= most:
                return low
            rate = min(rate * step, most)
        else:
            high = rate
            if rate <= least:
                return 0.0
            rate = max(rate / step, least)
        if low and high <= most:
            break
        step *= STEP
    while low and high / low > 1 + tolerance and not stop():
        middle = (low * high) ** 0.5
        if await holds(middle):
            low = middle
        else:
            high = middle
    return low


async def best(
    settings: Sequence[Setting],
    measure: Callable[[Setting, float], Awaitable[float]],
) -> tuple[Setting, float, list[float]]:
    """The setting with the highest rate, that rate, and what was found of each.

    `measure` gets a setting and the best rate so far, and returns the setting's own; it may return
    less than the truth as soon as it knows that the setting is no better.
    """
    if not settings:
        raise ValueError("no settings to choose from")
    found: list[float] = []
    for setting in settings:
        found.append(await measure(setting, max(found, default=0.0)))
    place = max(range(len(found)), key=found.__getitem__)
    return settings[place], found[place], found
