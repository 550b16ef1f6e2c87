"""Replaces the instances of a generation one after the other, where a device has no room for both."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from batcher.errors import ModelLoadError
from batcher.runtime.health import ModelState
from batcher.runtime.models.model import CLOSE_TIMEOUT_S, ServedModel

log = logging.getLogger(__name__)


async def replace_instances(
    old: ServedModel, fresh: ServedModel, take_over: Callable[[], Awaitable[None]], timeout_s: float
) -> None:
    """Close each instance of `old` before one of `fresh` is loaded in its place.

    When half of the new instances are up, or none of the old ones is left, `take_over` is awaited, which
    sends new requests to `fresh` and drains `old`; the other new instances are loaded after that. An old
    instance gets `timeout_s` seconds for what it runs.

    Raises `ModelLoadError`. Before `take_over`, `fresh` is closed then and `old` has its instances back,
    or has failed if that was not possible; after it, `fresh` serves with those that are up. When this
    coroutine is cancelled, nothing is brought back.
    """
    enough = min(old.instance_count, -(-fresh.instance_count // 2))
    stopped: list[int] = []
    try:
        for place in range(enough):
            if place == old.instance_count - 1:
                old.enter(
                    ModelState.LOADING,
                    f"its only instance is being replaced by generation {fresh.generation}",
                )
                await _drained(old, timeout_s)
            stopped.append(place)
            await _stopped(old, place, timeout_s)
            await fresh.load_instance(place)
    except ModelLoadError as error:
        await fresh.close(CLOSE_TIMEOUT_S)
        await _bring_back(old, stopped, error)
        raise
    except BaseException:
        await fresh.close(CLOSE_TIMEOUT_S)
        if old.state is ModelState.LOADING and old.some_up:
            old.serve()
        elif old.state is ModelState.LOADING:
            old.enter(
                ModelState.FAILED, "its only instance was closed, and no other one was loaded"
            )
            await old.close(CLOSE_TIMEOUT_S)
        raise
    fresh.serve()
    await take_over()
    for place in range(enough, fresh.instance_count):
        await fresh.load_instance(place)


async def _stopped(old: ServedModel, place: int, timeout_s: float) -> None:
    """Close an instance, and that whole: cancelled once, this waits for its batches all the same."""
    stop = asyncio.create_task(old.stop_instance(place, timeout_s))
    try:
        await asyncio.shield(stop)
    except asyncio.CancelledError:
        try:
            await asyncio.wait((stop,))
        finally:
            stop.cancel()
        raise


async def _drained(old: ServedModel, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await old.drained()
    except TimeoutError:
        log.warning(
            "%s: requests are unanswered after %g s of draining (drain_timeout); they are refused",
            old.key,
            timeout_s,
        )


async def _bring_back(old: ServedModel, places: list[int], error: ModelLoadError) -> None:
    """Load instances of the old generation again, because their successor could not be loaded."""
    log.warning("%s: %s; its instances are loaded again", old.key, error)
    try:
        for place in places:
            await old.load_instance(place)
    except ModelLoadError as again:
        both = f"{error}; the instance before it could not be loaded again either: {again}"
        if not old.some_up:
            old.enter(ModelState.FAILED, both)
            await old.close(CLOSE_TIMEOUT_S)
        raise ModelLoadError(both) from error
    old.serve()
