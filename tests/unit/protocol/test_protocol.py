"""Message classes and services of the private pool."""

import grpc
import pytest
from google.protobuf import descriptor_pool

from batcher import protocol

RPCS = """ServerLive ServerReady ModelReady ServerMetadata ModelMetadata ModelConfig ModelStatistics
ModelInfer ModelStreamInfer RepositoryIndex RepositoryModelLoad RepositoryModelUnload
SystemSharedMemoryStatus SystemSharedMemoryRegister SystemSharedMemoryUnregister
CudaSharedMemoryStatus CudaSharedMemoryRegister CudaSharedMemoryUnregister
TraceSetting LogSettings"""


def test_every_rpc_is_there():
    assert sorted(protocol.methods(protocol.INFERENCE)) == sorted(RPCS.split())


def test_a_method_knows_its_messages():
    method = protocol.methods(protocol.INFERENCE)["ModelStreamInfer"]

    assert method.path == "/inference.GRPCInferenceService/ModelStreamInfer"
    assert method.request is protocol.inference.ModelInferRequest
    assert method.response is protocol.inference.ModelStreamInferResponse
    assert method.kind == "stream_stream"


def test_an_unknown_service_or_method_is_a_key_error():
    with pytest.raises(KeyError):
        protocol.methods("no.Service")
    with pytest.raises(KeyError):
        protocol.handlers(protocol.HEALTH, {"NoMethod": print})


def test_the_default_pool_stays_clean():
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("inference.ModelInferRequest")


class Details:
    invocation_metadata = ()

    def __init__(self, method):
        self.method = method


def test_raw_methods_keep_their_bytes():
    handler = protocol.handlers(
        protocol.INFERENCE, {"ModelInfer": print, "ServerLive": print}, raw={"ModelInfer"}
    )

    def found(name):
        return handler.service(Details(f"/{protocol.INFERENCE}/{name}"))

    assert found("ModelInfer").request_deserializer is None
    assert found("ServerLive").request_deserializer is not None
    assert found("ModelReady") is None


def test_a_stub_has_the_services_methods():
    with grpc.insecure_channel("127.0.0.1:1") as channel:
        stub = protocol.Stub(channel, protocol.HEALTH)

        assert callable(stub.Check)
        with pytest.raises(AttributeError, match="NoMethod"):
            _ = stub.NoMethod


# Numbers that clients depend on, as (message, field, number).
NUMBERS = [
    ("ModelInferRequest", "raw_input_contents", 7),
    ("ModelInferResponse", "raw_output_contents", 6),
    ("InferParameter", "uint64_param", 5),
    ("InferTensorContents", "bytes_contents", 8),
    ("ModelStreamInferResponse", "infer_response", 2),
    ("ModelStatistics", "batch_stats", 7),
    ("InferStatistics", "cache_miss", 8),
]


@pytest.mark.parametrize(("message", "field", "number"), NUMBERS)
def test_field_numbers(message, field, number):
    descriptor = getattr(protocol.inference, message).DESCRIPTOR

    assert descriptor.fields_by_name[field].number == number


@pytest.mark.parametrize(
    ("field", "number"),
    [
        ("max_batch_size", 4),
        ("input", 5),
        ("dynamic_batching", 11),
        ("sequence_batching", 13),
        ("ensemble_scheduling", 15),
        ("model_transaction_policy", 19),
        ("response_cache", 24),
    ],
)
def test_config_field_numbers(field, number):
    assert protocol.model_config.ModelConfig.DESCRIPTOR.fields_by_name[field].number == number


def test_enums_are_published_with_their_values():
    assert protocol.model_config.TYPE_BF16 == 14
    assert protocol.model_config.DataType.Name(13) == "TYPE_STRING"
