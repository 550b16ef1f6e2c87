"""The machine under every policy, as Hypothesis draws it: what fails is shrunk."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test


@pytest.mark.slow
def test_nothing_is_lost_nor_late_nor_out_of_bounds_under_any_policy(make_machine):
    run_state_machine_as_test(
        make_machine, settings=settings(max_examples=300, stateful_step_count=30)
    )
