"""The sections `padding` and `outputs`."""

import pytest

from batcher.config.padding import MOST_BUCKETS
from batcher.runtime.interface.padding_rules import AxisRule, OutputRule, read_padding_rules

PADDED = """
padding:
  - {input: input_ids, axis: 1, value: 3, buckets: &tokens [16, 32]}
  - {input: attention_mask, axis: 1, buckets: *tokens}
outputs:
  - {output: hidden, axis: 1, like: {input: input_ids, axis: 1}}
  - {output: found, axis: 1, like: null}
"""


def test_an_output_may_have_labels_alone(model):
    made = model("batching: {max_batch_size: 0}\noutputs: [{output: Y, labels: /l.txt}]")
    assert str(made.label_files()["Y"]) == "/l.txt"


def test_what_is_said_becomes_rules(model):
    rules = read_padding_rules(model(PADDED), "models[0].")
    assert rules.axes == (
        AxisRule("input_ids", 1, 3, (16, 32)),
        AxisRule("attention_mask", 1, None, (16, 32)),
    )
    assert rules.outputs == (
        OutputRule("hidden", 1, ("input_ids", 1)),
        OutputRule("found", 1, None),
    )
    assert rules.path == "models[0]."


def test_what_is_said_of_rows_becomes_rules(model):
    found = model("inputs: [{input: b, batched: false}]\noutputs: [{output: y, batched: true}]")
    assert [(each.input, each.batched) for each in found.inputs] == [("b", False)]
    assert read_padding_rules(found, "").outputs == (OutputRule("y", None, None, batched=True),)


@pytest.mark.parametrize("policy", ["adaptive", "fixed", "none"])
def test_a_model_without_a_batch_axis_is_one_row_to_the_scheduler(model, policy):
    found = model(f"batching: {{max_batch_size: 0, policy: {policy}}}")
    settings = found.scheduler_settings()
    assert (settings.max_batch_size, settings.max_request_rows) == (1, 1)
    assert found.warmup_sizes() == (1,)


def test_nothing_is_padded_by_default(model):
    rules = read_padding_rules(model(), "models[0].")
    assert (rules.axes, rules.outputs) == ((), ())


@pytest.mark.parametrize("value", ["1", "1.5", "true", "'[PAD]'", ".inf", "null"])
def test_values_of_every_kind(model, value):
    (padding,) = model(f"padding: [{{input: x, axis: 1, value: {value}, buckets: [1]}}]").padding
    assert padding.value is None if value == "null" else padding.value is not None


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            "padding: [{input: x, axis: 0, buckets: [1]}]",
            "padding[0].axis: got 0; allowed: 1 or more",
        ),
        (
            "padding: [{input: x, axis: 1, buckets: [8, 4]}]",
            (
                f"padding[0].buckets: got [8, 4]; allowed: at most {MOST_BUCKETS} ascending lengths,"
                " each once"
            ),
        ),
        ("padding: [{input: x, axis: 1, buckets: []}]", "padding[0].buckets: got []; allowed: at"),
        ("padding: [{input: x, axis: 1, buckets: [0]}]", "padding[0].buckets[0]: got 0; allowed"),
        (
            "padding: [{input: x, axis: 1, value: [1], buckets: [1]}]",
            "padding[0].value: got [1]; allowed: a number, true, false, a text, or null",
        ),
        ("padding: [{axis: 1, buckets: [1]}]", "padding[0].input: missing; needed: The name of"),
        (
            "padding: [{input: x, axis: 1, buckets: [1]}, {input: x, axis: 1, buckets: [2]}]",
            "padding[1].axis: got 1; allowed: each axis of 'x' once",
        ),
        (
            (
                "padding: [{input: x, axis: 1, buckets: [1]},"
                " {input: x, axis: 2, value: 1, buckets: [2]}]"
            ),
            "padding[1].value: got 1; allowed: one value for all axes of 'x', which is None above",
        ),
        (
            (
                "padding: [{input: x, axis: 1, buckets: [1]}]\n"
                "outputs: [{output: y, axis: 1, like: null}, {output: y, axis: 1, like: null}]"
            ),
            "outputs[1].axis: got 1; allowed: each axis of 'y' once",
        ),
        (
            "outputs: [{output: y, axis: 1, like: null}]",
            "outputs: no effect without padding; allowed: axis and like together with padding",
        ),
        ("outputs: [{output: y}]", "outputs[0].axis: missing"),
        (
            "outputs: [{output: y, like: {input: x, axis: 1}, batched: true}]",
            "outputs[0].axis: mis",
        ),
        ("outputs: [{output: y, batched: false}]", "outputs[0].batched: got false; allowed: True"),
        ("inputs: [{input: b}]", "inputs[0].batched: missing"),
        (
            "inputs: [{input: b, batched: true}, {input: b, batched: false}]",
            'inputs[1].input: got "b"; allowed: each input once',
        ),
        (
            "batching: {max_batch_size: 0}\ninputs: [{input: b, batched: false}]",
            "inputs: the model has no batch axis (batching.max_batch_size is 0); allowed: none",
        ),
        (
            "batching: {max_batch_size: 0}\npadding: [{input: x, axis: 1, buckets: [1]}]",
            "padding: the model has no batch axis",
        ),
        (
            "batching: {max_batch_size: 0}\noutputs: [{output: x, batched: true}]",
            "outputs: the model has no batch axis",
        ),
        (
            "batching: {max_batch_size: 0}\nqueue: {max_batches_per_request: 2}",
            "queue.max_batches_per_request: the model has no batch axis",
        ),
        (
            "batching: {max_batch_size: 0, policy: fixed, max_queue_delay: 1ms}",
            "batching.max_queue_delay: the model has no batch axis (batching.max_batch_size is 0)",
        ),
        (
            "batching: {max_batch_size: 0, policy: fixed, preferred_batch_sizes: [1]}",
            "batching.preferred_batch_sizes: the model has no batch axis",
        ),
        (
            "batching: {max_batch_size: 0}\nwarmup: {batch_sizes: [2]}",
            "warmup.batch_sizes[0]: got 2",
        ),
        (
            "padding: [{input: x, axis: 1, buckets: [1]}]\noutputs: [{output: y, axis: 1}]",
            "outputs[0].like: missing",
        ),
    ],
    ids=lambda each: each[:40],
)
def test_what_is_wrong_is_named(model_problems, lines, expected):
    (told,) = model_problems(lines)
    assert told.startswith(f"models[0].{expected}")


def test_the_most_buckets_of_an_axis(model, model_problems):
    lengths = list(range(1, MOST_BUCKETS + 1))
    assert model(f"padding: [{{input: x, axis: 1, buckets: {lengths}}}]").padding
    (told,) = model_problems(f"padding: [{{input: x, axis: 1, buckets: {[*lengths, 99]}}}]")
    assert f"at most {MOST_BUCKETS} ascending" in told
