"""From moments to Unix time."""

from batcher.telemetry.tracing.epoch import STEP_NS, Epoch
from batcher.testing import ManualClock


def test_the_offset_follows_steps_and_not_jitter():
    clock, wall = ManualClock(1_000), ManualClock(10**18)
    epoch = Epoch(clock, wall)
    assert epoch.offset_ns == 10**18 - 1_000
    wall.advance(STEP_NS)
    assert epoch.refresh() == 10**18 - 1_000
    wall.advance(1)
    assert epoch.refresh() == 10**18 + STEP_NS + 1 - 1_000
    clock.advance(10**9)
    wall.advance(10**9)
    assert epoch.refresh() == 10**18 + STEP_NS + 1 - 1_000
