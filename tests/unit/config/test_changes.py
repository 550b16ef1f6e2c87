"""What may change while a server runs, and what two configurations differ in."""

import pytest
import yaml

from batcher.config import (
    difference,
    loads_again,
    parse_config,
    tunable_settings,
    with_changes,
)
from batcher.errors import ConfigError

TEXT = """
server:
  grpc: ["127.0.0.1:1"]
models:
  - name: m
    executor: emulated
    options: {secret: hush, base: 5ms}
    batching: {target_p99: 50ms}
    queue: {tenants: {gold: 2}}
  - name: other
    executor: emulated
devices:
  cpu: {max_in_flight: 1}
"""


@pytest.fixture
def config():
    return parse_config(TEXT)


@pytest.fixture
def m(config):
    return config.models[0]


@pytest.fixture
def differences(config):
    """What replacing a text by another makes different: (changes as text, paths for a restart)."""

    def call(*replaced):
        text = TEXT
        for old, new in replaced:
            assert old in text
            text = text.replace(old, new, 1)
        found = difference(config, parse_config(text))
        return [str(change) for change in found.changes], list(found.restart)

    return call


class TestDifference:
    def test_of_a_configuration_to_itself_there_is_none(self, differences):
        assert differences() == ([], [])

    def test_spelling_and_comments_make_none(self, differences):
        assert differences(("50ms", "0.05s"), ("server:", "# as ever\nserver:")) == ([], [])

    def test_a_changed_value_is_reported_with_its_path_and_both_values(self, differences):
        assert differences(("50ms", "40ms")) == (["m/1 batching.target_p99: 50ms -> 40ms"], [])

    def test_names_that_come_and_go_are_absent_before_or_after(self, differences):
        changes, _ = differences(("gold: 2", "silver: 3"))
        assert changes == [
            "m/1 queue.tenants.gold: 2.0 -> absent",
            "m/1 queue.tenants.silver: absent -> 3.0",
        ]

    def test_null_is_a_value(self, differences):
        assert differences(("target_p99: 50ms", "target_p99: null"))[0] == [
            "m/1 batching.target_p99: 50ms -> null"
        ]

    @pytest.mark.parametrize(
        ("old", "new", "path"),
        [
            ("127.0.0.1:1", "127.0.0.1:2", "server.grpc"),
        ],
    )
    def test_what_is_no_models_needs_a_restart(self, differences, old, new, path):
        assert differences((old, new)) == ([], [path])

    @pytest.mark.parametrize(
        ("old", "new", "change"),
        [
            ("executor: emulated", "executor: fake", "m/1 executor: emulated -> fake"),
            ("secret: hush", "secret: louder", "m/1 options.secret: hidden -> hidden"),
            ("secret: hush", "other: hush", "m/1 options.secret: hidden -> absent"),
            ("name: other", "{name: other, instances: 2}", "other/1 instances: 1 -> 2"),
            (
                "name: other",
                "{name: other, warmup: {length: 5}}",
                "other/1 warmup.length: 16 -> 5",
            ),
        ],
    )
    def test_everything_else_of_a_model_loads_it_again(self, config, differences, old, new, change):
        if new.startswith("{"):
            old, new = f"- {old}\n    executor: emulated", f"- {new[:-1]}, executor: emulated}}"
        changes, restart = differences((old, new))
        assert (changes[0], restart) == (change, [])
        changed = parse_config(TEXT.replace(old, new, 1))
        assert any(map(loads_again, config.models, changed.models))

    @pytest.mark.parametrize(
        ("key", "value"),
        [("reload", "one_by_one"), ("drain_timeout", "5s"), ("queue", "{max_rows: 1}")],
    )
    def test_how_a_model_is_loaded_and_what_changes_in_place_loads_nothing(self, m, key, value):
        changed = type(m).model_validate(m.document() | {key: yaml.safe_load(value)})
        assert changed != m
        assert not loads_again(m, changed)

    def test_limits_of_devices_are_a_change_of_their_own(self, config):
        changed = difference(
            config, parse_config(TEXT.replace("max_in_flight: 1", "max_in_flight: 2", 1))
        )
        assert (changed.changes, changed.restart, changed.devices) == ((), (), True)
        assert not difference(config, config).devices

    def test_no_value_of_an_option_is_reported(self, differences):
        assert "louder" not in str(differences(("hush", "louder")))

    def test_models_come_and_go(self, differences):
        assert differences(("name: other", "name: another")) == (
            ["another/1: absent -> served", "other/1: served -> absent"],
            [],
        )

    def test_the_order_of_models_does_not_matter(self, config):
        turned = config.model_copy(update={"models": config.models[::-1]})
        assert difference(config, turned).restart == ()


class TestWithChanges:
    @pytest.mark.parametrize(
        ("path", "value", "of"),
        [
            ("batching.target_p99", "40ms", lambda m: m.batching.target_p99 == 40_000_000),
            ("batching.target_p99", "null", lambda m: m.batching.target_p99 is None),
            ("batching.max_batch_size", "16", lambda m: m.batching.max_batch_size == 16),
            ("queue.tenants", "{a: 1, b: 2}", lambda m: m.queue.tenants == {"a": 1, "b": 2}),
            ("queue.tenants.gold", "3", lambda m: m.queue.tenants == {"gold": 3}),
            ("queue.tenants.a.b", "3", lambda m: m.queue.tenants == {"gold": 2, "a.b": 3}),
            ("queue", "{max_requests: 5}", lambda m: m.queue.tenants == {}),
            (
                "batching.limit",
                "2s",
                lambda m: m.batching.policy_settings().limit_ns == 2_000_000_000,
            ),
            (
                "batching.limit",
                "target",
                lambda m: m.batching.policy_settings().limit_ns == 50_000_000,
            ),
            ("batching.limit", "deadline", lambda m: m.batching.policy_settings().limit_ns is None),
            (
                "batching.target_p99",
                "200ms",
                lambda m: m.batching.policy_settings().limit_ns == 2_000_000_000,
            ),
            (
                "batching.late_share",
                "0.2",
                lambda m: m.batching.policy_settings().late_share == 0.2,
            ),
            ("batching", '{"policy": "none"}', lambda m: m.batching.policy == "none"),
        ],
    )
    def test_a_value_is_set_by_its_path(self, m, path, value, of):
        changed = with_changes(m, {path: value})
        assert of(changed)
        assert changed.options == m.options

    def test_a_section_is_set_before_what_is_below_it(self, m):
        changes = {"queue.max_rows": "7", "queue": "{max_requests: 5}"}
        queue = with_changes(m, changes).queue
        assert (queue.max_requests, queue.max_rows) == (5, 7)

    @pytest.mark.parametrize(
        ("path", "value", "problem"),
        [
            ("batching.target_p99", "40", "batching.target_p99: got 40; allowed: a number with a"),
            ("batching.target", "40ms", "batching.target: unknown key; did you mean target_p99?"),
            ("target_p99", "40ms", "target_p99: unknown key; write it under batching"),
            ("instances", "2", "instances: needs the model to be loaded again, for which the"),
            ("name", "x", "name: needs the model to be loaded again"),
            ("options.base", "1ms", "options.base: needs the model to be loaded again"),
            ("queue.default_priority", "4", "queue.default_priority: got 4; allowed: 1 to"),
            (
                "batching.max_queue_delay",
                "2ms",
                "batching.max_queue_delay: no effect under policy adaptive",
            ),
            ("batching.limit", "20ms", 'got "20ms"; allowed: target_p99, which is 50ms, or longer'),
            ("batching.when_late", "serve", "batching.when_late: unknown key; leave it out"),
            ("batching.policy.x", "2", "batching.policy.x: batching.policy is a value"),
            ("batching.preferred_batch_sizes[0]", "1", "got 0; allowed: a place in a list of 0"),
            ("batching[", "1", "batching[: not a path; allowed: keys such as"),
            ("", "1", ": an empty path; allowed: keys below"),
            ("queue.timeout", "[1", "queue.timeout: not valid YAML"),
            ("queue.timeout", "${HOME}", "queue.timeout: HOME is not set"),
            ("batching", "5", "batching: got 5; allowed: a mapping with the keys policy"),
        ],
    )
    def test_what_is_wrong_is_reported_with_its_path(self, m, path, value, problem):
        with pytest.raises(ConfigError) as caught:
            with_changes(m, {path: value})
        assert len(caught.value.problems) == 1
        assert problem in caught.value.problems[0]

    def test_all_that_is_wrong_is_reported_at_once(self, m):
        with pytest.raises(ConfigError) as caught:
            with_changes(m, {"instances": "2", "batching.target_p99": "40", "queue.max": "1"})
        assert [problem.split(":")[0] for problem in caught.value.problems] == [
            "instances",
            "batching.target_p99",
            "queue.max",
        ]

    def test_a_maximum_may_be_below_a_warm_up_batch_that_has_been(self):
        text = TEXT.replace("queue:", "warmup: {batch_sizes: [1, 32]}\n    queue:", 1)
        changed = with_changes(parse_config(text).models[0], {"batching.max_batch_size": "16"})
        assert changed.batching.max_batch_size == 16
        assert changed.warmup.batch_sizes == (1, 32)


def test_what_is_shown_is_what_the_policy_reads_and_validates_again(m):
    settings = tunable_settings(m)
    assert settings["batching"]["target_p99"] == "50ms"
    assert "max_queue_delay" not in settings["batching"]
    assert settings["queue"]["tenants"] == {"gold": 2.0}
    again = type(m).model_validate({"name": "m", "executor": "emulated"} | settings)
    assert (again.batching, again.queue) == (m.batching, m.queue)
