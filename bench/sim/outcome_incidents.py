"""The scenes of `outcomes` in which requests or instances fail or settings change."""

from __future__ import annotations

import random
from functools import partial
from itertools import product

import varied
from outcome_parts import FEW, LOADS, PADDING, POLICIES, REFUSING, SERVING, Make, Named, ms
from scripted import PROFILE, Fault, Request, Scene, bursts, one_model, poisson

from batcher.clock import MICROSECOND, MILLISECOND
from batcher.core.settings import (
    FixedWindow,
    ModelSettings,
    NoBatching,
    PaddedAxis,
    PolicySettings,
    QueueLimits,
)
from batcher.simulation.engine.service_time import linear


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
            failing = ((ms(500), ms(1_200), cause), (ms(2_500), ms(2_520), cause))
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
        yield f"{name}, lost", partial(lost, make, count, at_once)


def lost(make: Make, count: int, at_once: int) -> Scene:
    """The same scene with instances that are lost, drained and started again."""
    scene = make()
    last = count - 1
    scene.down(ms(101), last)
    scene.up(ms(140), last, device=f"d{last}", incarnation=2, at_once=at_once, cold=True)
    scene.drain(ms(180), 0)
    scene.down(ms(200), 0)
    scene.up(ms(205), 0, device="d0", incarnation=2, at_once=at_once)
    for number in range(count):
        scene.down(ms(250) + number, number, 1 if 0 < number < last else 2)
        scene.up(ms(300), number, device=f"d{number}", incarnation=3, at_once=at_once)
    return scene


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
        ModelSettings(32, policy, target_ns=ms(30)),
        ModelSettings(8, policy, target_ns=ms(30)),
        ModelSettings(8, policy, QueueLimits(max_requests=20, max_rows=40), ms(30)),
        ModelSettings(32, policy, QueueLimits(tenants=weights, priority_levels=2)),
        ModelSettings(32, SERVING, QueueLimits(promote_after_ns=ms(30)), ms(60)),
        ModelSettings(16, FixedWindow(ms(3)), QueueLimits(timeout_ns=ms(40))),
        ModelSettings(16, NoBatching(), QueueLimits(max_groups=2)),
        ModelSettings(32, REFUSING, target_ns=ms(2)),
        ModelSettings(32, policy, target_ns=ms(50)),
    )
    for place, changed in enumerate(changes, 1):
        scene.configure(place * ms(250), changed)
    scene.remove(ms(2_600))
    scene.configure(ms(2_700), changes[0])
    scene.up(ms(2_800), 1, device="d1")
    return scene


def mixed() -> Named:
    """All of it at once, drawn by chance."""
    for number in range(50):
        name = f"{number}"
        yield name, partial(_mixed, name)


def _mixed(name: str) -> Scene:
    draw = random.Random(f"mixed {name}")
    curves = {"m": PROFILE.curve, "n": linear(ms(1), ms(2), 32)}
    scene = Scene(
        name,
        curves=curves,
        noise=draw.choice((0.0, 0.1)),
        crowding=draw.choice((0.0, 0.3)),
        gap_ns=draw.choice((0, 0, ms(0.4))),
        reply_ns=draw.choice((0, 30 * MICROSECOND)),
        late_ns=draw.choice((0, ms(0.5))),
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
            scene.up(lost_ns + ms(draw.randrange(1, 90)), number, model, device, 2)
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
        timeout_ns=draw.choice((None, None, ms(100))),
        promote_after_ns=ms(draw.choice((20, 500))),
        tenants=draw.choice(((), (("default", 1.0), ("gold", 4.0)))),
    )
    target_ns = draw.choice((None, ms(20), ms(50), ms(400)))
    return ModelSettings(draw.choice((4, 32)), draw.choice(policies), limits, target_ns, padding)
