"""`batching.batch_sizes`, alone, beside other keys, and beside what an executor says."""

import pytest

from batcher.config import BatchingConfig, ExecutorBatches, loads_again, parse_config
from batcher.config.changes import tunable_settings, with_changes
from batcher.config.overrides import changed_model, sections_in_force
from batcher.errors import ConfigError

ANY = ExecutorBatches()
POWERS = ExecutorBatches(sizes=(1, 2, 4, 8))
FULL = ExecutorBatches(full=True)


def model(batching, **rest):
    text = f"models: [{{name: m, executor: emulated, batching: {batching}}}]"
    (found,) = parse_config(text).models
    return found.model_copy(update=rest)


@pytest.mark.parametrize(
    ("batching", "said"),
    [
        ("{batch_sizes: []}", "batch_sizes: got []; allowed: at least one"),
        ("{batch_sizes: [0, 4]}", "batch_sizes[0]: got 0; allowed: 1 or more"),
        ("{batch_sizes: [4, 2]}", "batch_sizes: got [4, 2]; allowed: ascending sizes, each once"),
        ("{batch_sizes: [2, 2]}", "batch_sizes: got [2, 2]; allowed: ascending sizes, each once"),
        ("{batch_sizes: [65537]}", "batch_sizes[0]: got 65537; allowed: 65536 or less"),
        ("{batch_sizes: [1.5]}", "batch_sizes[0]: got 1.5"),
        (
            "{batch_sizes: [1, 8], max_batch_size: 16}",
            "max_batch_size: got 16; allowed: one of batch_sizes, which are 1, 8",
        ),
        (
            "{batch_sizes: [4, 8], max_batch_size: 2}",
            "max_batch_size: got 2; allowed: one of batch_sizes, which are 4, 8",
        ),
        ("{batch_sizes: [1], max_batch_size: 0}", "allowed: together with another max_batch_size"),
    ],
)
def test_wrong_sizes_are_named(batching, said):
    with pytest.raises(ConfigError) as caught:
        model(batching)
    (problem,) = caught.value.problems
    assert said in problem.replace(" (line 1)", "")


def test_the_largest_size_is_the_most_rows():
    batching = model("{batch_sizes: [1, 8, 24]}").batching
    assert (batching.max_batch_size, batching.sizes) == (24, (1, 8, 24))
    assert model("{batch_sizes: [1, 8, 24], max_batch_size: 8}").batching.sizes == (1, 8)
    assert model("{}").batching.sizes == ()
    assert BatchingConfig(batch_sizes=(2, 4)).max_batch_size == 4


def test_the_warm_up_runs_the_sizes():
    assert model("{batch_sizes: [3, 24]}").warmup_sizes() == (3, 24)
    assert model("{batch_sizes: [3, 24], max_batch_size: 3}").warmup_sizes() == (3,)


def test_the_scheduler_gets_the_sizes():
    settings = model("{batch_sizes: [3, 24]}").scheduler_settings()
    assert (settings.max_batch_size, settings.batch_sizes) == (24, (3, 24))


# What the executor says


@pytest.mark.parametrize(
    ("batching", "executor", "most", "sizes"),
    [
        ("{}", ANY, 32, ()),
        ("{}", POWERS, 8, (1, 2, 4, 8)),
        ("{max_batch_size: 4}", POWERS, 4, (1, 2, 4)),
        ("{batch_sizes: [2, 8]}", POWERS, 8, (2, 8)),
        ("{batch_sizes: [2, 8]}", ANY, 8, (2, 8)),
        ("{}", ExecutorBatches(4, sizes=(1, 2, 4, 8)), 4, (1, 2, 4)),
        ("{}", ExecutorBatches(16, sizes=(1, 2)), 2, (1, 2)),
        ("{}", FULL, 32, (32,)),
        ("{max_batch_size: 4}", FULL, 4, (4,)),
        ("{batch_sizes: [4]}", FULL, 4, (4,)),
        ("{}", ExecutorBatches(6, full=True), 6, (6,)),
        ("{max_batch_size: 0}", FULL, 0, ()),
    ],
)
def test_the_section_follows_the_executor(batching, executor, most, sizes):
    fitted = model(batching).fitted(executor).batching
    assert (fitted.max_batch_size, fitted.sizes) == (most, sizes)


@pytest.mark.parametrize(
    ("batching", "executor", "said"),
    [
        (
            "{batch_sizes: [2, 3, 16]}",
            POWERS,
            "batching.batch_sizes: got 3, 16; allowed: sizes among 1, 2, 4, 8, those that the executor",
        ),
        (
            "{max_batch_size: 6}",
            POWERS,
            "batching.max_batch_size: got 6; allowed: one of 1, 2, 4, 8, the batch sizes that the",
        ),
        ("{max_batch_size: 2}", ExecutorBatches(sizes=(4, 8)), "got 2; allowed: one of 4, 8"),
        (
            "{max_batch_size: 0}",
            POWERS,
            "a model without a batch axis); allowed: one of 1, 2, 4, 8",
        ),
        ("{batch_sizes: [2, 4]}", FULL, "batching.batch_sizes: got [2, 4]; allowed: [4], as the"),
        ("{}", ExecutorBatches(sizes=(4, 2)), "the executor's batch_sizes: got 4, 2; allowed: asc"),
        ("{}", ExecutorBatches(sizes=(0, 2)), "the executor's batch_sizes: got 0, 2; allowed: asc"),
        ("{}", ExecutorBatches(2, sizes=(4, 8)), "no batch size is one that a request fits"),
        ("{max_batch_size: 8}", ExecutorBatches(4, sizes=(4, 8)), "got 8; allowed: at most 4"),
    ],
)
def test_what_an_executor_cannot_run_names_both_sides(batching, executor, said):
    with pytest.raises(ValueError, match="allowed") as caught:
        model(batching).fitted(executor)
    assert said in str(caught.value)


# Changes while the model is served


def test_other_sizes_load_the_model_again():
    before, after = model("{batch_sizes: [1, 8]}"), model("{batch_sizes: [1, 4, 8]}")
    assert loads_again(before, after)
    assert not loads_again(before, model("{batch_sizes: [1, 8], max_batch_size: 1}"))
    assert "batch_sizes" not in tunable_settings(before)["batching"]


def test_the_most_rows_change_among_the_sizes_while_the_model_is_served():
    config = model("{batch_sizes: [1, 8]}")
    assert with_changes(config, {"batching.max_batch_size": "1"}).batching.sizes == (1,)
    with pytest.raises(ConfigError, match="got 4; allowed: one of batch_sizes, which are 1, 8"):
        with_changes(config, {"batching.max_batch_size": "4"})


def test_a_recorded_model_can_be_asked_about_with_other_sizes():
    sections = {"batching": {"target_p99": "50ms"}, "queue": {}}
    assigned = ["batching.batch_sizes=[1, 16]"]
    assert changed_model(sections, assigned).scheduler_settings().batch_sizes == (1, 16)
    fitted = changed_model(sections, ()).fitted(POWERS).scheduler_settings()
    now = sections_in_force(sections, fitted)
    assert changed_model(now, ()).scheduler_settings() == fitted
