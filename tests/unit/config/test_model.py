import pytest
from pydantic import ValidationError

from batcher.config import BatchingConfig, Config, ModelConfig, parse_config
from batcher.core.settings import Adaptive, FixedWindow, ModelSettings, NoBatching, QueueLimits
from batcher.errors import ConfigError


def test_the_defaults_of_a_model(model):
    found = model()
    assert (found.version, found.instances, found.device) == ("1", 1, "cpu")
    assert found.execute_timeout == 30_000_000_000
    assert found.options == {}
    assert found.scheduler_settings() == ModelSettings(
        max_batch_size=32, policy=Adaptive(), queue=QueueLimits(max_requests=1024)
    )


def test_the_scheduler_gets_nanoseconds_and_bytes(model):
    found = model("""
        batching: {policy: fixed, max_batch_size: 64, target_p99: 50ms, max_queue_delay: 2ms, preferred_batch_sizes: [8, 16]}
        queue: {max_requests: 9, max_rows: 90, max_bytes: 1MiB, timeout: 3s}
    """)
    assert found.scheduler_settings() == ModelSettings(
        max_batch_size=64,
        policy=FixedWindow(max_delay_ns=2_000_000, preferred_sizes=(8, 16)),
        queue=QueueLimits(max_requests=9, max_rows=90, max_bytes=1 << 20, timeout_ns=3_000_000_000),
        target_ns=50_000_000,
    )


def test_the_policy_none(model):
    found = model("batching: {policy: none}")
    assert found.batching.policy_settings() == NoBatching()
    assert found.batching.window() == "none"


def test_the_window_in_words(model):
    def described(lines):
        return model(f"batching: {{{lines}}}").batching.window()

    assert described("policy: fixed, max_queue_delay: 2ms") == "2ms"
    assert described("policy: fixed, max_queue_delay: 2ms, preferred_batch_sizes: [4, 8]") == (
        "2ms, prefers 4, 8"
    )
    assert described("target_p99: 50ms") == "from the target, to 80% busy"
    assert described("max_batch_size: 4") == "none: no target to wait for"


def test_the_policy_adaptive(model):
    found = model("""
        batching: {target_p99: 50ms, utilization_target: 0.6, limit: 2s, late_share: 0.1}
        queue: {priority_levels: 5, promote_after: 2s, tenants: {default: 1, gold: 4.5}}
    """).scheduler_settings()
    assert found.policy == Adaptive(0.6, 2_000_000_000, 0.1)
    assert found.queue == QueueLimits(
        priority_levels=5,
        default_priority=3,
        promote_after_ns=2_000_000_000,
        tenants=(("default", 1), ("gold", 4.5)),
    )


@pytest.mark.parametrize(
    ("keys", "limit_ns"),
    [
        ("target_p99: 50ms", 1_000_000_000),
        ("target_p99: 300ms", 3_000_000_000),
        ("target_p99: 300ms, limit: null", 3_000_000_000),
        ("target_p99: 300ms, limit: 300ms", 300_000_000),
        ("target_p99: 300ms, limit: target", 300_000_000),
        ("target_p99: 300ms, limit: deadline", None),
        ("max_batch_size: 4", None),
        ("limit: 2s", 2_000_000_000),
        ("limit: deadline", None),
    ],
)
def test_how_long_an_answer_is_of_use(model, keys, limit_ns):
    assert model(f"batching: {{{keys}}}").scheduler_settings().policy.limit_ns == limit_ns


@pytest.mark.parametrize(
    ("lines", "sizes"),
    [
        ("", (1, 2, 4, 8, 16, 32)),
        ("batching: {max_batch_size: 1}", (1,)),
        ("batching: {max_batch_size: 24}", (1, 2, 4, 8, 16, 24)),
        ("warmup: {batch_sizes: [4, 1]}", (4, 1)),
        ("warmup: {batch_sizes: []}", ()),
    ],
)
def test_the_sizes_of_the_warm_up(model, lines, sizes):
    assert model(lines).warmup_sizes() == sizes


def test_options_stay_as_they_are(model):
    found = model("options: {path: m.onnx, deep: {x: [1, 2.5, null, true]}, base: 5ms}")
    assert found.options == {"path": "m.onnx", "deep": {"x": [1, 2.5, None, True]}, "base": "5ms"}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("instances: 0", "instances: got 0; allowed: 1 or more"),
        ("instances: true", "instances: got true; allowed: a whole number"),
        ("instances: '2'", 'instances: got "2"; allowed: a whole number'),
        ("instances: 1.0", "instances: got 1.0; allowed: a whole number"),
        ("instances: 9999999999", "instances: got 9999999999; allowed: 1000000000 or less"),
        ("max_in_flight: 0", "max_in_flight: got 0; allowed: 1 or more"),
        ("version: 1", "version: got 1; allowed: text (in quotes, if it looks like a number)"),
        ("version: v1", 'version: got "v1"; allowed: a positive whole number in quotes, such as "1"'),
        ("version: '0'", 'version: got "0"; allowed: a positive whole number in quotes, such as "1"'),
        ("version: '01'", 'version: got "01"; allowed: a positive whole number in quotes, such as "1"'),
        ("execute_timeout: 30", "execute_timeout: got 30; allowed: a number with a unit"),
        ("execute_timeout: 0", "execute_timeout: got 0; allowed: longer than 0"),
        ("device: a b", 'device: got "a b"; allowed: letters, digits'),
        ("options: 3", "options: got 3; allowed: a mapping of names to settings"),
        ("options: null", "options: got null; allowed: a mapping of names to settings"),
        (
            "batching: {max_batch_size: 65537}",
            "batching.max_batch_size: got 65537; allowed: 65536 or less",
        ),
        ("batching: 3", "batching: got 3; allowed: a mapping with the keys policy, max_batch_size"),
        ("queue: {max_requests: 0}", "queue.max_requests: got 0; allowed: 1 or more"),
        ("queue: {max_bytes: 0}", "queue.max_bytes: got 0; allowed: more than 0"),
        ("queue: {timeout: 0s}", 'queue.timeout: got "0s"; allowed: longer than 0'),
        ("warmup: {length: 0}", "warmup.length: got 0; allowed: 1 or more"),
        ("warmup: {inputs: {X: null}}", "warmup.inputs.X: got null; allowed: a number, true, false, a text, or a list"),
        ("warmup: {inputs: {X: [[1]]}}", "warmup.inputs.X: got [[1]]; allowed: a number, true, false, a text, or a list"),
        ("warmup: {inputs: {X: []}}", "warmup.inputs.X: got []; allowed: a number"),
        ("health: {restart_after: 5}", "health.restart_after: no effect with isolation: thread, where no new process would begin; allowed: with"),
        ("isolation: inline\nhealth: {restart_after: 5}", "health.restart_after: no effect with isolation: inline"),
        ("warmup: {batch_sizes: [], inputs: {X: 1}}", "warmup.inputs: no effect, as batch_sizes is []; allowed: together"),
        ("warmup: {batch_sizes: [], length: 8}", "warmup.length: no effect, as batch_sizes is []; allowed: together"),
        ("warmup: {batch_sizes: 3}", "warmup.batch_sizes: got 3; allowed: a list"),
        ("warmup: {batch_sizes: [1, 64]}", "warmup.batch_sizes[1]: got 64; allowed: 1 to max_batch_size, which is 32"),
        ("batching: {target_p99: 50}", "batching.target_p99: got 50; allowed: a number with a unit"),
        ("batching: {max_queue_delay: -1ms}", 'batching.max_queue_delay: got "-1ms"; allowed: a number with a unit'),
        ("batching: {policy: fixd}", 'batching.policy: got "fixd"; allowed: adaptive, fixed, none (did you mean fixed?)'),
        ("batching: {max_queue_delay: 2ms}", "batching.max_queue_delay: no effect under policy adaptive; allowed: under policy fixed"),
        ("batching: {policy: fixed, late_share: 0.1}", "batching.late_share: no effect under policy fixed; allowed: under policy adaptive"),
        (
            "batching: {policy: fixed, limit: 2s}",
            "batching.limit: no effect under policy fixed; allowed: under policy adaptive (here queue.timeout ends what",
        ),
        (
            "batching: {policy: none, limit: deadline}",
            "batching.limit: no effect under policy none; allowed: under policy adaptive (here queue.timeout ends what",
        ),
        ("batching: {utilization_target: 0.5}", "batching.utilization_target: no effect without target_p99; allowed: together with it"),
        ("batching: {late_share: 0.1}", "batching.late_share: no effect without target_p99"),
        ("batching: {limit: target}", 'batching.limit: got "target"; allowed: a duration or deadline, as there is no target_p99'),
        ("batching: {target_p99: 50ms, limit: 20ms}", 'batching.limit: got "20ms"; allowed: target_p99, which is 50ms, or longer'),
        ("batching: {limit: 0s}", 'batching.limit: got "0s"; allowed: longer than 0, such as 50ms or 2s; or deadline or target'),
        ("batching: {limit: 5}", "batching.limit: got 5; allowed: a number with a unit"),
        ("batching: {limit: none}", 'batching.limit: got "none"; allowed: a number with a unit'),
        ("batching: {target_p99: 50ms, late_share: 0.6}", "batching.late_share: got 0.6; allowed: 0.5 or less"),
        ("batching: {target_p99: 50ms, late_share: -0.1}", "batching.late_share: got -0.1; allowed: 0.0 or more"),
        ("batching: {target_p99: 50ms, when_late: refuse}", "batching.when_late: unknown key; write limit: target instead"),
        ("batching: {target_p99: 50ms, when_late: serve}", "batching.when_late: unknown key; leave it out: requests that miss the target are served"),
        ("batching: {utilization_target: 0}", "batching.utilization_target: got 0; allowed: more than 0"),
        ("batching: {utilization_target: 1.2}", "batching.utilization_target: got 1.2; allowed: 1.0 or less"),
        ("batching: {when_late: drop}", "batching.when_late: unknown key; "),
        ("queue: {priority_levels: 17}", "queue.priority_levels: got 17; allowed: 16 or less"),
        ("queue: {priority_levels: 2, default_priority: 3}", "queue.default_priority: got 3; allowed: 1 to priority_levels, which is 2"),
        ("queue: {promote_after: 0s}", 'queue.promote_after: got "0s"; allowed: longer than 0'),
        ("queue: {tenants: {other: 2}}", 'queue.tenants.other: got "other"; allowed: another name'),
        ("queue: {tenants: {gold: 0}}", "queue.tenants.gold: got 0; allowed: more than 0"),
        ("batching: {policy: fixed, preferred_batch_sizes: [8, 4]}", "batching.preferred_batch_sizes: got [8, 4]; allowed: ascending sizes, each once"),
        ("batching: {policy: fixed, preferred_batch_sizes: [4, 4]}", "batching.preferred_batch_sizes: got [4, 4]; allowed: ascending sizes, each once"),
        (
            "batching: {policy: fixed, max_batch_size: 8, preferred_batch_sizes: [4, 16]}",
            "batching.preferred_batch_sizes[1]: got 16; allowed: 1 to max_batch_size, which is 8",
        ),
        ("batching: {policy: none, max_queue_delay: 2ms}", "batching.max_queue_delay: no effect under policy none; allowed: under policy fixed"),
        (
            "batching: {policy: none, preferred_batch_sizes: [4]}",
            "batching.preferred_batch_sizes: no effect under policy none; allowed: under policy fixed",
        ),
    ],
)  # fmt: skip
def test_a_wrong_value_names_path_value_and_what_is_allowed(model_problems, lines, expected):
    (found,) = model_problems(lines)
    assert found.startswith(f"models[0].{expected}")


@pytest.mark.parametrize("name", ["", "a/b", "../x", "-x", "a b", "é", "x" * 129, '"x\\n"'])
def test_names_are_safe(problems, name):
    (found,) = problems(f"models:\n  - {{name: {name or chr(39) * 2}, executor: emulated}}")
    assert found.startswith("models[0].name (line 2): got ")
    assert "allowed: letters, digits, '.', '_' and '-'" in found


def test_keys_of_features_that_are_not_there_are_unknown(model_problems):
    for section in ("batching", "queue"):
        (found,) = model_problems(f"{section}: {{padding: 1}}")
        assert found.startswith(f"models[0].{section}.padding: unknown key;")


def test_sections_are_frozen(model):
    with pytest.raises(ValidationError, match="frozen"):
        model().instances = 2


def test_a_dumped_configuration_validates_to_an_equal_one(parse):
    config = parse("""
        server: {drain_timeout: 1.5s, max_message: 3MB}
        models:
          - {name: a, executor: e, batching: {policy: none, target_p99: 5ms}}
          - {name: b, executor: e, device: gpu0, queue: {max_bytes: 5KiB, timeout: 1m}}
        devices: {gpu0: {max_in_flight: 3}}
    """)
    assert Config.model_validate(config.model_dump()) == config
    assert Config.model_validate_json(config.model_dump_json()) == config


def test_sections_can_be_made_in_code():
    made = ModelConfig(
        name="m", executor="e", batching=BatchingConfig(policy="fixed", max_queue_delay="2ms")
    )
    assert made.batching.max_queue_delay == 2_000_000
    with pytest.raises(ValidationError, match="no effect under policy none"):
        BatchingConfig(policy="none", max_queue_delay="2ms")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            "isolation: process, max_abandoned_threads: 5",
            "max_abandoned_threads (line 1): no effect, as a child process that hangs is killed",
        ),
        (
            "idempotent: true, sequence: {strategy: slot}",
            "idempotent (line 1): no effect, as steps of sequences are not executed twice",
        ),
        (
            # The pauses are at least 0.25, 0.5, 1, 2, 4, 8 and then 15 seconds.
            "restart: {limit: 46}",
            "restart.limit (line 1): got 46; allowed: null, or at most 45",
        ),
        (
            "restart: {limit: 4, backoff: 500ms, window: 1700ms}",
            "restart.limit (line 1): got 4; allowed: null, or at most 3",
        ),
    ],
)
def test_keys_without_effect_are_refused(keys, said):
    with pytest.raises(ConfigError) as caught:
        parse_config(f"models: [{{name: m, executor: emulated, {keys}}}]")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "keys",
    ["limit: 45", "limit: 4, window: 1750ms", "limit: 1, window: 1ms", "limit: null, window: 1ms"],
)
def test_as_many_restarts_as_the_window_has_room_for_are_taken(keys):
    parse_config(f"models: [{{name: m, executor: emulated, restart: {{{keys}}}}}]")
