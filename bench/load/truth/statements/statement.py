"""What is said of a family: how its values follow from what is known outside, in every scene."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, TypeAlias

from truth.prometheus import Labels
from truth.world import SECOND, Scrape, Span, World

Check: TypeAlias = Callable[[World], Iterable[str]]
"""Yields what is untrue."""

AGE_SLACK_S: Final = 0.05
"""Ages are right within this."""
RATIO: Final = 0.05
"""Ratios, and sums of times, are right within this share."""

STATEMENTS: dict[str, Check] = {}
"""By the name of the family."""


def of(*families: str) -> Callable[[Check], Check]:
    """Make a function the statement on these families."""

    def noted(check: Check) -> Check:
        for family in families:
            if family in STATEMENTS:
                raise ValueError(f"two statements on {family}")
            STATEMENTS[family] = check
        return check

    return noted


def untruths(world: World, families: Iterable[str]) -> dict[str, list[str]]:
    """What is untrue, by family. A family without a statement is untrue by itself."""
    found: dict[str, list[str]] = {}
    for family in families:
        check = STATEMENTS.get(family)
        wrong = ["there is no statement on it"] if check is None else list(check(world))
        if wrong:
            found[family] = wrong
    return found


def when(world: World, scrape: Scrape) -> str:
    """A scrape as a message names it."""
    return f"+{(scrape.begin_ns - world.facts['began_ns']) / SECOND:.2f} s"


def every(
    world: World,
    name: str,
    truth: Span | Callable[[Scrape], Span],
    *,
    ratio: float = 0.0,
    slack: float = 0.0,
    **labels: str,
) -> Iterator[str]:
    """What one series says at each scrape beside the truth of that moment."""
    seen = False
    for scrape, value in world.pairs(name, **labels):
        seen, true = True, truth if isinstance(truth, Span) else truth(scrape)
        if not true.holds(value, ratio, slack):
            yield f"{when(world, scrape)} {labels or ''}: {value:g}, and {true} is true"
    if not seen:
        yield f"{labels or ''}: it was never there"


def at_the_end(
    world: World, name: str, truth: Span, *, ratio: float = 0.0, slack: float = 0.0, **labels: str
) -> Iterator[str]:
    """What one series says at the last scrape beside the truth."""
    value = world.last(name, **labels)
    if value is None:
        yield f"{labels or ''}: it is not there at the end"
    elif not truth.holds(value, ratio, slack):
        yield f"at the end {labels or ''}: {value:g}, and {truth} is true"


def constant(family: str, value: float, *, sample: str = "") -> None:
    """State that every series of a family is that all the time, unless the scene expects another.

    What a scene expects of a counter at its end is in `world.facts["expect"]`: the name of the samples
    -> for some labels, the value; every other series keeps `value`.
    """
    name = sample or family

    def check(world: World) -> Iterator[str]:
        expected: Mapping[Labels, float] = world.facts.get("expect", {}).get(name, {})
        series = world.series.get(name, {})
        if not series:
            yield "it was never there"
        for labels, samples in series.items():
            changed = next((v for want, v in expected.items() if want <= labels), None)
            if changed is None:
                wrong = {each.value for each in samples} - {value}
                if wrong:
                    yield f"{dict(labels)}: {sorted(wrong)}, and {value:g} is true"
            elif samples[-1].value != changed:
                yield f"{dict(labels)}: {samples[-1].value:g} at the end, and {changed:g} is true"
        yield from (
            f"{dict(want)}: no such series, and {v:g} is true"
            for want, v in expected.items()
            if not any(want <= labels for labels in series)
        )

    STATEMENTS[family] = check


def absent(*families: str, unless: Callable[[World], bool] = lambda _: False) -> None:
    """State that families have no samples: nothing in the scene is what they are about."""

    def check(family: str) -> Check:
        def checked(world: World) -> Iterator[str]:
            samples = [n for n in world.series if n.startswith(family)]
            if samples and not unless(world):
                yield f"{samples}: there is nothing of it in this scene"

        return checked

    for family in families:
        STATEMENTS[family] = check(family)
