"""Server reflection, in both versions, over a real channel."""

import asyncio
import collections

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from batcher import protocol
from batcher.server.services.reflection import _Reflection, reflection_handlers

VERSIONS = {
    "grpc.reflection.v1": protocol.reflection,
    "grpc.reflection.v1alpha": protocol.reflection_v1alpha,
}


@pytest.fixture(params=VERSIONS)
def ask(request, serving):
    package, messages = request.param, VERSIONS[request.param]

    async def ask(**fields):
        async with serving(*reflection_handlers([protocol.INFERENCE])) as channel:
            call = protocol.Stub(channel, f"{package}.ServerReflection").ServerReflectionInfo()
            question = messages.ServerReflectionRequest(host="h", **fields)
            await call.write(question)
            await call.done_writing()
            answer = await call.read()
            assert answer.valid_host == "h"
            assert answer.original_request == question
            return answer

    return ask


def loaded(answer):
    """The names of the files, after a client has made a pool of them."""
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(each)
        for each in answer.file_descriptor_response.file_descriptor_proto
    ]
    pool = descriptor_pool.DescriptorPool()
    for file in reversed(files):
        pool.Add(file)
    for file in files:
        pool.FindFileByName(file.name)
    return [file.name for file in files]


async def test_services_are_listed(ask):
    answer = await ask(list_services="")

    assert [each.name for each in answer.list_services_response.service] == [
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
    ]


@pytest.mark.parametrize(
    "symbol",
    [
        "inference.GRPCInferenceService",
        "inference.GRPCInferenceService.ModelInfer",
        "inference.ModelInferRequest",
        "inference.ModelInferRequest.InferInputTensor",
    ],
)
async def test_a_symbol_brings_its_file_and_all_it_imports(ask, symbol):
    answer = await ask(file_containing_symbol=symbol)

    assert loaded(answer) == ["inference/service.proto", "inference/model_config.proto"]


async def test_a_file_by_its_name(ask):
    answer = await ask(file_by_filename="google/rpc/status.proto")

    assert loaded(answer) == ["google/rpc/status.proto", "google/protobuf/any.proto"]


@pytest.mark.parametrize(
    "fields",
    [
        {"file_by_filename": "no.proto"},
        {"file_containing_symbol": "no.Such"},
        {"all_extension_numbers_of_type": "no.Such"},
        {"file_containing_extension": {"containing_type": "inference.ModelConfig"}},
    ],
)
async def test_unknown_names_are_not_found(ask, fields):
    assert (await ask(**fields)).error_response.error_code == 5


async def test_our_messages_have_no_extensions(ask):
    answer = await ask(all_extension_numbers_of_type="inference.ModelConfig")

    found = answer.all_extension_numbers_response
    assert (found.base_type_name, list(found.extension_number)) == ("inference.ModelConfig", [])


async def test_a_request_for_nothing_is_invalid(ask):
    assert (await ask()).error_response.error_code == 3


@pytest.mark.parametrize("version", VERSIONS)
async def test_all_streams_together_get_one_answer_in_a_turn_of_the_loop(version):
    messages, answers = VERSIONS[version], collections.Counter()
    reflection = _Reflection(messages, [protocol.INFERENCE])

    async def requests():
        for _ in range(5):
            yield messages.ServerReflectionRequest(file_containing_symbol=protocol.INFERENCE)

    async def stream():
        async for answer in reflection.answer_all(requests(), None):
            answers[answer.valid_host] += 1

    tasks = [asyncio.create_task(stream()) for _ in range(3)]
    while answers.total() < 15:
        before = answers.total()
        await asyncio.sleep(0)
        assert answers.total() - before <= 1
    await asyncio.gather(*tasks)
