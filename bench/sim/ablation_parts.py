"""What `ablation` changes: heuristics, each switched off by a patch, and constants, each in its scenes.

A heuristic's patch puts something simpler in its place, from outside: the core has no switches. Which
scenes a constant is for follows from its file, or where that is not enough from its name.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import batcher.core

CORE: Final = Path(batcher.core.__file__).parent
FACTORS: Final = (0.7, 1.4)

SCENES_OF: Final[dict[str, tuple[str, ...]]] = {
    "batching/filling": ("padded",),
    "batching/late_entitlement": ("late", "levels"),
    "late": ("late", "levels"),
    "handlers/dispatch": ("late", "levels"),
    "batching/selection": ("groups", "models"),
    "bucket_times": ("padded", "noise"),
    "devices/prefetch": ("gaps",),
    "devices/sharing": ("models",),
    "faults/batch_cap": ("poison",),
    "faults/bisection": ("poison", "failing"),
    "policies/adaptive": ("stream", "instances", "levels", "late", "replies"),
    "policies/arrivals": ("idle", "closed", "stream", "levels", "late"),
    "policies/backlog": ("stream", "instances"),
    "policies/fixed": ("fixed",),
    "policies/waiting": ("idle", "closed"),
    "queueing/ranks": ("levels", "late"),
    "queueing/tenants": ("tenants",),
    "requests/promotion": ("levels", "late"),
    "requests/splitting": ("oversized",),
    "service_time/curve": ("noise",),
    "service_time/drift": ("noise",),
    "service_time/estimator": ("noise", "stream"),
    "service_time/handling": ("replies", "noise"),
    "service_time/outliers": ("noise",),
    "service_time/recent": ("replies", "noise"),
    "times": ("models", "tenants", "noise", "failing"),
}
"""By file of the core, without `.py`: the scenes that its constants were made for."""

FIXED: Final[dict[str, str]] = {
    "bucket_times.MOST_SHAPES": "a bound of memory",
    "scale/offered.SLOT_NS": "no decision depends on it: bench/sim scale measures it",
    "scale/offered.SLOTS": "no decision depends on it: bench/sim scale measures it",
    "scale/offered.USUAL_SLOTS": "no decision depends on it: bench/sim scale measures it",
    "scale/offered.SLOT_REQUESTS": "no decision depends on it: it says how uncertain the scale signal is",
    "scale/offered.LONGEST_SLOT_NS": "a bound of the time that a mean is taken over",
    "scale/offered.MOST_BUCKETS": "a bound of memory",
    "loads.MOST_FLOWS": "a bound of processor time",
    "loads.SECOND_NS": "a unit",
    "scale/arrivals.LATE_PART": "no decision depends on it: bench/sim scale measures it",
    "scale/arrivals.BINS": "no decision depends on it: bench/sim scale measures it",
    "scale/arrivals.FULL": "no decision depends on it: bench/sim scale measures it",
    "scale/arrivals.PRIOR": "no decision depends on it: bench/sim scale measures it",
    "scale/arrivals.FOLD_NS": "no decision depends on it: bench/sim scale measures it",
    "scale/arrivals.LEAST": "no decision depends on it: bench/sim scale measures it",
    "scale/arrivals.EXACT": "a bound of processor time",
    "scale/arrivals.STEADY": "no decision depends on it: bench/sim scale measures it",
    "scale/arrivals.BURST": "no decision depends on it: bench/sim scale measures it",
    "scale/arrivals.PAUSE": "no decision depends on it: bench/sim scale measures it",
    "scale/arrivals.MOST": "a bound of memory",
    "scale/capacity.STEPS": "no decision depends on it: how exactly a rate is found",
    "scale/capacity.SPAN": "no decision depends on it: where a rate is looked for",
    "faults/memory_ceiling.MOST_HOLD_NS": "a bound of the device's time for tries, by arithmetic",
    "handlers/requests.NEAR_NS": "a bound of processor time",
    "history.KEPT_STEPS": "a bound of memory",
    "history.LONGEST_LINE": "a bound of memory",
    "queueing/padding.MOST_KNOWN": "a bound of memory",
    "queueing/ranks.LATE": "a name of a rank",
    "requests/refusals.QUEUE_FULL_RETRY_NS": "protocol: what a refusal tells its caller",
    "times.TIMER_NS": "the resolution of timers",
    "times.NEVER_NS": "a name of a time",
    "times.TOLERANCE_NS": "the precision of floats",
}
"""Constants that are no choice of a policy, and why; `FILE.NAME`."""


@dataclass(frozen=True)
class Part:
    """A heuristic, or a constant at a factor of its value."""

    name: str
    scenes: tuple[str, ...]
    without: Callable[[], Any]
    """A context in which it is off."""


@dataclass(frozen=True)
class Constant:
    """A number, or several, that a file of the core gives a name to."""

    file: str
    name: str

    @property
    def label(self) -> str:
        """`FILE.NAME`."""
        return f"{self.file}.{self.name}"

    @property
    def scenes(self) -> tuple[str, ...]:
        """The scenes that it was made for."""
        return SCENES_OF.get(self.file, ())


def constants() -> list[Constant]:
    """Every number of the core that has a name: read from its files, so that none is left out."""
    found: list[Constant] = []
    for path in sorted(CORE.rglob("*.py")):
        file = path.relative_to(CORE).with_suffix("").as_posix()
        for node in ast.parse(path.read_text()).body:
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    named = [(name, value)]
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    named = [(name, value)]
                case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
                    named = [
                        (each.id, value)
                        for each, value in zip(names, values, strict=True)
                        if isinstance(each, ast.Name)
                    ]
                case _:
                    continue
            found += [Constant(file, name) for name, value in named if _is_number(name, value)]
    return found


def _is_number(name: str, value: ast.expr) -> bool:
    if name.strip("_") != name.strip("_").upper():
        return False
    try:
        numbers = ast.literal_eval(value)
    except ValueError:
        return isinstance(value, ast.BinOp)
    numbers = numbers if isinstance(numbers, tuple) else (numbers,)
    return bool(numbers) and all(type(number) in (int, float) for number in numbers)


@contextmanager
def patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Inside, `owner` has another attribute, and so have the modules that imported it by name."""
    original = getattr(owner, name)
    places = [owner]
    if isinstance(owner, ModuleType):
        places += [
            module
            for key, module in sys.modules.items()
            if key.startswith("batcher.core.")
            and module is not owner
            and module.__dict__.get(name) is original
        ]
    for place in places:
        setattr(place, name, value)
    try:
        yield
    finally:
        for place in places:
            setattr(place, name, original)


@contextmanager
def scaled(constant: Constant, factor: float) -> Iterator[None]:
    """Inside, a constant is so much larger; whole numbers stay whole, and change by one at least."""
    module = importlib.import_module(f"batcher.core.{constant.file.replace('/', '.')}")
    value = getattr(module, constant.name)

    def times(number: float) -> float:
        if isinstance(number, float):
            return number * factor
        rounded = round(number * factor)
        return rounded if rounded != number else number + (1 if factor > 1.0 else -1)

    changed = tuple(map(times, value)) if isinstance(value, tuple) else times(value)
    with patched(module, constant.name, changed):
        yield


def scaled_constants(among: list[Constant]) -> list[Part]:
    """Each constant, a part for each factor."""
    return [
        Part(f"{each.label} x {factor}", each.scenes, partial(scaled, each, factor))
        for each in among
        if each.label not in FIXED
        for factor in FACTORS
    ]


def off(path: str, value: Any) -> Callable[[], Any]:
    """A context in which `MODULE.NAME` or `MODULE:CLASS.NAME`, below `batcher.core`, is something else."""

    def context() -> Any:
        where, _, name = path.rpartition(".")
        module, _, cls = where.partition(":")
        owner: Any = importlib.import_module(f"batcher.core.{module}")
        return patched(getattr(owner, cls) if cls else owner, name, value)

    return context
