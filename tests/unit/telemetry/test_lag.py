from __future__ import annotations

import asyncio

import pytest

from batcher.clock import MILLISECOND
from batcher.telemetry import probe_loop_lag


class EnoughError(Exception):
    """Ends the probe, which never ends by itself."""


async def test_it_records_how_much_longer_a_sleep_took(clock):
    took = iter([100, 130, 99])
    recorded = []

    async def sleep(seconds):
        assert seconds == 0.1
        milliseconds = next(took, None)
        if milliseconds is None:
            raise EnoughError
        clock.advance(milliseconds * MILLISECOND)

    with pytest.raises(EnoughError):
        await probe_loop_lag(recorded.append, interval=0.1, clock=clock, sleep=sleep)
    assert recorded == [0, 0.03, 0]


async def test_it_runs_on_the_real_loop_until_cancelled():
    recorded = asyncio.Queue()
    probe = asyncio.create_task(probe_loop_lag(recorded.put_nowait, interval=0.001))
    assert await recorded.get() >= 0
    assert await recorded.get() >= 0
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
