"""Hypothesis strategies for the events of a scheduler (needs `hypothesis`).

`timelines` makes whole sequences of events: run one with `batcher.simulation.Driver`, which completes the
batches. All sizes are small and all times a few milliseconds, so that bounds are hit, windows close
and deadlines pass within a few dozen events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from hypothesis import strategies as st

from batcher.clock import MILLISECOND, SECOND
from batcher.core.events import (
    CancelCause,
    DeviceConfigured,
    Event,
    InstanceDown,
    InstanceDraining,
    InstanceUp,
    ModelConfigured,
    Profile,
    RequestArrived,
    RequestCancelled,
    Shapes,
)
from batcher.core.settings import (
    Adaptive,
    FixedWindow,
    ModelSettings,
    NoBatching,
    PaddedAxis,
    PolicySettings,
    QueueLimits,
)

Timeline: TypeAlias = list[tuple[int, Event]]
"""`(at_ns, event)` pairs in order of time, as `Driver.run` takes them."""

MODELS = ("a", "b")
DEVICES = ("d", "e")
INSTANCES = ("i", "j", "k")
MAX_ROWS = 6


def milliseconds(low: int, high: int) -> st.SearchStrategy[int]:
    """A duration of `low` to `high` whole milliseconds, in nanoseconds."""
    return st.integers(low, high).map(lambda n: n * MILLISECOND)


@st.composite
def model_settings(draw: st.DrawFn) -> ModelSettings:
    """Settings of a model with tight limits, under a policy that predicts nothing."""
    max_batch_size = draw(st.integers(1, MAX_ROWS))
    preferred = st.lists(st.integers(1, max_batch_size), max_size=2, unique=True).map(tuple)
    policy = draw(
        st.one_of(
            st.builds(FixedWindow, milliseconds(0, 4), preferred),
            st.just(NoBatching()),
        )
    )
    limits = QueueLimits(
        max_requests=draw(st.integers(1, 8)),
        max_batches_per_request=draw(st.sampled_from((1, 2, 6))),
        max_rows=draw(st.none() | st.integers(1, 12)),
        max_bytes=draw(st.none() | st.integers(1, 12)),
        timeout_ns=draw(st.none() | milliseconds(1, 8)),
    )
    return ModelSettings(max_batch_size, policy, limits, draw(st.none() | milliseconds(1, 8)))


_POLICIES: tuple[PolicySettings, ...] = (
    NoBatching(),
    FixedWindow(),
    FixedWindow(2 * MILLISECOND),
    Adaptive(),
    Adaptive(0.3),
    Adaptive(late_share=0.5),
    Adaptive(1.0, late_share=0.0),
)
"""`limit_ns` is drawn beside the target."""

_LEVELS = ((3, 2, 100), (1, 1, 1000), (3, 1, 5))
"""Priority levels, the default one, and `promote_after` in milliseconds."""

_BOUNDS = ((100, None, None), (100, None, None), (3, None, None), (100, 12, None), (100, None, 12))
"""Requests, rows and bytes that may wait."""

_TARGETS = (None, *(ms * MILLISECOND for ms in (20, 50, 20, 3, 1000)))

_PADDING = ((), (PaddedAxis(0, 1, (8,)),), (PaddedAxis(0, 1, (4, 8)),))

_BATCH_SIZES = ((), (), (1, 2, 4, 8), (3, 4), (8,))
"""Mostly, any size; a size may be beyond the largest batch."""

TENANTS = ("", "gold", "x")
"""No tenant, one that some settings name, and one that no settings name."""


@st.composite
def any_model_settings(draw: st.DrawFn) -> ModelSettings:
    """Settings of a model under any policy: each value is one of few, so that failures shrink."""
    requests, rows, nbytes = draw(st.sampled_from(_BOUNDS))
    levels, default, promote_after_ms = draw(st.sampled_from(_LEVELS))
    limits = QueueLimits(
        max_requests=requests,
        max_groups=draw(st.sampled_from((256, 256, 2))),
        max_batches_per_request=draw(st.sampled_from((3, 3, 1))),
        max_rows=rows,
        max_bytes=nbytes,
        timeout_ns=draw(st.sampled_from((None, None, 6 * MILLISECOND, 100 * MILLISECOND))),
        priority_levels=levels,
        default_priority=default,
        promote_after_ns=promote_after_ms * MILLISECOND,
        tenants=draw(st.sampled_from(((), (("default", 1.0), ("gold", 4.0))))),
    )
    policy, target_ns = draw(st.sampled_from(_POLICIES)), draw(st.sampled_from(_TARGETS))
    if isinstance(policy, Adaptive):
        policy = replace(policy, limit_ns=draw(st.sampled_from((None, target_ns, SECOND))))
    return ModelSettings(
        draw(st.sampled_from((8, 8, 4, 1))),
        policy,
        limits,
        target_ns,
        draw(st.sampled_from(_PADDING)),
        idempotent=draw(st.booleans()),
        batch_sizes=draw(st.sampled_from(_BATCH_SIZES)),
    )


profiles: st.SearchStrategy[Profile] = st.sampled_from(
    [
        (),
        *(
            tuple((rows, ms * MILLISECOND) for rows, ms in profile)
            for profile in (
                ((1, 3), (8, 10)),
                ((1, 2),),
                ((1, 2), (4, 2), (8, 20)),
                ((1, 6), (2, 10), (8, 11)),
                ((1, 300), (8, 400)),
            )
        ),
    ]
)
"""Service times by rows: none, linear, of one size, convex, concave, and very slow."""

shapes: st.SearchStrategy[Shapes] = st.sampled_from([(), ((4,),), ((5,),)])
"""Variable axes: few, so that requests share batch groups."""

batch_keys: st.SearchStrategy[str] = st.sampled_from(["", "k"])
"""Batch keys: few, so that requests share batch groups."""


@st.composite
def requests(
    draw: st.DrawFn, request_id: int, now_ns: int, models: Sequence[str] = MODELS
) -> RequestArrived:
    """A request that arrives at `now_ns`; it may be too large, or expired already."""
    return RequestArrived(
        request_id,
        draw(st.sampled_from(models)),
        rows=draw(st.integers(1, MAX_ROWS)),
        nbytes=draw(st.integers(0, 4)),
        shapes=draw(shapes),
        batch_key=draw(batch_keys),
        arrival_ns=now_ns,
        due_ns=draw(st.none() | milliseconds(0, 8).map(now_ns.__add__)),
        deadline_ns=draw(st.none() | milliseconds(0, 8).map(now_ns.__add__)),
    )


@st.composite
def timelines(draw: st.DrawFn, max_events: int = 40) -> Timeline:
    """Two models on shared devices, then requests, cancels, and instances that come and go."""
    timeline: Timeline = [(0, ModelConfigured(model, draw(model_settings()))) for model in MODELS]
    timeline.append((0, DeviceConfigured(DEVICES[0], draw(st.none() | st.integers(1, 2)))))
    incarnations = dict.fromkeys(INSTANCES, 0)
    for instance in INSTANCES:
        timeline.append((0, draw(_up(instance, incarnations))))
    now_ns = request_id = 0
    for _ in range(draw(st.integers(1, max_events))):
        now_ns += draw(milliseconds(0, 3))
        kind = draw(st.sampled_from("rrrrrrrrccim"))
        event: Event
        if kind == "r":
            request_id += 1
            event = draw(requests(request_id, now_ns))
        elif kind == "c":
            cause = draw(st.sampled_from(CancelCause))
            event = RequestCancelled(max(1, request_id - draw(st.integers(0, 5))), cause)
        elif kind == "i":
            event = draw(_change(draw(st.sampled_from(INSTANCES)), incarnations))
        else:
            event = ModelConfigured(draw(st.sampled_from(MODELS)), draw(model_settings()))
        timeline.append((now_ns, event))
    return timeline


@st.composite
def _up(draw: st.DrawFn, instance: str, incarnations: dict[str, int]) -> InstanceUp:
    incarnations[instance] += 1
    return InstanceUp(
        instance,
        incarnations[instance],
        draw(st.sampled_from(MODELS)),
        draw(st.sampled_from(DEVICES)),
        draw(st.integers(1, 2)),
    )


@st.composite
def _change(draw: st.DrawFn, instance: str, incarnations: dict[str, int]) -> Event:
    incarnation = incarnations[instance]
    match draw(st.sampled_from(("up", "down", "draining"))):
        case "up":
            return draw(_up(instance, incarnations))
        case "down":
            return InstanceDown(instance, incarnation)
        case _:
            return InstanceDraining(instance, incarnation)
