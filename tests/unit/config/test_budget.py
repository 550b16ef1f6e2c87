"""A budget fits its target."""

import pytest


def test_shares_may_fill_the_target(model):
    found = model("batching: {target_p99: 50ms}\nbudget: {upstream: 10ms, queue: 40ms}")
    assert found.budget.shares() == {"upstream": 10_000_000, "queue": 40_000_000}


@pytest.mark.parametrize(
    ("batching", "budget", "problem"),
    [
        (
            "{target_p99: 50ms}",
            "{queue: 20ms, execute: 31ms}",
            "queue + execute is 51ms; allowed: at most batching.target_p99, which is 50ms",
        ),
        (
            "{}",
            "{queue: 20ms}",
            "no effect without a target to split; allowed: together with batching.target_p99",
        ),
    ],
)
def test_what_does_not_fit_is_refused(model_problems, batching, budget, problem):
    (found,) = model_problems(f"batching: {batching}\nbudget: {budget}")
    assert found == f"models[0].budget: {problem}"
