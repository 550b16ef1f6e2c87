"""From what a command line asks for to the settings that a what-if tries."""

import pytest

from batcher.clock import MILLISECOND
from batcher.core.settings import Adaptive, FixedWindow, ModelSettings, QueueLimits
from batcher.errors import InputError
from batcher.simulation.logs.variants import merged, variants
from batcher.simulation.policies.named import parse_policy


def test_assignments_change_what_they_name_and_nothing_else(sections):
    tuned = ModelSettings(16, Adaptive(0.5), QueueLimits(max_requests=7), 30 * MILLISECOND)
    (variant,) = variants(
        sections,
        sections,
        ["queue.max_requests=9", "batching.utilization_target=0.6"],
        [parse_policy("configured")],
    )
    assert variant.name == "queue.max_requests=9, batching.utilization_target=0.6"
    assert variant.settings("m/1", tuned) == ModelSettings(
        16, Adaptive(0.6), QueueLimits(max_requests=9), 30 * MILLISECOND
    )
    assert variant.settings("other/1", tuned) == tuned


def test_another_policy_replaces_all_of_its_settings():
    assert merged(FixedWindow(5), Adaptive(), FixedWindow(3)) == FixedWindow(3)
    assert merged(FixedWindow(5, (2,)), FixedWindow(1), FixedWindow(3)) == FixedWindow(3, (2,))


def test_a_model_without_a_configuration_cannot_be_changed(sections):
    with pytest.raises(InputError, match="--set: the log does not say how n/1 was configured"):
        variants(sections, ["n/1"], ["queue.max_requests=9"], [parse_policy("configured")])
