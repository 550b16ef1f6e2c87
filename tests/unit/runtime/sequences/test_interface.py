"""Which inputs and outputs are state: what is refused when a model loads, and what a step gets and leaves."""

from __future__ import annotations

import numpy as np
import pytest

from batcher.config import SequenceConfig
from batcher.errors import InvalidRequest, ModelLoadError
from batcher.executor import ExecutionError, ModelMetadata, TensorSpec
from batcher.runtime.execution.gather import Slice, gather
from batcher.runtime.interface.layout import Layout
from batcher.runtime.request import InferenceRequest
from batcher.runtime.sequences import resolve_sequence
from batcher.tensors import Tensor


def spec(name, datatype="FP32", shape=(-1, 2), **more):
    return TensorSpec(name, datatype, shape, **more)


def metadata(*inputs, outputs=None):
    outputs = (spec("y"), spec("h_out")) if outputs is None else outputs
    return ModelMetadata("test", (spec("x"), *inputs), outputs)


def resolve(section, found):
    return resolve_sequence("m", SequenceConfig.model_validate(section), found)


def state(**more):
    return {"state": [{"input": "h_in", "output": "h_out", **more}]}


def test_without_a_section_there_is_nothing():
    assert resolve_sequence("m", None, metadata()) is None


def test_clients_see_neither_state_nor_controls():
    section = state() | {"controls": {"start": {"input": "START"}, "id": "ID"}}
    found = resolve(
        section,
        metadata(spec("h_in"), spec("START", "BOOL", (-1, 1)), spec("ID", "INT64", (-1, 1))),
    )
    assert [each.name for each in found.clients.inputs] == ["x"]
    assert [each.name for each in found.clients.outputs] == ["y"]
    assert found.supplied == {"h_in", "START", "ID"}
    assert found.shown_outputs == ("y",)
    assert found.nbytes == 8


REFUSED = {
    "no such input": (state(), metadata(), "sequence.state[0].input: got 'h_in'; allowed: x"),
    "no such output": (
        state(),
        metadata(spec("h_in"), outputs=(spec("y"),)),
        "sequence.state[0].output: got 'h_out'; allowed: y",
    ),
    "another datatype": (
        state(),
        metadata(spec("h_in", "FP16")),
        "input 'h_in' is FP16 and output 'h_out' is FP32",
    ),
    "text": (
        state(),
        metadata(spec("h_in", "BYTES"), outputs=(spec("y"), spec("h_out", "BYTES"))),
        "allowed: two of one datatype that is not BYTES",
    ),
    "another shape": (
        state(),
        metadata(spec("h_in", shape=(-1, 3))),
        "input 'h_in' has shape [-1, 3] and output 'h_out' has [-1, 2]; allowed: equal ones",
    ),
    "a state that grows": (
        state(),
        metadata(spec("h_in", shape=(-1, -1)), outputs=(spec("y"), spec("h_out", shape=(-1, -1)))),
        "allowed: an input whose axes after the rows are all fixed",
    ),
    "no rows": (
        state(),
        metadata(spec("h_in", shape=(2,), batched=False)),
        "'h_in' has no row axis; allowed: an input with one",
    ),
    "initial values": (
        state(initial=[1, 2, 3]),
        metadata(spec("h_in")),
        "sequence.state[0].initial: allowed: one value, or the 2 of a row of shape [2]",
    ),
    "an initial value of another type": (
        state(initial=1.5),
        metadata(spec("h_in", "INT8"), outputs=(spec("y"), spec("h_out", "INT8"))),
        "a whole number from -128 to 127, for INT8",
    ),
    "much state": (
        state(),
        metadata(
            spec("h_in", shape=(-1, 300_000)),
            outputs=(spec("y"), spec("h_out", shape=(-1, 300_000))),
        ),
        "sequence.state: got 1200000 bytes for each sequence; allowed: up to 1048576",
    ),
    "a control": (
        state() | {"controls": {"end": {"input": "END", "values": [0, 300]}}},
        metadata(spec("h_in"), spec("END", "INT8", (-1, 1))),
        "sequence.controls.end.values: got [0, 300]; allowed: a whole number from -128 to 127",
    ),
    "a control of text": (
        state() | {"controls": {"end": {"input": "END"}}},
        metadata(spec("h_in"), spec("END", "BYTES", (-1, 1))),
        "'END' is BYTES; allowed: BOOL or numbers",
    ),
    "an id": (
        state() | {"controls": {"id": "ID"}},
        metadata(spec("h_in"), spec("ID", "FP32", (-1, 1))),
        "'ID' is FP32; allowed: an input of type INT32, INT64, UINT32, UINT64, BYTES",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_suit_the_model_is_refused(case):
    section, found, text = REFUSED[case]
    with pytest.raises(ModelLoadError, match="model 'm': ") as refused:
        resolve(section, found)
    assert text in str(refused.value)


def test_a_file_holds_the_initial_state(tmp_path):
    path = tmp_path / "h.bin"
    np.array([1.5, -2.0], "<f4").tofile(path)
    found = resolve(state(initial_file=path), metadata(spec("h_in")))
    assert found.initial()["h_in"].tolist() == [[1.5, -2.0]]
    path.write_bytes(b"123")
    with pytest.raises(ModelLoadError, match="a file of 8 bytes, 2 FP32 elements; it has 3"):
        resolve(state(initial_file=path), metadata(spec("h_in")))
    path.unlink()
    with pytest.raises(ModelLoadError, match=r"sequence.state\[0\].initial_file"):
        resolve(state(initial_file=path), metadata(spec("h_in")))


@pytest.mark.parametrize(
    ("datatype", "value"), [("FP16", 0.5), ("INT64", -7), ("BOOL", True), ("UINT8", 255)]
)
def test_one_initial_value_fills_the_row(datatype, value):
    found = resolve(
        state(initial=value),
        metadata(spec("h_in", datatype), outputs=(spec("y"), spec("h_out", datatype))),
    )
    array = found.initial()["h_in"]
    assert array.tolist() == [[value, value]]
    assert not array.flags.writeable


def test_a_model_without_rows_keeps_state_without_them():
    found = resolve(
        state(initial=[1, 2]),
        ModelMetadata(
            "test",
            (spec("x", shape=(2,), batched=False), spec("h_in", shape=(2,), batched=False)),
            (spec("h_out", shape=(2,), batched=False),),
        ),
    )
    assert found.initial()["h_in"].tolist() == [1.0, 2.0]
    taken = found.taken({"h_out": Tensor("FP32", np.ones(2, np.float32))})
    assert taken["h_in"].tolist() == [1.0, 1.0]


def test_what_is_taken_is_a_copy_of_the_right_shape():
    found = resolve(state(), metadata(spec("h_in")))
    out = np.ones((1, 2), np.float32)
    taken = found.taken({"h_out": Tensor("FP32", out)})
    out[:] = 5
    assert taken["h_in"].tolist() == [[1.0, 1.0]]
    with pytest.raises(ExecutionError, match=r"has shape \[1, 3\] for one row"):
        found.taken({"h_out": Tensor("FP32", np.ones((1, 3), np.float32))})


def test_ids_must_fit_their_input():
    section = state() | {"controls": {"id": "ID"}}
    numbers = resolve(section, metadata(spec("h_in"), spec("ID", "INT32", (-1, 1))))
    numbers.check_id(2**31 - 1)
    with pytest.raises(InvalidRequest, match="takes a whole number from 1 to 2147483647"):
        numbers.check_id(2**31)
    with pytest.raises(InvalidRequest, match="takes a whole number"):
        numbers.check_id("a")
    texts = resolve(section, metadata(spec("h_in"), spec("ID", "BYTES", (-1, 1))))
    texts.check_id("a")
    inputs = texts.inputs(texts.initial(), "é", start=True, end=False)
    assert inputs["ID"].array.tolist() == [["é".encode()]]
    with pytest.raises(InvalidRequest, match="is a number; this model takes text"):
        texts.check_id(7)


def test_an_executor_that_takes_raw_contents_gets_state_in_them():
    found = resolve(state(initial=[1, 2]), metadata(spec("h_in")))
    own = found.inputs(found.initial(), 7, start=True, end=False)
    inputs = {"x": Tensor("FP32", np.ones((1, 2), np.float32)), **own}
    requests = [InferenceRequest("m", inputs, 0) for _ in range(2)]
    batch = gather([Slice(each, 0, 1) for each in requests], Layout({"y": "FP32"}, raw=True))
    assert b"".join(batch.raw["h_in"]) == np.array([[1, 2], [1, 2]], "<f4").tobytes()
    assert batch.shapes["h_in"] == (2, 2)


@pytest.mark.parametrize(
    ("section", "text"),
    [
        ({}, "needed: the tensors to keep"),
        ({"strategy": "slot"} | state(), "no effect under strategy slot"),
        ({"strategy": "slot", "max_state": "1KiB"}, "no effect under strategy slot"),
        ({"state": state()["state"] * 2}, "each input once"),
        (state() | {"controls": {"start": {"input": "h_in"}}}, "each input for one purpose"),
        (
            state() | {"controls": {"start": {"input": "a"}, "id": "a"}},
            "each input for one purpose",
        ),
        (state() | {"controls": {"start": {"input": "a", "values": [1]}}}, "two values"),
        (state(initial=1, initial_file="f"), "one of the two"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(section, text):
    with pytest.raises(ValueError, match=text):
        SequenceConfig.model_validate(section)
