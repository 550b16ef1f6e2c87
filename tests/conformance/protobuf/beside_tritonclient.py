"""Run by the test beside it, in an environment with tritonclient: writes what it found as JSON.

The argument says which of the two is imported first.
"""

import importlib
import json
import sys

import numpy as np

OURS, THEIRS = "batcher.protocol", "tritonclient.grpc"


def fields(descriptor):
    """Each field as (number, type, repeated, type of its message or enum)."""
    return {
        field.name: (
            field.number,
            field.type,
            field.is_repeated,
            getattr(field.message_type or field.enum_type, "full_name", ""),
        )
        for field in descriptor.fields
    }


def nested(descriptors):
    """All messages, the nested ones as well."""
    for descriptor in descriptors:
        yield descriptor
        yield from nested(descriptor.nested_types)


def differences(our_file, pool):
    """What our messages and enums have that theirs do not have, or have otherwise."""
    found = []
    for ours in nested(our_file.message_types_by_name.values()):
        theirs = fields(pool.FindMessageTypeByName(ours.full_name))
        found += [
            f"{ours.full_name}.{name}: {field}, there {theirs.get(name)}"
            for name, field in fields(ours).items()
            if theirs.get(name) != field
        ]
    for ours in our_file.enum_types_by_name.values():
        theirs = pool.FindEnumTypeByName(ours.full_name).values_by_name
        found += [
            f"{ours.full_name}.{value.name}"
            for value in ours.values
            if value.name not in theirs or theirs[value.name].number != value.number
        ]
    return found


def absent(ours, pool):
    """Names of the service's methods that only one side has."""
    theirs = pool.FindServiceByName(ours.INFERENCE).methods_by_name
    return sorted(set(theirs) ^ set(ours.methods(ours.INFERENCE)))


def exchanged(client):
    """A request of theirs read by us, and our answer read by them."""
    from batcher.runtime.request import InferenceReply
    from batcher.server import messages
    from batcher.telemetry.stamps import Stamps
    from batcher.tensors import Tensor

    values = np.array([[1.5, 2.5]], np.float32)
    tensor = client.InferInput("X", [1, 2], "FP32")
    tensor.set_data_from_numpy(values)
    words = client.InferInput("W", [1], "BYTES")
    words.set_data_from_numpy(np.array([b"\xc3\xa9"], np.object_))
    message = client._utils._get_inference_request(  # the public calls need a server
        model_name="m",
        inputs=[tensor, words],
        model_version="",
        request_id="7",
        outputs=[client.InferRequestedOutput("X", class_count=2)],
        sequence_id=0,
        sequence_start=False,
        sequence_end=False,
        priority=3,
        timeout=1000,
        parameters={"beam": 4},
    )
    request = messages.to_request(messages.parse(message.SerializeToString()), arrival_ns=1)
    outputs = {name: Tensor(each.datatype, each.array) for name, each in request.inputs.items()}
    reply = InferenceReply(request.model, "1", request.id, outputs, Stamps(1))
    answer = client.InferResult(
        client.service_pb2.ModelInferResponse.FromString(b"".join(messages.response_parts(reply)))
    )
    return {
        "classifications": request.classifications,
        "priority": request.priority,
        "timeout_ns": request.timeout_ns,
        "parameters": request.parameters,
        "id": answer.get_response().id,
        "X": answer.as_numpy("X").tolist(),
        "W": [word.decode() for word in answer.as_numpy("W")],
    }


def main(first):
    for name in sorted((OURS, THEIRS), key=lambda each: each != first):
        importlib.import_module(name)
    ours, client = sys.modules[OURS], sys.modules[THEIRS]
    import google.protobuf
    from google.protobuf import descriptor_pool

    pool = descriptor_pool.Default()
    found = {
        "protobuf": google.protobuf.__version__,
        "differences": [
            line
            for module in (ours.inference, ours.model_config)
            for line in differences(module.DESCRIPTOR, pool)
        ],
        "absent": absent(ours, pool),
        "exchanged": exchanged(client),
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
