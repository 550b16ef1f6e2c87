import pytest

from batcher.clock import MILLISECOND
from batcher.config.policies import POLICIES
from batcher.core.settings import Adaptive, FixedWindow, ModelSettings, NoBatching
from batcher.errors import InputError
from batcher.simulation.policies.baselines import Nexus
from batcher.simulation.policies.named import parse_policy, policy_spellings

PREFERRED = ModelSettings(8, FixedWindow(7, (4,)), target_ns=50 * MILLISECOND)


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("configured", FixedWindow(7, (4,))),
        ("fixed", FixedWindow(7, (4,))),
        ("fixed:2ms", FixedWindow(2 * MILLISECOND)),
        ("greedy", FixedWindow()),
        ("none", NoBatching()),
        ("adaptive", Adaptive(limit_ns=1000 * MILLISECOND)),
        ("adaptive:limit=target", Adaptive(limit_ns=50 * MILLISECOND)),
        ("adaptive:limit=deadline", Adaptive()),
        ("adaptive:limit=3s", Adaptive(limit_ns=3000 * MILLISECOND)),
    ],
)
def test_a_name_becomes_settings(name, policy):
    named = parse_policy(name)
    assert named.name == name
    assert named.settings(PREFERRED).policy == policy
    assert named.settings(PREFERRED).target_ns == PREFERRED.target_ns


def test_fixed_without_a_window_of_the_models_own():
    assert parse_policy("fixed").settings(ModelSettings(8, NoBatching())).policy == FixedWindow()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("eager", "got 'eager'; allowed: configured, adaptive[:limit=LIMIT], fixed[:DELAY], "),
        ("adaptive:2s", "adaptive[:limit=LIMIT], with limit=LIMIT"),
        ("adaptive:limit=2", "adaptive[:limit=LIMIT], with a number with a unit"),
        ("greedy:1", "got 'greedy:1'"),
        ("fixed:", "got 'fixed:'"),
        ("fixed:2", "fixed[:DELAY], with a number with a unit"),
        ("lazy-drop:1", "got 'lazy-drop:1'"),
        ("nexus:0", "nexus[:BATCH], with BATCH a whole number from 1 on"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(name, message):
    with pytest.raises(InputError) as error:
        parse_policy(name)
    assert message in str(error.value)


def test_every_spelling_is_listed():
    assert set(policy_spellings()) == {
        "configured",
        *(name for name in POLICIES if name not in {"adaptive", "fixed"}),
        "adaptive[:limit=LIMIT]",
        "fixed[:DELAY]",
        "greedy",
        "lazy-drop",
        "nexus[:BATCH]",
        "defer",
        "full-clear",
        "roll-out",
        "bento",
    }


def test_another_limit_leaves_the_models_other_keys():
    own = ModelSettings(8, Adaptive(0.6, None, 0.1), target_ns=50 * MILLISECOND)
    named = parse_policy("adaptive:limit=target")
    assert named.settings(own).policy == Adaptive(0.6, 50 * MILLISECOND, 0.1)


@pytest.mark.parametrize("name", ["lazy-drop", "nexus", "nexus:4", "bento"])
def test_under_a_baseline_no_setting_of_a_built_in_policy_is_in_effect(name):
    named = parse_policy(name)
    assert named.settings(PREFERRED).policy == FixedWindow()
    assert isinstance(named.factory(PREFERRED), Nexus) == name.startswith("nexus")
