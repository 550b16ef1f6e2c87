"""Metadata of callers that an executor sends on: by an allow-list, bounded, and kept apart."""

import numpy as np
import pytest

from batcher.errors import InvalidRequest, ModelLoadError
from batcher.executor import Capabilities, LoadContext, ModelMetadata, TensorSpec
from batcher.runtime.execution.gather import Slice, gather
from batcher.runtime.interface.forwarded import MAX_FORWARDED, forwarded, forwarded_key, wrong_names
from batcher.runtime.interface.layout import layout_of
from batcher.runtime.interface.row_axis import with_row_axes
from batcher.runtime.interface.signature import Signature
from batcher.runtime.request import InferenceRequest
from batcher.tensors import Tensor

NAMES = ("authorization", "x-key-bin", "traceparent")
METADATA = ModelMetadata(
    "test",
    (TensorSpec("X", "FP32", (-1, 1)),),
    (TensorSpec("Y", "FP32", (-1, 1)),),
    metadata=NAMES,
)


def request(*metadata):
    inputs = {"X": Tensor("FP32", np.ones((1, 1), np.float32))}
    return InferenceRequest("m", inputs, 0, metadata=metadata)


def key(*metadata):
    return Signature("m", METADATA, 8).validate(request(*metadata)).batch_key


def sent(*requests):
    return gather([Slice(each, 0, 1) for each in requests], layout_of(METADATA)).metadata


def test_only_what_the_model_names_is_sent_on():
    alone = request(("authorization", "a"), ("cookie", "secret"), ("x-key-bin", b"\x00\xff"))
    assert sent(alone) == {"authorization": "a", "x-key-bin": b"\x00\xff"}
    assert sent(request(("cookie", "secret"))) == {}
    plain = ModelMetadata("test", METADATA.inputs, METADATA.outputs)
    assert gather([Slice(alone, 0, 1)], layout_of(plain)).metadata == {}


def test_requests_with_other_values_do_not_share_a_batch():
    assert key(("authorization", "a")) == key(("authorization", "a"), ("cookie", "c"))
    keys = [
        key(),
        key(("authorization", "a")),
        key(("authorization", "b")),
        key(("x-key-bin", b"a")),
        key(("authorization", "a"), ("x-key-bin", b"a")),
        key(("authorization", "")),
    ]
    assert len(set(keys)) == len(keys)


def test_requests_of_other_traces_share_a_batch_that_has_the_first_ones():
    first, second = request(("traceparent", "1")), request(("traceparent", "2"))
    assert key(("traceparent", "1")) == key(("traceparent", "2")) == key() == ""
    assert sent(first, second) == {"traceparent": "1"}
    assert sent(second, first) == {"traceparent": "2"}
    assert sent(request(), first) == {}


def test_a_batch_key_does_not_tell_the_values():
    told = key(("authorization", "Bearer secret"), ("x-key-bin", b"hidden"))
    assert "secret" not in told
    assert "hidden" not in told
    assert "authorization" not in told


def test_texts_of_one_name_are_joined_and_binary_values_are_not():
    assert forwarded(("a",), (("a", "1"), ("b", "x"), ("a", "2"))) == {"a": "1,2"}
    with pytest.raises(InvalidRequest, match="m: metadata a-bin may have one value, got several"):
        forwarded(("a-bin",), (("a-bin", b"1"), ("a-bin", b"2")), "m")


def test_what_is_sent_on_is_bounded():
    at_most = "v" * (MAX_FORWARDED - len("authorization"))
    assert key(("authorization", at_most), ("cookie", "c" * 99))
    with pytest.raises(InvalidRequest, match=f"8193 bytes are to be sent on.*{MAX_FORWARDED}"):
        key(("authorization", at_most + "v"))


def test_trace_context_separates_no_requests():
    assert forwarded_key({"traceparent": "1", "grpc-trace-bin": b"2"}) == ""


@pytest.mark.parametrize("name", ["X-Upper", "", "a b", "grpc-timeout", "user-agent", ":path", 1])
def test_names_that_cannot_be_sent_on_stop_the_load(name):
    wrong = ModelMetadata("test", METADATA.inputs, METADATA.outputs, metadata=(name,))
    with pytest.raises(ModelLoadError, match=r"metadata: got .*; allowed: names"):
        with_row_axes(wrong, LoadContext("m", "1", 0, "cpu", 8, {}), Capabilities())


def test_names_are_a_tuple_of_different_ones():
    assert list(wrong_names(("grpc-trace-bin", "authorization"))) == []
    assert list(wrong_names(("a", "a"))) == ["metadata: 'a' is there twice"]
    assert list(wrong_names("abc")) == ["metadata: got 'abc'; allowed: a tuple of names"]
