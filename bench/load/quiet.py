"""Whether the machine let a run be judged.

A load that was sent late is not the load that was planned: requests came at other moments, while
latencies count from the planned ones. And with a core that is slow most of the time (`spells`), too
few requests are undisturbed. Both are judged by when requests were *sent* and by a probe, never by
the answers, so that no run is repeated because its result looks bad.
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from typing import Any

LATE_MS = 5.0
"""A load that was sent later than this, at the percentile that counts, is not judged."""

LEAST_CALM = 0.1
"""The least share of requests that no slow spell of a core has touched."""


def options() -> argparse.ArgumentParser:
    """A parent of commands whose runs may be repeated."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument(
        "--repeats",
        type=int,
        default=3,
        help="play a run that the machine disturbed again, on the same arrivals, so often at most",
    )
    return parent


def not_judged(run: dict[str, Any], percentile: str = "p99") -> str:
    """Why a run is not judged, from its `calm_share` and `sent_late_ms`; empty where it can be."""
    calm = run.get("calm_share", 1.0)
    if calm < LEAST_CALM:
        return (
            f"not judged: a core was slow too often ({calm:.0%} of the requests saw nothing of it)"
        )
    late_ms = run["sent_late_ms"][percentile]
    if late_ms <= LATE_MS:
        return ""
    return f"not judged: the load was sent late ({percentile} {late_ms:.1f} ms)"


async def until_quiet(
    play: Callable[[], Awaitable[dict[str, Any]]], repeats: int, percentile: str = "p99"
) -> list[dict[str, Any]]:
    """Play a run, and again while it cannot be judged; all of them, of which the last counts."""
    runs = [await play()]
    while (why := not_judged(runs[-1], percentile)) and len(runs) <= repeats:
        print(f"  {why}{_stolen(runs[-1])}; repeat {len(runs)} of {repeats}", flush=True)
        runs.append(await play())
    if why:
        print(f"  {why}{_stolen(runs[-1])}", flush=True)
    return runs


def _stolen(run: dict[str, Any]) -> str:
    """What the host took of the cores meanwhile, where that is known."""
    shares = run.get("steal", {})
    return "".join(f", {share:.1%} of the {name}'s core stolen" for name, share in shares.items())
