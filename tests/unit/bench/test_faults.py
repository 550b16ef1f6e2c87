"""A scene says how many requests it needs, where there are too few to show anything."""

from types import SimpleNamespace

import faults
import pytest


def test_a_run_that_ends_with_the_failures_says_how_many_requests_it_needs():
    with pytest.raises(SystemExit, match="--requests: got 900; allowed: about"):
        faults.failing(SimpleNamespace(requests=900))
