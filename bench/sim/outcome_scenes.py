"""The scenes of `outcomes`, each a function that makes it anew."""

from __future__ import annotations

import random
from functools import partial
from itertools import product
from typing import Any

import outcome_incidents as incidents
import outcome_sizes
import varied
import world
from outcome_parts import FEW, LOADS, PADDING, POLICIES, SERVING, Make, Named, ms
from scripted import PROFILE, Fault, Request, Scene, bursts, one_model, poisson

from batcher.clock import MICROSECOND, SECOND
from batcher.core.settings import (
    Adaptive,
    ModelSettings,
    PolicySettings,
    QueueLimits,
)
from batcher.simulation.engine.service_time import linear


def scenes() -> dict[str, Make]:
    """Every scene, by its name."""
    families = (
        *(grid, bursty, uneven, closed, shells),
        *(incidents.faults, incidents.outages, incidents.instances),
        *(priorities, tenants, large, padded, groups, shared_device, prefetch, pipelined),
        *(incidents.settings, deadlines, limits, incidents.mixed),
        outcome_sizes.sizes,
    )
    return {f"{each.__name__}: {name}": make for each in families for name, make in each()}


def grid() -> Named:
    """Every policy on four devices at three loads, with a target and without."""
    for (policy, settings), (device, profile), load, target in product(
        POLICIES.items(), world.PROFILES.items(), LOADS, (True, False)
    ):
        aims = "target" if target else "no target"
        name = f"{policy}, {device}, {load}, {aims}"
        yield name, partial(one_model, name, settings, load, profile=profile, target=target)


def bursty() -> Named:
    """Arrivals whose rate changes, and a device that is idle most of the time."""
    for (policy, settings), (device, profile), load in product(
        FEW.items(), world.PROFILES.items(), (0.1, 0.7)
    ):
        name = f"{policy}, {device}, {load}"
        yield name, partial(one_model, name, settings, load, profile=profile, arrivals=bursts)
    for share in (0.3, 1.0):
        name = f"adaptive, to {share:.0%} busy"
        yield name, partial(one_model, name, Adaptive(share), 0.6, arrivals=bursts)


def uneven() -> Named:
    """Random service times, a slow spell, and starts without a warm-up."""
    slow = ((SECOND, 2 * SECOND, 6.0), (5 * SECOND, 6 * SECOND, 1.3))
    for (policy, settings), load, cold in product(FEW.items(), LOADS, (True, False)):
        name = f"{policy}, {load}, {'cold' if cold else 'warm'}"
        yield name, partial(one_model, name, settings, load, cold=cold, noise=0.2)
        yield (
            f"{name}, slow",
            partial(one_model, name, settings, load, cold=cold, slow=slow, count=3_000),
        )


def closed() -> Named:
    """Callers that wait for their answers, which are sent at once or one after the other."""
    for (policy, settings), callers, think_ms, reply_us in product(
        POLICIES.items(), (1, 5, 16, 80), (0, 15), (0, 60)
    ):
        name = f"{policy}, {callers} callers that think for {think_ms} ms, {reply_us} us"
        yield (
            name,
            partial(
                one_model,
                name,
                settings,
                1.0,
                callers=callers,
                think_ns=ms(think_ms),
                reply_ns=reply_us * MICROSECOND,
            ),
        )


def shells() -> Named:
    """Late timers, answers that take time to send, a server that pauses, reports in parts."""
    kinds: dict[str, dict[str, Any]] = {
        "late timers": {"late_ns": ms(1)},
        "slow answers": {"reply_ns": 40 * MICROSECOND},
        "pauses": {"pauses": ((ms(300), ms(420)), (ms(900), ms(915)))},
        "reports in parts": {"in_parts": True},
    }
    for (policy, settings), (kind, shell), load in product(FEW.items(), kinds.items(), LOADS):
        name = f"{policy}, {kind}, {load}"
        yield name, partial(one_model, name, settings, load, **shell)


def priorities() -> Named:
    """Four levels, with aging that is short and that never comes."""
    for (policy, settings), load, target, (label, limits) in product(
        POLICIES.items(),
        LOADS,
        (True, False),
        {
            "aging in 60 ms": QueueLimits(
                priority_levels=4, default_priority=3, promote_after_ns=ms(60)
            ),
            "aging in 1 h": QueueLimits(
                priority_levels=4, default_priority=2, promote_after_ns=3600 * SECOND
            ),
        }.items(),
    ):
        name = f"{policy}, {load}, {'target' if target else 'no target'}, {label}"
        yield (
            name,
            partial(
                one_model,
                name,
                settings,
                load,
                varied.prioritized,
                target=target,
                limits=limits,
                count=1_500,
            ),
        )


def tenants() -> Named:
    """Weighted shares: one tenant asks for more than its share, one is not configured."""
    shares = (("default", 1.0), ("gold", 4.0), ("silver", 2.0))
    short = QueueLimits(tenants=shares, max_requests=60, promote_after_ns=ms(80))
    for (policy, settings), load, (label, limits) in product(
        POLICIES.items(),
        LOADS,
        {"long queue": QueueLimits(tenants=shares), "short queue": short}.items(),
    ):
        name = f"{policy}, {load}, {label}"
        yield name, partial(one_model, name, settings, load, varied.tenanted, limits=limits)


def large() -> Named:
    """Requests of many rows, some of which fit no batch and are split."""
    for (policy, settings), load, target, count in product(
        POLICIES.items(), LOADS, (True, False), (1, 3)
    ):
        name = f"{policy}, {load}, {'target' if target else 'no target'}, {count} instances"
        yield (
            name,
            partial(
                one_model,
                name,
                settings,
                load,
                varied.rows,
                target=target,
                instances=count,
                rows=varied.MEAN_ROWS,
                count=500,
            ),
        )


def padded() -> Named:
    """Requests of mixed length in three buckets; some are longer than all of them."""
    for (policy, settings), load, target, split in product(
        POLICIES.items(), LOADS, (True, False), (False, True)
    ):
        name = f"{policy}, {load}, {'target' if target else 'no target'}"
        name += ", some large" if split else ""
        yield (
            name,
            partial(
                one_model,
                name,
                settings,
                2 * load,
                partial(varied.padded, split),
                target=target,
                padding=PADDING,
                rows=11.0 if split else 1.0,
                cold=load == 0.5,
            ),
        )


def groups() -> Named:
    """Batch groups: two beside the others, eight, and as many as requests."""
    for (policy, settings), load, count in product(POLICIES.items(), (0.3, 0.9), (2, 8, 10**6)):
        name = f"{policy}, {load}, {count} groups"
        few = QueueLimits(max_groups=20, promote_after_ns=ms(200))
        limits = few if load > 0.5 else None
        vary = partial(varied.grouped, count)
        yield name, partial(one_model, name, settings, load, vary, limits=limits)
        yield (
            f"{name}, no target",
            partial(one_model, name, settings, load, vary, target=False, limits=limits),
        )


def shared_device() -> Named:
    """Two models on one device, one batch at a time or two that slow each other down."""
    for (policy, settings), load, limit, gap_us in product(
        FEW.items(), LOADS, (1, 2, None), (0, 300)
    ):
        name = f"{policy}, {load}, limit {limit}, {gap_us} us away"
        yield (
            name,
            partial(_two_models, name, settings, load, limit, gap_ns=gap_us * MICROSECOND),
        )


def _two_models(
    name: str, policy: PolicySettings, load: float, limit: int | None, **shell: Any
) -> Scene:
    curves = {"m": PROFILE.curve, "n": linear(ms(2), ms(3), 16)}
    scene = Scene(name, curves=curves, crowding=0.0 if limit == 1 else 0.4, **shell)
    draw = random.Random(name)
    for model, rate in (("m", PROFILE.rate), ("n", 300.0)):
        times = poisson(draw, load * rate / 2, 600)
        scene.requests += [
            Request(at_ns, model, priority=draw.choice((1, 2, 3))) for at_ns in times
        ]
    scene.limit_device(limit)
    scene.configure(0, ModelSettings(32, policy, target_ns=ms(50)))
    scene.configure(0, ModelSettings(16, SERVING, target_ns=ms(80)), "n")
    scene.up()
    scene.up(0, 0, "n")
    scene.up(0, 1, "n")
    scene.limit_device(3, at_ns=ms(700))
    return scene


def prefetch() -> Named:
    """Instances that are some way from the scheduler and get their next batch before they are free."""
    for (policy, settings), load, gap_us, target in product(
        POLICIES.items(), (0.5, 1.5), (200, 900), (True, False)
    ):
        name = f"{policy}, {load}, {gap_us} us, {'target' if target else 'no target'}"
        shell = {"gap_ns": gap_us * MICROSECOND, "noise": 0.05, "reply_ns": 20 * MICROSECOND}
        make = partial(one_model, name, settings, load, target=target, **shell)
        yield name, make
        yield f"{name}, two lost", partial(incidents.lost, partial(make, instances=2), 2, 1)
        vary = partial(varied.faulty, 0.02, Fault.UNKNOWN)
        yield f"{name}, failing", partial(make, vary)
        yield f"{name}, cancelled", partial(make, varied.limited)


def pipelined() -> Named:
    """Instances whose batches are copied in while others compute."""
    for (policy, settings), load, copy_ms, gap_us in product(
        POLICIES.items(), (0.5, 1.5), (1, 30), (0, 400)
    ):
        name = f"{policy}, {load}, copy {copy_ms} ms, {gap_us} us"
        shell = {"gap_ns": gap_us * MICROSECOND, "copy_ns": ms(copy_ms), "noise": 0.05}
        make = partial(one_model, name, settings, load, target=True, **shell)
        yield name, make
        yield f"{name}, two lost", partial(incidents.lost, partial(make, instances=2), 2, 1)
        vary = partial(varied.faulty, 0.02, Fault.UNKNOWN)
        yield f"{name}, failing", partial(make, vary)


def deadlines() -> Named:
    """Callers that cancel, deadlines, limits of the time in the queue, and targets of their own."""
    for (policy, kind), load, target, timeout_ms in product(
        POLICIES.items(), LOADS, (True, False), (None, 35)
    ):
        name = f"{policy}, {load}, {'target' if target else 'no target'}, timeout {timeout_ms}"
        limits = None if timeout_ms is None else QueueLimits(timeout_ns=ms(timeout_ms))
        yield (
            name,
            partial(one_model, name, kind, load, varied.limited, target=target, limits=limits),
        )


def limits() -> Named:
    """Queues that are full by requests, rows and bytes, and requests that can never be served."""
    for (policy, kind), (label, bounds), load in product(
        POLICIES.items(),
        {
            "requests": QueueLimits(max_requests=12),
            "rows": QueueLimits(max_rows=40),
            "bytes": QueueLimits(max_bytes=1_000),
            "one batch": QueueLimits(max_batches_per_request=1),
            "no override": QueueLimits(timeout_ns=ms(30), allow_timeout_override=False),
        }.items(),
        (0.9, 1.5),
    ):
        name = f"{policy}, {label}, {load}"
        yield name, partial(one_model, name, kind, load, varied.bounded, limits=bounds, rows=4.0)
