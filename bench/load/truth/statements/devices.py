"""The GPUs behind devices: what a recorded NVML was told to say, and when it was told to fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from truth.statements.batches import device_of
from truth.statements.statement import every, of, when
from truth.world import SECOND, Scrape, Span, World

READ_S = 3.5
"""A change shows in a scrape after this: it is read once a second, and a loss has to be read twice."""
PREFIX = "batcher_device_"
KEPT_S = 30.0
"""Values of a GPU that cannot be read are exported for so long, with their age."""


def _gpu(world: World) -> dict[str, Any] | None:
    """The one GPU of the scene, as NVML describes it; None without one."""
    return world.facts.get("gpu")


def _device(world: World) -> str:
    """The device of the only model of such a scene."""
    (model,) = world.models
    return device_of(world, model)


def _lost(world: World) -> Callable[[Scrape], Span]:
    """1 while the GPU is lost, 0 while it is not."""
    lost_ns = world.event("gpu lost")

    def truth(scrape: Scrape) -> Span:
        if lost_ns is None or scrape.end_ns < lost_ns:
            return Span(0, 0)
        return Span(1, 1) if scrape.begin_ns > lost_ns + READ_S * SECOND else Span(0, 1)

    return truth


def _of_gpu(family: str, field: str, scale: float = 1.0, *, total: str = "", **labels: str) -> None:
    """State that a family has the value of that field, at that scale; absent without a GPU."""
    name = f"{PREFIX}{family}"

    def check(world: World) -> Iterator[str]:
        gpu = _gpu(world)
        if gpu is None:
            if world.found(f"{name}{total}"):
                yield "it is there, and there is no GPU"
            return
        true = gpu[field] * scale
        truth, device = Span(true, true), _device(world)
        yield from every(world, f"{name}{total}", truth, ratio=1e-6, device=device, **labels)

    of(name)(check)


_of_gpu("utilization_ratio", "utilization", 0.01, source="nvml")
_of_gpu("sm_occupancy_ratio", "gpm_occupancy", 0.01)
_of_gpu("tensor_activity_ratio", "gpm_tensor", 0.01)
_of_gpu("memory_bandwidth_ratio", "gpm_bandwidth", 0.01)
_of_gpu("memory_used_bytes", "memory_used")
_of_gpu("memory_total_bytes", "memory_total")
_of_gpu("power_watts", "power_mw", 1e-3)
_of_gpu("energy_joules", "energy_mj", 1e-3, total="_total")
_of_gpu("temperature_celsius", "temperature")
_of_gpu("clock_hertz", "sm_clock", 1e6, clock="sm")
_of_gpu("ecc_errors", "corrected", total="_total", kind="corrected")


@of(f"{PREFIX}info")
def info(world: World) -> Iterator[str]:
    gpu = _gpu(world)
    if gpu is None:
        yield from (f"{dict(each)}: there is no GPU" for each in world.found(f"{PREFIX}info"))
        return
    labels = {"device": _device(world), "gpu": gpu["uuid"], "product": gpu["product"]}
    yield from every(world, f"{PREFIX}info", Span(1, 1), mig="false", **labels)


@of(f"{PREFIX}statistics_state")
def state(world: World) -> Iterator[str]:
    """One state of each device: `no_gpu` without one, else `ok` until it is lost."""
    name, lost = f"{PREFIX}statistics_state", _lost(world)
    for device in {device_of(world, model) for model in world.models}:
        if _gpu(world) is None:
            for labels, samples in world.found(name, device=device).items():
                true = dict(labels)["state"] == "no_gpu"
                if {each.value for each in samples} != {float(true)}:
                    yield f"{dict(labels)}: {true:d} is true"
            continue
        yield from every(world, name, lost, device=device, state="lost")

        def fine(scrape: Scrape) -> Span:
            away = lost(scrape)
            return Span(1 - away.high, 1 - away.low)

        yield from every(world, name, fine, device=device, state="ok")


@of(f"{PREFIX}failed")
def failed(world: World) -> Iterator[str]:
    """Lost, when it is; nothing else ever."""
    name, lost = f"{PREFIX}failed", _lost(world)
    if _gpu(world) is None:
        yield from (f"{dict(each)}: there is no GPU" for each in world.found(name))
        return
    for labels in world.found(name):
        cause = dict(labels)["cause"]
        truth = lost if cause == "lost" else Span(0, 0)
        yield from every(world, name, truth, device=_device(world), cause=cause)


@of(f"{PREFIX}statistics_age_seconds")
def age(world: World) -> Iterator[str]:
    """About a second while it can be read; since its loss, all the time since then."""
    name = f"{PREFIX}statistics_age_seconds"
    if _gpu(world) is None:
        yield from (f"{dict(each)}: there is no GPU" for each in world.found(name))
        return
    lost_ns = world.event("gpu lost")
    for scrape, value in world.pairs(name, device=_device(world)):
        true = Span(0, 2)
        if lost_ns is not None and scrape.end_ns > lost_ns:
            since_s = (scrape.begin_ns - lost_ns) / SECOND
            true = Span(max(0.0, since_s), since_s + 2)
        if not true.holds(value, slack=0.05):
            yield f"{when(world, scrape)}: {value:.3f}, and {true} is true"


@of(f"{PREFIX}throttled")
def throttled(world: World) -> Iterator[str]:
    """Of the recorded reasons only the power cap holds."""
    name, gpu = f"{PREFIX}throttled", _gpu(world)
    if gpu is None:
        yield from (f"{dict(each)}: there is no GPU" for each in world.found(name))
        return
    for labels in world.found(name):
        reason = dict(labels)["reason"]
        true = float(reason == "power_cap" and gpu["reasons"] == 0x4)
        yield from every(world, name, Span(true, true), device=_device(world), reason=reason)


@of(f"{PREFIX}xid_events")
def xids(world: World) -> Iterator[str]:
    """None was reported."""
    for labels, samples in world.found(f"{PREFIX}xid_events_total").items():
        if {each.value for each in samples} != {0.0}:
            yield f"{dict(labels)}: {samples[-1].value:g}, and 0 is true"
