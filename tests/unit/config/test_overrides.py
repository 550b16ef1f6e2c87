import pytest

from batcher.config import changed_model, sections_in_force, sections_of
from batcher.errors import ConfigError

SECTIONS = {
    "batching": {"policy": "fixed", "target_p99": "50ms", "max_queue_delay": "2ms"},
    "queue": {"max_requests": 100, "tenants": {"gold": 4}},
}


def test_without_assignments_it_is_what_it_was():
    model = changed_model(SECTIONS, ())
    assert model.batching.max_queue_delay == 2_000_000
    assert model.queue.max_requests == 100


def test_values_are_read_as_the_file_has_them():
    model = changed_model(
        SECTIONS,
        [
            "batching.target_p99=40ms",
            "batching.preferred_batch_sizes=[4, 8]",
            "queue.timeout=null",
            "queue.tenants.gold=2",
            "queue.tenants.default=1",
        ],
    )
    assert model.batching.target_p99 == 40_000_000
    assert model.batching.preferred_batch_sizes == (4, 8)
    assert model.queue.timeout is None
    assert model.queue.tenants == {"gold": 2, "default": 1}
    assert SECTIONS["queue"]["tenants"] == {"gold": 4}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("batching.target_p99=40", "batching.target_p99: got 40; allowed: a number with a unit"),
        ("batching.traget_p99=40ms", "batching.traget_p99: unknown key; did you mean target_p99?"),
        ("queue.max_requests=0", "queue.max_requests: got 0; allowed: 1 or more"),
        ("batching.utilization_target=0.5", "no effect under policy fixed"),
        ("instances=2", 'got "instances=2"; allowed: batching.KEY=VALUE or queue.KEY=VALUE'),
        ("server.http=null", 'got "server.http=null"; allowed: batching.KEY=VALUE'),
        ("batching.target_p99", 'got "batching.target_p99"; allowed: batching.KEY=VALUE'),
        ("batching=1", 'got "batching=1"; allowed'),
        ("batching..policy=none", "batching..policy: not a path; allowed: keys such as"),
        ("queue.max_rows.x=1", 'queue.max_rows: got {"x": 1}; allowed: a whole'),
        ("batching.=1", 'got "batching.=1"; allowed'),
        ("batching.policy.name=x", "batching.policy.name: batching.policy is a value"),
        ("queue.timeout=[1", "queue.timeout: not valid YAML"),
        ("queue.timeout=${HOME}", "HOME is not set in the environment"),
    ],
)
def test_what_is_wrong_is_reported_with_its_path(assignment, message):
    with pytest.raises(ConfigError) as told:
        changed_model(SECTIONS, [assignment])
    assert message in str(told.value)


def test_every_problem_is_reported_at_once():
    with pytest.raises(ConfigError) as told:
        changed_model(SECTIONS, ["queue.max_requests=0", "queue.max_rows=0"])
    assert len(told.value.problems) == 2


def test_names_of_tenants_may_have_dots_and_may_be_the_first():
    model = changed_model({"queue": {}}, ["queue.tenants.a.b=2"])
    assert model.queue.tenants == {"a.b": 2}


@pytest.mark.parametrize(
    "sections",
    [
        {},
        SECTIONS,
        {"batching": {"policy": "none", "max_batch_size": 7}},
        {
            "batching": {
                "policy": "fixed",
                "max_queue_delay": "1us",
                "preferred_batch_sizes": [2, 4],
            }
        },
        {
            "batching": {
                "target_p99": "1.5s",
                "utilization_target": 0.5,
                "limit": "20s",
                "late_share": 0.1,
            },
            "queue": {
                "max_requests": 1,
                "max_groups": 5,
                "max_batches_per_request": 2,
                "max_rows": 3,
                "max_bytes": "1MB",
                "timeout": "5ns",
                "priority_levels": 4,
                "default_priority": 4,
                "promote_after": "6ms",
                "tenants": {"a": 0.5, "default": 2},
            },
        },
    ],
)
def test_settings_have_sections_that_make_them(sections):
    settings = changed_model(sections, ()).scheduler_settings()
    assert changed_model(sections_of(settings), ()).scheduler_settings() == settings


def test_what_is_in_force_is_what_was_written_but_for_what_changed():
    assert sections_in_force(SECTIONS, changed_model(SECTIONS, ()).scheduler_settings()) == SECTIONS
    tuned = changed_model(SECTIONS, ["batching.max_queue_delay=3ms", "queue.timeout=1s"])
    now = sections_in_force(SECTIONS, tuned.scheduler_settings())
    assert now["batching"] == SECTIONS["batching"] | {"max_queue_delay": "3ms"}
    assert now["queue"] == SECTIONS["queue"] | {"timeout": "1s"}


def test_keys_of_a_policy_that_is_gone_are_gone():
    other = changed_model({"batching": {"target_p99": "50ms"}}, ()).scheduler_settings()
    now = sections_in_force(SECTIONS, other)["batching"]
    assert "max_queue_delay" not in now
    assert now["policy"] == "adaptive"
    assert changed_model({"batching": now}, ()).scheduler_settings().policy == other.policy
