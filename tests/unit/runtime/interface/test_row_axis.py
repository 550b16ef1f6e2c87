"""Which axes are batch axes, and which models cannot be batched."""

import pytest

from batcher.errors import ModelLoadError
from batcher.executor import Capabilities, LoadContext, ModelMetadata, TensorSpec
from batcher.runtime.interface.padding_rules import AxisRule, OutputRule, PaddingRules
from batcher.runtime.interface.resolve_padding import resolve_padding
from batcher.runtime.interface.row_axis import with_row_axes


def spec(name, *dims, **rest):
    """An FP32 spec: 2 for an axis without a name, but the first, which varies as the others do."""
    shape = tuple(2 if axis is None and at else -1 for at, axis in enumerate(dims))
    return TensorSpec(name, "FP32", shape, dims=dims, **rest)


def metadata(inputs, outputs=()):
    return ModelMetadata("t", tuple(inputs), tuple(outputs))


def fitted(inputs, outputs=(), *, max_batch_size=8, **batched):
    context = LoadContext("m", "1", 0, "cpu", max_batch_size, {}, batched=batched)
    return with_row_axes(metadata(inputs, outputs), context, Capabilities(dynamic_axes=True))


def refusal(*args, **rest):
    with pytest.raises(ModelLoadError) as caught:
        fitted(*args, **rest)
    assert str(caught.value).startswith("model 'm': inputs: ")
    return str(caught.value)


def output_refusal(inputs, outputs, *rules):
    with pytest.raises(ModelLoadError) as caught:
        resolve_padding("m", PaddingRules((), rules, "models[0]."), metadata(inputs, outputs))
    return str(caught.value)


X, B = spec("X", "n", None), spec("b", "k")


def test_an_input_that_is_declared_to_be_shared():
    found = fitted([X, B], b=False)
    assert [each.batched for each in found.inputs] == [True, False]
    assert fitted([X, spec("b", "k", batched=False)]).inputs[1].batched is False


def test_inputs_whose_first_axes_have_different_names_are_refused():
    message = refusal([X, B])
    assert "('n' in X, 'k' in b), so they are not all the batch axis" in message
    assert "{input: b, batched: false}" in message
    assert "{input: b, batched: true}" in message
    assert "batching.max_batch_size: 0" in message
    assert fitted([X, B], b=True).inputs[1].batched is True
    assert fitted([X, spec("c", None, None)]).inputs[1].batched is True, "an axis without a name"


@pytest.mark.parametrize("name", ["c", "x"])
def test_an_input_that_is_not_there_is_named(name):
    assert f"got '{name}'; allowed: X" in refusal([X], **{name: False})


def test_an_input_that_has_no_rows_cannot_be_declared_to_have_them():
    message = refusal([X, spec("b", None, batched=False)], b=True)
    assert "input 'b' has no batch axis; allowed: batched: false" in message


def test_some_input_has_rows():
    assert "none has a batch axis" in refusal([X], X=False)


def test_the_rows_axis_stands_first_and_once():
    assert "'A' has the batch axis 'n' twice" in refusal([spec("A", "n", "n")])
    message = refusal([X, spec("b", None, "n")], b=False)
    assert "'b' has the batch axis 'n' and is declared to have no batch axis" in message


def test_an_executor_without_a_batch_axis_in_its_shapes_is_refused():
    message = refusal([TensorSpec("X", "FP32", (4, 2))])
    assert "the shape of input 'X', [4, 2], has no batch axis first" in message


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([spec("Y", "n", batched=False)], "output 'Y' of shape [-1] has no batch axis first"),
        ([TensorSpec("Y", "FP32", (1, 2))], "output 'Y' of shape [1, 2] has no batch axis first"),
        ([TensorSpec("Y", "FP32", ())], "output 'Y' of shape [] has no batch axis first"),
        ([spec("Y", "n"), spec("Y", "n")], "two outputs have the name 'Y'"),
        ([TensorSpec("Y", "FLOAT", (-1,))], "output 'Y' is 'FLOAT'; allowed: BOOL, "),
        ([TensorSpec("Y", "FP32", (-1, 2), dims=("n",))], "'Y' has 1 names for the 2 axes of"),
    ],
)
def test_contradictory_metadata_is_refused(outputs, message):
    with pytest.raises(ModelLoadError) as caught:
        fitted([X], outputs)
    assert message in str(caught.value)


def test_every_problem_is_reported_at_once():
    message = refusal([X, B, spec("A", "n", "n")], c=False)
    assert "got 'c'" in message
    assert "different names" in message
    assert "twice" in message


def test_without_a_batch_axis_nothing_has_rows_and_all_names_are_fine():
    found = fitted([X, B, spec("A", "n", "n"), TensorSpec("s", "FP32", ())], [B], max_batch_size=0)
    assert not any(each.batched for each in (*found.inputs, *found.outputs))
    assert resolve_padding("m", PaddingRules((), (), ""), found) is None


# Outputs


def test_an_output_whose_first_axis_has_another_name_is_refused_unless_declared():
    message = output_refusal([X], [spec("boxes", "found", None)])
    assert message == (
        "model 'm': models[0].outputs: the first axis of output 'boxes' is 'found' in the model, and"
        " that of the inputs is 'n', so it is not the batch axis; allowed: {output: boxes, batched: true}"
        " where it is nevertheless, or batching.max_batch_size: 0 where the model has no batch axis"
    )
    assert "is another" in output_refusal([spec("X", None, None)], [spec("Y", "found")])
    declared = PaddingRules((), (OutputRule("boxes", None, None, batched=True),), "")
    assert resolve_padding("m", declared, metadata([X], [spec("boxes", "found", None)])) is None


def test_an_output_that_has_the_rows_twice_mixes_the_requests_of_a_batch():
    rule = OutputRule("alike", None, None, batched=True)
    for rules in [(), (rule,)]:
        message = output_refusal([X], [spec("alike", "n", "n")], *rules)
        assert "'alike' has the batch axis 'n' twice" in message


def test_names_that_agree_and_axes_without_names_are_fine():
    outputs = [spec("Y", "n", None), spec("Z", None, None), TensorSpec("W", "FP32", (-1, 2))]
    assert resolve_padding("m", PaddingRules((), (), ""), metadata([X], outputs)) is None


def test_a_declared_output_that_is_not_there_is_named():
    message = output_refusal([X], [spec("Y", "n")], OutputRule("Z", None, None, batched=True))
    assert "models[0].outputs[0].output: got 'Z'; allowed: Y" in message


# Padding and inputs without a batch axis


def test_a_shared_input_cannot_be_padded():
    inputs = fitted([spec("ids", "n", "seq"), spec("b", "k")], b=False).inputs
    rules = PaddingRules((AxisRule("b", 1, 0, (4,)),), (), "models[0].")
    with pytest.raises(ModelLoadError, match=r"padding\[0\]\.input: got 'b'; allowed: an input"):
        resolve_padding("m", rules, metadata(inputs))


def test_an_axis_that_a_shared_input_has_as_well_cannot_be_padded():
    inputs = fitted([spec("ids", "n", "seq"), spec("b", "seq")], b=False).inputs
    rules = PaddingRules((AxisRule("ids", 1, 0, (4,)),), (), "models[0].")
    with pytest.raises(ModelLoadError, match="ids axis 1, b axis 0 are equally long"):
        resolve_padding("m", rules, metadata(inputs))
    with_own = fitted([spec("ids", "n", "seq"), spec("b", "k")], b=False).inputs
    padding = resolve_padding("m", rules, metadata(with_own))
    assert padding.warm_buckets(3) == [((4,), (3,))]
