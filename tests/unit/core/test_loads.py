"""The load of models and devices, as the scheduler shows it."""

from batcher.clock import MILLISECOND
from batcher.core.events import InstanceUp


def test_the_first_requests_of_all_are_no_load_yet(scheduler, play):
    play.fixed(target=200)
    profile = ((1, 20 * MILLISECOND), (8, 40 * MILLISECOND))
    play.feed(InstanceUp("i", 1, "m", "d", profile=profile))
    assert scheduler.observe(3_000 * MILLISECOND).models[0].load == 0
    play.arrive(1, 2, at=3_000)
    seen = scheduler.observe(3_001 * MILLISECOND)
    assert (seen.models[0].load, seen.devices[0].load) == (0, 0)
