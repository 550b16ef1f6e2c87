"""Health for probes, and reflection that is enough for a generic client to call the server."""

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc import aio

from batcher import protocol
from batcher.app import Application
from batcher.protocol import health, reflection

Answer = health.HealthCheckResponse
WAIT_S = 20
REFLECTION = "grpc.reflection.v1.ServerReflection"


@pytest.fixture
async def address(start, hello):
    return (await start(hello())).grpc.addresses[0]


async def test_a_ready_server_is_serving(address, dial):
    probe = await dial(address, protocol.HEALTH)
    for service in ("", protocol.INFERENCE):
        question = health.HealthCheckRequest(service=service)
        assert (await probe.Check(question)).status == Answer.SERVING
        watch = probe.Watch(question, timeout=WAIT_S)
        assert (await watch.read()).status == Answer.SERVING
        watch.cancel()


async def test_a_service_that_is_not_there_is_unknown(address, dial):
    probe = await dial(address, protocol.HEALTH)
    question = health.HealthCheckRequest(service="no.Such")
    with pytest.raises(aio.AioRpcError) as caught:
        await probe.Check(question)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    watch = probe.Watch(question, timeout=WAIT_S)
    assert (await watch.read()).status == Answer.SERVICE_UNKNOWN
    watch.cancel()


async def test_the_listeners_answer_while_models_load(start, hello, dial, monkeypatch):
    seen = []

    async def start_application(application):
        async def load():
            probe = await dial(application.grpc.addresses[0], protocol.HEALTH)
            seen.append((await probe.Check(health.HealthCheckRequest())).status)
            await real_load()

        real_load = application.manager.start
        monkeypatch.setattr(application.manager, "start", load)
        await real_start(application)

    real_start = Application.start
    monkeypatch.setattr(Application, "start", start_application)
    await start(hello())
    assert seen == [Answer.NOT_SERVING]


class TestReflection:
    @pytest.fixture
    async def ask(self, address, dial):
        """A function from the fields of a question to its answer, on one call for all."""
        stub = await dial(address, REFLECTION)
        call = stub.ServerReflectionInfo(timeout=WAIT_S)

        async def ask(**fields):
            await call.write(reflection.ServerReflectionRequest(**fields))
            return await call.read()

        yield ask
        call.cancel()

    async def test_every_service_is_listed(self, ask):
        answer = await ask(list_services="")
        assert [service.name for service in answer.list_services_response.service] == [
            "batcher.load.v1.LoadReports",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            "inference.GRPCInferenceService",
            "xds.service.orca.v3.OpenRcaService",
        ]

    async def test_a_client_that_knows_nothing_else_can_infer(self, ask, address):
        answer = await ask(file_containing_symbol=protocol.INFERENCE)
        pool = descriptor_pool.DescriptorPool()
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(file)
            for file in answer.file_descriptor_response.file_descriptor_proto
        ]
        for file in reversed(files):  # imports last
            pool.Add(file)
        method = pool.FindServiceByName(protocol.INFERENCE).methods_by_name["ModelInfer"]
        request = message_factory.GetMessageClass(method.input_type)(model_name="hello")
        request.inputs.add(name="X", datatype="FP32", shape=[2, 4])
        request.inputs[0].contents.fp32_contents.extend(range(8))

        async with aio.insecure_channel(address) as channel:
            infer = channel.unary_unary(
                f"/{protocol.INFERENCE}/ModelInfer",
                request_serializer=type(request).SerializeToString,
                response_deserializer=message_factory.GetMessageClass(
                    method.output_type
                ).FromString,
            )
            answer = await infer(request)

        names = [output.name for output in answer.outputs]
        outputs = dict(zip(names, answer.raw_output_contents, strict=True))
        assert np.frombuffer(outputs["Y"], np.float32).tolist() == [2 * n for n in range(8)]
