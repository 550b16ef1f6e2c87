"""KEDA's part: zero and one, cooldown, idle replicas, failing scalers."""

import pytest

from batcher.autoscaling import Fallback, FallbackBehavior, HpaSettings, Keda, KedaSettings
from batcher.clock import SECOND

NOW = 10_000 * SECOND


def keda(**settings):
    return Keda(KedaSettings(**settings), created_ns=NOW)


@pytest.mark.parametrize(
    ("settings", "current", "triggers", "after", "rule"),
    [
        ({}, 0, [True], 1, "an active trigger brings the first replica"),
        ({"min_replicas": 3}, 0, [True], 3, "or the minimum"),
        ({}, 7, [True], 7, "above zero the size is the HPA's"),
        ({}, 0, [False], 0, "nothing is active, nothing runs"),
        ({}, 0, [None], 0, "an error starts nothing"),
        ({}, 0, [None, True], 1, "one active trigger is enough"),
        ({}, 4, [False, True], 4, "and keeps the size"),
        ({"min_replicas": 3}, 1, [False], 3, "below the minimum, the minimum is set"),
        ({"min_replicas": 3}, 1, [True], 1, "active, that is left to the HPA"),
        ({"min_replicas": 3, "idle_replicas": 1}, 1, [True], 3, "from idle to the minimum"),
        ({"min_replicas": 3, "idle_replicas": 1}, 1, [False], 1, "idle stays idle"),
        (
            {"min_replicas": 3},
            5,
            [False],
            5,
            "with a minimum, and without idle replicas, the HPA scales down",
        ),
    ],
)
def test_one_poll(settings, current, triggers, after, rule):
    assert keda(**settings).poll(NOW, current, triggers) == after, rule


@pytest.mark.parametrize(
    ("settings", "low"),
    [
        ({}, 0),
        ({"min_replicas": 3, "idle_replicas": 0}, 0),
        ({"min_replicas": 3, "idle_replicas": 1}, 1),
    ],
)
def test_to_zero_or_idle_once_the_cooldown_after_the_last_activity_is_over(settings, low):
    one = keda(cooldown_ns=300 * SECOND, **settings)
    one.poll(NOW, 5, [True])
    assert one.poll(NOW + 300 * SECOND, 5, [False]) == 5
    assert one.poll(NOW + 301 * SECOND, 5, [False]) == low
    one.poll(NOW + 400 * SECOND, low, [True])
    assert one.poll(NOW + 600 * SECOND, 5, [False]) == 5


def test_before_the_first_activity_the_initial_cooldown_counts():
    assert keda().poll(NOW + 1, 1, [False]) == 0
    one = keda(initial_cooldown_ns=600 * SECOND)
    assert one.poll(NOW + 600 * SECOND, 1, [False]) == 1
    assert one.poll(NOW + 601 * SECOND, 1, [False]) == 0


def test_errors_never_scale_down():
    one = keda()
    one.poll(NOW, 1, [True])
    assert one.poll(NOW + 3600 * SECOND, 1, [None]) == 1
    assert one.poll(NOW + 3600 * SECOND, 1, [False, None]) == 1
    assert one.poll(NOW + 3600 * SECOND, 1, [False]) == 0


def test_an_active_trigger_beside_a_failed_one_does_not_begin_the_cooldown_anew():
    one = keda()
    one.poll(NOW, 1, [True])
    one.poll(NOW + 290 * SECOND, 1, [True, None])
    assert one.poll(NOW + 301 * SECOND, 1, [False]) == 0


def test_a_fallback_of_zero_lets_an_error_scale_to_zero():
    one = keda(fallback=Fallback(3, 0))
    assert one.poll(NOW + SECOND, 1, [None]) == 0
    other = keda(fallback=Fallback(3, 2))
    assert other.poll(NOW + SECOND, 1, [None]) == 1


def test_a_push_wakes_between_polls():
    one = keda()
    assert one.push(NOW, 0) == 1
    assert one.poll(NOW + 299 * SECOND, 1, [False]) == 1


@pytest.mark.parametrize(
    ("behavior", "current", "size"),
    [
        (FallbackBehavior.STATIC, 9, 6),
        (FallbackBehavior.CURRENT, 9, 9),
        (FallbackBehavior.CURRENT_IF_HIGHER, 9, 9),
        (FallbackBehavior.CURRENT_IF_HIGHER, 2, 6),
        (FallbackBehavior.CURRENT_IF_LOWER, 9, 6),
        (FallbackBehavior.CURRENT_IF_LOWER, 2, 2),
    ],
)
def test_fallback_after_more_failures_than_the_threshold(behavior, current, size):
    one = keda(fallback=Fallback(2, 6, behavior))
    assert one.metric(4.0, 0.8, current) == 4.0
    assert [one.metric(None, 0.8, current) for _ in range(3)] == [None, None, 0.8 * size]
    assert one.metric(1.6, 0.8, current) == 1.6
    assert one.metric(None, 0.8, current) is None


def test_without_a_fallback_a_failed_metric_fails():
    one = keda()
    assert [one.metric(None, 0.8, 3) for _ in range(5)] == [None] * 5


def test_activation_is_above_the_threshold():
    one = keda(activation=5.0)
    assert [one.active(value) for value in (0.0, 5.0, 5.1)] == [False, False, True]


def test_the_hpa_has_at_least_one_replica():
    bounds = keda(max_replicas=30).settings.hpa(HpaSettings())
    assert (bounds.min_replicas, bounds.max_replicas) == (1, 30)
    assert keda(min_replicas=4).settings.hpa(HpaSettings()).min_replicas == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_replicas": 5, "max_replicas": 4}, "got 5 and 4"),
        ({"min_replicas": 2, "idle_replicas": 2}, "below the minimum of 2, got 2"),
        ({"idle_replicas": 0}, "below the minimum of 0, got 0"),
        ({"polling_ns": 0}, "polling"),
        ({"cooldown_ns": -1}, "cooldown"),
    ],
)
def test_what_keda_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        KedaSettings(**settings)
