"""`ModelInferRequest` messages for tests, and the way from a message to a request."""

from batcher.protocol import inference
from batcher.server import messages


def wire_input(name="X", datatype="FP32", shape=(1, 2), **contents):
    fields = {"name": name, "datatype": datatype, "shape": shape}
    if contents:
        fields["contents"] = contents
    return fields


def message(*inputs, raw=(), **fields):
    return inference.ModelInferRequest(
        model_name="m", inputs=inputs, raw_input_contents=raw, **fields
    )


def read(request, **context):
    return messages.to_request(
        messages.parse(request.SerializeToString()), **{"arrival_ns": 1, **context}
    )


def one_raw_input(**fields):
    return message(wire_input(), raw=[bytes(8)], **fields)


def with_parameter(name, **value):
    request = one_raw_input()
    for choice, content in value.items():
        setattr(request.parameters[name], choice, content)
    return request
