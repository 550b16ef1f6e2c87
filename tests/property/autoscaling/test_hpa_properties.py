"""What holds of an autoscaler whatever its metrics say: bounds, windows, policies."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.autoscaling import (
    ExternalAverage,
    Hpa,
    HpaSettings,
    Pod,
    Policy,
    PolicyKind,
    ScalingRules,
    SelectPolicy,
)
from batcher.clock import SECOND

policies = st.builds(
    Policy,
    kind=st.sampled_from(PolicyKind),
    value=st.integers(1, 200),
    period_ns=st.integers(1, 120).map(lambda seconds: seconds * SECOND),
)
scaling_rules = st.builds(
    ScalingRules,
    stabilization_ns=st.integers(0, 300).map(lambda seconds: seconds * SECOND),
    policies=st.lists(policies, min_size=1, max_size=3).map(tuple),
    select=st.sampled_from(SelectPolicy),
    tolerance=st.none() | st.floats(0, 0.5),
)
hpa_settings = st.builds(
    HpaSettings,
    min_replicas=st.integers(1, 5),
    max_replicas=st.integers(5, 60),
    tolerance=st.floats(0, 0.3),
    scale_up=scaling_rules,
    scale_down=scaling_rules,
)
asked = st.lists(
    st.tuples(st.integers(1, 60), st.none() | st.floats(0, 100)), min_size=1, max_size=40
)


def play(config, steps, current):
    """Yields (seconds, size before, decision) of each sync."""
    hpa, now = Hpa(config), 0
    for pause, wanted in steps:
        now += pause
        pods = [Pod(f"p{index}") for index in range(current)]
        decision = hpa.sync(now * SECOND, current, pods, [ExternalAverage(1.0, wanted)])
        yield now, current, decision
        current = decision.desired


@given(hpa_settings, asked, st.integers(0, 80))
@settings(max_examples=150, deadline=None)
def test_within_bounds(config, steps, current):
    for _, before, decision in play(config, steps, current):
        if before == 0:
            assert decision.desired == 0
        elif decision.reason.startswith("metric unavailable"):
            assert decision.desired == before
        else:
            assert config.min_replicas <= decision.desired <= config.max_replicas


@given(hpa_settings, asked, st.just(5))
@settings(max_examples=150, deadline=None)
def test_windows_hold_changes_back(config, steps, current):
    recommended = []
    for now, before, decision in play(config, steps, current):
        if not recommended:
            recommended.append((now, before))
        if decision.recommended is None:
            assert decision.desired == before
            continue
        recommended.append((now, decision.recommended))

        def recent(rules, *, now=now):
            return [
                size for at, size in recommended if (now - at) * SECOND < rules.stabilization_ns
            ] + [recommended[-1][1]]

        if decision.desired < before:
            assert decision.desired >= min(max(recent(config.scale_down)), before)
        if decision.desired > before:
            assert decision.desired <= max(min(recent(config.scale_up)), config.min_replicas)


@given(hpa_settings, asked, st.just(5))
@settings(max_examples=150, deadline=None)
def test_policies_are_never_exceeded(config, steps, current):
    changes = []
    for now, before, decision in play(config, steps, current):
        change = decision.desired - before
        if change == 0:
            continue
        rules = config.scale_up if change > 0 else config.scale_down
        assert rules.select is not SelectPolicy.DISABLED
        allowed = []
        for policy in rules.policies:
            within = [each for at, each in changes if (now - at) * SECOND < policy.period_ns]
            began = before - sum(within)
            share = began * policy.value / 100
            step = policy.value if policy.kind is PolicyKind.PODS else share
            bound = math.ceil(began + step) if change > 0 else math.floor(began - step)
            allowed.append(bound if change > 0 else -bound)
        best = min(allowed) if rules.select is SelectPolicy.MIN else max(allowed)
        assert (decision.desired if change > 0 else -decision.desired) <= best
        changes.append((now, change))
