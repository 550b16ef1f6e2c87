"""The scenes of `outcomes` whose devices run batches of certain sizes only."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import outcome_incidents as incidents
import varied
from outcome_parts import FEW, PADDING, POLICIES, REFUSING, SERVING, Named, ms
from scripted import Fault, Scene, one_model

from batcher.clock import MICROSECOND
from batcher.core.settings import ModelSettings, PolicySettings

DOUBLING: Final = (1, 2, 4, 8, 16, 32)
APART: Final = (3, 5, 24, 32)
"""Sizes so uneven that some are better cut back to and others filled up to."""

FULL: Final = (32,)


def sizes() -> Named:
    """Each policy with one row or many, failures, and what a few of them meet."""
    kinds: dict[str, dict[str, Any]] = {
        "one row": {},
        "many rows": {"vary": varied.rows, "rows": varied.MEAN_ROWS, "count": 500},
        "failing": {"vary": partial(varied.faulty, 0.02, Fault.UNKNOWN)},
    }
    for policy, settings in POLICIES.items():
        for kind, how in kinds.items():
            for load, allowed in ((0.7, DOUBLING), (1.5, APART)):
                name = f"{policy}, {load}, {kind}, {_named(allowed)}"
                yield name, partial(one_model, name, settings, load, sizes=allowed, **how)
    shells: dict[str, dict[str, Any]] = {
        "full": {"sizes": FULL},
        "no target": {"sizes": APART, "target": False},
        "cold": {"sizes": DOUBLING, "cold": True, "noise": 0.1},
        "prefetched": {"sizes": APART, "gap_ns": 400 * MICROSECOND},
        "pipelined": {"sizes": DOUBLING, "copy_ns": ms(10), "noise": 0.05},
        "padded": {"sizes": DOUBLING, "padding": PADDING, "vary": partial(varied.padded, True)},
        "no memory": {"sizes": APART, "room_rows": 6},
    }
    for policy, settings in FEW.items():
        for kind, how in shells.items():
            name = f"{policy}, {kind}"
            yield name, partial(one_model, name, settings, 0.8, **how)
        name = f"{policy}, two lost"
        make = partial(one_model, name, settings, 0.9, sizes=DOUBLING, instances=2)
        yield name, partial(incidents.lost, make, 2, 1)
        name = f"{policy}, changing"
        yield name, partial(_changing, name, settings)


def _named(allowed: tuple[int, ...]) -> str:
    return " ".join(map(str, allowed))


def _changing(name: str, policy: PolicySettings) -> Scene:
    """The most rows change among the sizes while requests of many rows wait, and other policies come."""
    scene = one_model(
        name, policy, 1.2, varied.rows, rows=varied.MEAN_ROWS, count=400, sizes=DOUBLING
    )
    for place, (most, changed) in enumerate(
        ((8, policy), (1, policy), (32, SERVING), (4, REFUSING), (16, policy)), 1
    ):
        allowed = tuple(size for size in DOUBLING if size <= most)
        settings = ModelSettings(most, changed, target_ns=ms(50), batch_sizes=allowed)
        scene.configure(place * ms(300), settings)
    return scene
