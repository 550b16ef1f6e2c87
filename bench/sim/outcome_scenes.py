"""The scenes of `outcomes`, each a function that makes it anew."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any, Final, TypeAlias

import varied
import world
from scripted import PROFILE, Fault, Request, Scene, bursts, one_model, poisson

from batcher.clock import MICROSECOND, MILLISECOND, SECOND
from batcher.core.settings import (
    Adaptive,
    FixedWindow,
    ModelSettings,
    NoBatching,
    PaddedAxis,
    PolicySettings,
    QueueLimits,
    WhenLate,
)
from batcher.simulation.engine.service_time import linear

Make: TypeAlias = Callable[[], Scene]
Named: TypeAlias = Iterator[tuple[str, Make]]

REFUSING: Final = Adaptive()
SERVING: Final = Adaptive(when_late=WhenLate.SERVE)
POLICIES: Final[dict[str, PolicySettings]] = {
    "none": NoBatching(),
    "fixed 0 ms": FixedWindow(),
    "fixed 8 ms": FixedWindow(8 * MILLISECOND, (4, 8, 16)),
    "adaptive, refuse": REFUSING,
    "adaptive, serve": SERVING,
}
FEW: Final = {n: POLICIES[n] for n in ("fixed 8 ms", "adaptive, refuse", "adaptive, serve")}
LOADS: Final = (0.5, 0.9, 1.5)

LENGTHS: Final = (16, 64, 256)
"""The buckets of the padded axis, where there is one."""

PADDING: Final = (PaddedAxis(0, 1, LENGTHS),)


def scenes() -> dict[str, Make]:
    """Every scene, by its name."""
    families = (
        *(grid, bursty, uneven, closed, shells, faults, outages, instances, priorities, tenants),
        *(large, padded, groups, shared_device, prefetch, settings, deadlines, limits, mixed),
    )
    return {f"{each.__name__}: {name}": make for each in families for name, make in each()}


def _ms(count: float) -> int:
    return round(count * MILLISECOND)


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
                think_ns=_ms(think_ms),
                reply_ns=reply_us * MICROSECOND,
            ),
        )


def shells() -> Named:
    """Late timers, answers that take time to send, a server that pauses, reports in parts."""
    kinds: dict[str, dict[str, Any]] = {
        "late timers": {"late_ns": _ms(1)},
        "slow answers": {"reply_ns": 40 * MICROSECOND},
        "pauses": {"pauses": ((_ms(300), _ms(420)), (_ms(900), _ms(915)))},
        "reports in parts": {"in_parts": True},
    }
    for (policy, settings), (kind, shell), load in product(FEW.items(), kinds.items(), LOADS):
        name = f"{policy}, {kind}, {load}"
        yield name, partial(one_model, name, settings, load, **shell)


def faults() -> Named:
    """Requests that make their batch fail: named by the instance, or to be found by bisection."""
    for (policy, settings), fault, share, load in product(
        POLICIES.items(), (Fault.NAMED, *list(Fault)[1:5]), (0.01, 0.3), (0.7,)
    ):
        name = f"{policy}, {fault.name.lower()}, {share}, {load}"
        vary = partial(varied.faulty, share, fault)
        yield name, partial(one_model, name, settings, load, vary)
        if share < 0.1:
            yield (
                f"{name}, long",
                partial(_long_and_faulty, name, settings, load, share, fault),
            )


def _long_and_faulty(
    name: str, policy: PolicySettings, load: float, share: float, fault: Fault
) -> Scene:
    def vary(draw: random.Random, request: Request) -> None:
        varied.faulty(share, fault, draw, request)
        varied.rows(draw, request)

    return one_model(name, policy, load, vary, rows=varied.MEAN_ROWS, instances=2, count=400)


def outages() -> Named:
    """Every batch fails for a while: storms, and what comes after them."""
    for (policy, settings), cause, load in product(
        FEW.items(), (Fault.DEVICE, Fault.INPUT, Fault.UNKNOWN), LOADS
    ):
        name = f"{policy}, {cause.name.lower()}, {load}"
        for count in (1, 2):
            failing = ((_ms(500), _ms(1_200), cause), (_ms(2_500), _ms(2_520), cause))
            yield (
                f"{name}, {count} instances",
                partial(
                    one_model,
                    name,
                    settings,
                    load,
                    outages=failing,
                    instances=count,
                    count=1_600 * count,
                ),
            )


def instances() -> Named:
    """Several instances; some are lost, drained and come back."""
    for (policy, settings), load, (count, at_once) in product(
        POLICIES.items(), LOADS, ((4, 1), (1, 2))
    ):
        name = f"{policy}, {load}, {count} x {at_once}"
        make = partial(one_model, name, settings, load, instances=count, at_once=at_once)
        yield name, make
        yield f"{name}, lost", partial(_lost, make, count, at_once)


def _lost(make: Make, count: int, at_once: int) -> Scene:
    scene = make()
    last = count - 1
    scene.down(_ms(101), last)
    scene.up(_ms(140), last, device=f"d{last}", incarnation=2, at_once=at_once, cold=True)
    scene.drain(_ms(180), 0)
    scene.down(_ms(200), 0)
    scene.up(_ms(205), 0, device="d0", incarnation=2, at_once=at_once)
    for number in range(count):
        scene.down(_ms(250) + number, number, 1 if 0 < number < last else 2)
        scene.up(_ms(300), number, device=f"d{number}", incarnation=3, at_once=at_once)
    return scene


def priorities() -> Named:
    """Four levels, with aging that is short and that never comes."""
    for (policy, settings), load, target, (label, limits) in product(
        POLICIES.items(),
        LOADS,
        (True, False),
        {
            "aging in 60 ms": QueueLimits(
                priority_levels=4, default_priority=3, promote_after_ns=_ms(60)
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
    short = QueueLimits(tenants=shares, max_requests=60, promote_after_ns=_ms(80))
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
        few = QueueLimits(max_groups=20, promote_after_ns=_ms(200))
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
    curves = {"m": PROFILE.curve, "n": linear(_ms(2), _ms(3), 16)}
    scene = Scene(name, curves=curves, crowding=0.0 if limit == 1 else 0.4, **shell)
    draw = random.Random(name)
    for model, rate in (("m", PROFILE.rate), ("n", 300.0)):
        times = poisson(draw, load * rate / 2, 600)
        scene.requests += [
            Request(at_ns, model, priority=draw.choice((1, 2, 3))) for at_ns in times
        ]
    scene.limit_device(limit)
    scene.configure(0, ModelSettings(32, policy, target_ns=_ms(50)))
    scene.configure(0, ModelSettings(16, SERVING, target_ns=_ms(80)), "n")
    scene.up()
    scene.up(0, 0, "n")
    scene.up(0, 1, "n")
    scene.limit_device(3, at_ns=_ms(700))
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
        yield f"{name}, two lost", partial(_lost, partial(make, instances=2), 2, 1)
        vary = partial(varied.faulty, 0.02, Fault.UNKNOWN)
        yield f"{name}, failing", partial(make, vary)
        yield f"{name}, cancelled", partial(make, varied.limited)


def settings() -> Named:
    """Settings that change while requests wait, and a model that goes and comes back."""
    for (policy, kind), load in product(POLICIES.items(), LOADS):
        name = f"{policy}, {load}"
        yield name, partial(_changing, name, kind, load)


def _changing(name: str, policy: PolicySettings, load: float) -> Scene:
    def vary(draw: random.Random, request: Request) -> None:
        varied.tenanted(draw, request)
        varied.faulty(0.02, Fault.UNKNOWN, draw, request)
        request.rows = draw.choice((1, 1, 1, 2, 20))

    scene = one_model(name, policy, load, vary, rows=5.0, count=1_500)
    weights = (("default", 1.0), ("gold", 3.0))
    changes = (
        ModelSettings(32, policy, target_ns=_ms(30)),
        ModelSettings(8, policy, target_ns=_ms(30)),
        ModelSettings(8, policy, QueueLimits(max_requests=20, max_rows=40), _ms(30)),
        ModelSettings(32, policy, QueueLimits(tenants=weights, priority_levels=2)),
        ModelSettings(32, SERVING, QueueLimits(promote_after_ns=_ms(30)), _ms(60)),
        ModelSettings(16, FixedWindow(_ms(3)), QueueLimits(timeout_ns=_ms(40))),
        ModelSettings(16, NoBatching(), QueueLimits(max_groups=2)),
        ModelSettings(32, REFUSING, target_ns=_ms(2)),
        ModelSettings(32, policy, target_ns=_ms(50)),
    )
    for place, changed in enumerate(changes, 1):
        scene.configure(place * _ms(250), changed)
    scene.remove(_ms(2_600))
    scene.configure(_ms(2_700), changes[0])
    scene.up(_ms(2_800), 1, device="d1")
    return scene


def deadlines() -> Named:
    """Callers that cancel, deadlines, limits of the time in the queue, and targets of their own."""
    for (policy, kind), load, target, timeout_ms in product(
        POLICIES.items(), LOADS, (True, False), (None, 35)
    ):
        name = f"{policy}, {load}, {'target' if target else 'no target'}, timeout {timeout_ms}"
        limits = None if timeout_ms is None else QueueLimits(timeout_ns=_ms(timeout_ms))
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
            "no override": QueueLimits(timeout_ns=_ms(30), allow_timeout_override=False),
        }.items(),
        (0.9, 1.5),
    ):
        name = f"{policy}, {label}, {load}"
        yield name, partial(one_model, name, kind, load, varied.bounded, limits=bounds, rows=4.0)


def mixed() -> Named:
    """All of it at once, drawn by chance."""
    for number in range(50):
        name = f"{number}"
        yield name, partial(_mixed, name)


def _mixed(name: str) -> Scene:
    draw = random.Random(f"mixed {name}")
    curves = {"m": PROFILE.curve, "n": linear(_ms(1), _ms(2), 32)}
    scene = Scene(
        name,
        curves=curves,
        noise=draw.choice((0.0, 0.1)),
        crowding=draw.choice((0.0, 0.3)),
        gap_ns=draw.choice((0, 0, _ms(0.4))),
        reply_ns=draw.choice((0, 30 * MICROSECOND)),
        late_ns=draw.choice((0, _ms(0.5))),
    )
    policies = list(POLICIES.values())
    for model in curves:
        padding = draw.choice(((), (), PADDING))
        for at_ns in (0, *(draw.randrange(1, 2_000) * MILLISECOND for _ in range(3))):
            scene.configure(at_ns, _drawn_settings(draw, policies, padding), model)
        rate = draw.choice((100.0, 300.0, 900.0))
        for at_ns in draw.choice((poisson, bursts))(draw, rate, 500):
            request = Request(at_ns, model)
            if padding:
                varied.padded(draw.random() < 0.1, draw, request)
            else:
                varied.rows(draw, request)
                request.fault = draw.choice(list(Fault)) if draw.random() < 0.02 else Fault.NONE
            varied.grouped(3, draw, request)
            varied.limited(draw, request)
            varied.tenanted(draw, request)
            scene.requests.append(request)
        for number in range(draw.choice((1, 2))):
            device = draw.choice(("d", "e"))
            scene.up(0, number, model, device, at_once=draw.choice((1, 1, 2)))
            lost_ns = draw.randrange(1, 1_500) * MILLISECOND
            scene.down(lost_ns, number, 1, model)
            scene.up(lost_ns + _ms(draw.randrange(1, 90)), number, model, device, 2)
    scene.limit_device(draw.choice((1, 2, None)))
    # Settings of one model come in order of time, after those that it begins with.
    scene.changes.sort(key=lambda change: change[0])
    return scene


def _drawn_settings(
    draw: random.Random, policies: list[PolicySettings], padding: tuple[PaddedAxis, ...]
) -> ModelSettings:
    limits = QueueLimits(
        max_requests=draw.choice((30, 1_000)),
        max_groups=draw.choice((3, 256)),
        max_rows=draw.choice((None, 200)),
        timeout_ns=draw.choice((None, None, _ms(100))),
        promote_after_ns=_ms(draw.choice((20, 500))),
        tenants=draw.choice(((), (("default", 1.0), ("gold", 4.0)))),
    )
    target_ns = draw.choice((None, _ms(20), _ms(50), _ms(400)))
    return ModelSettings(draw.choice((4, 32)), draw.choice(policies), limits, target_ns, padding)
