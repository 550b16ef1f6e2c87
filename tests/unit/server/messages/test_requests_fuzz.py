"""Whatever a caller sends is a request or refused with a reason: nothing else is ever raised."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.errors import InvalidRequest, NotSupported, RequestError
from batcher.executor import ModelMetadata
from batcher.protocol import inference
from batcher.runtime.interface.signature import Signature
from batcher.server import messages
from batcher.server.status import MAX_MESSAGE, to_status
from batcher.tensors import DTYPES, TensorSpec

LIMITS = [-(2**63), -1, 0, 1, 2**31, 2**63 - 1]
names = st.sampled_from(["X", "Y", "", "x" * 70_000, "é", "\0"]) | st.text(max_size=5)
numbers = st.sampled_from(LIMITS) | st.integers(-(2**63), 2**63 - 1)
unsigned = st.sampled_from([0, 1, 2**63, 2**64 - 1])
parameter_names = st.sampled_from(
    [
        *("sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "classification"),
        *("triton_x", "triton_enable_empty_final_response", "binary_data", "beam"),
        *("shared_memory_region", "shared_memory_offset"),
    ]
)
parameters = st.dictionaries(
    parameter_names,
    st.one_of(
        st.just({}),
        st.fixed_dictionaries({"bool_param": st.booleans()}),
        st.fixed_dictionaries({"int64_param": numbers}),
        st.fixed_dictionaries({"uint64_param": unsigned}),
        st.fixed_dictionaries({"double_param": st.floats()}),
        st.fixed_dictionaries({"string_param": st.text(max_size=5)}),
    ),
    max_size=3,
)
contents = st.fixed_dictionaries(
    {},
    optional={
        "bool_contents": st.lists(st.booleans(), max_size=4),
        "int_contents": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
        "int64_contents": st.lists(numbers, max_size=4),
        "uint_contents": st.lists(st.integers(0, 2**32 - 1), max_size=4),
        "uint64_contents": st.lists(unsigned, max_size=4),
        "fp32_contents": st.lists(st.floats(width=32), max_size=4),
        "fp64_contents": st.lists(st.floats(), max_size=4),
        "bytes_contents": st.lists(st.binary(max_size=3), max_size=4),
    },
)
inputs = st.fixed_dictionaries(
    {
        "name": names,
        "datatype": st.sampled_from([*DTYPES, "", "FP8"]),
        "shape": st.lists(st.sampled_from([0, 1, 2, 4]) | numbers, max_size=3),
    },
    optional={"contents": contents, "parameters": parameters},
)
outputs = st.fixed_dictionaries({"name": names}, optional={"parameters": parameters})


@st.composite
def requests(draw):
    request = inference.ModelInferRequest(
        model_name=draw(st.sampled_from(["m", "", "x" * 5000])),
        model_version=draw(st.sampled_from(["", "1"])),
        id=draw(st.sampled_from(["", "7", "x" * 5000])),
        raw_input_contents=draw(st.lists(st.binary(max_size=20), max_size=3)),
    )
    set_parameters(request, draw(parameters))
    for message, made in (
        *((request.inputs, each) for each in draw(st.lists(inputs, max_size=3))),
        *((request.outputs, each) for each in draw(st.lists(outputs, max_size=2))),
    ):
        set_parameters(message.add(**without(made, "parameters")), made.get("parameters", {}))
    return request.SerializeToString()


def without(made, key):
    return {name: value for name, value in made.items() if name != key}


def set_parameters(message, values):
    for name, value in values.items():
        parameter = message.parameters[name]
        for choice, content in value.items():
            setattr(parameter, choice, content)


@st.composite
def mutated(draw):
    data = bytearray(draw(requests()))
    for _ in range(draw(st.integers(1, 4))):
        if data:
            at = draw(st.integers(0, len(data) - 1))
            change = draw(st.sampled_from(["set", "insert", "delete"]))
            if change == "set":
                data[at] = draw(st.integers(0, 255))
            elif change == "insert":
                data[at:at] = draw(st.binary(max_size=6))
            else:
                del data[at]
    return bytes(data)


SIGNATURE = Signature(
    "m",
    ModelMetadata(
        "p",
        (
            TensorSpec("X", "FP32", (-1, 2)),
            TensorSpec("Y", "BYTES", (-1,), optional=True),
            TensorSpec("", "INT64", (-1, -1), optional=True),
        ),
        (TensorSpec("Y", "FP32", (-1,)),),
    ),
    8,
)


def read(data):
    """The request and its measure, or why not."""
    try:
        request = messages.to_request(messages.parse(data), arrival_ns=1)
        return request, SIGNATURE.validate(request)
    except RequestError as error:
        return error


@pytest.mark.slow
@given(requests() | mutated() | st.binary(max_size=100))
def test_anything_is_a_request_or_refused(data):
    found = read(data)
    if isinstance(found, RequestError):
        assert isinstance(found, (InvalidRequest, NotSupported))
        for style in ("standard", "triton"):
            assert 0 < len(to_status(found, style).message) <= MAX_MESSAGE
        return
    request, measure = found
    assert measure.rows > 0
    assert {tensor.array.dtype for tensor in request.inputs.values()} <= set(DTYPES.values())
    assert all(-(2**63) <= n < 2**64 for n in (request.priority, request.timeout_ns or 0))


def test_a_request_of_the_fuzz_test_can_be_good():
    data = inference.ModelInferRequest(
        model_name="m",
        inputs=[{"name": "X", "datatype": "FP32", "shape": [1, 2]}],
        raw_input_contents=[np.zeros(2, np.float32).tobytes()],
    ).SerializeToString()

    assert read(data)[1].rows == 1
