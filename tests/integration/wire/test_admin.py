"""Models are loaded and unloaded through an admin listener only; the index shows the result."""

import asyncio

import grpc
import pytest
from grpc import aio

from batcher.protocol import inference

WAIT_S = 20
DENIED = grpc.StatusCode.PERMISSION_DENIED
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def load(model="hello"):
    return inference.RepositoryModelLoadRequest(model_name=model)


def unload(model="hello"):
    return inference.RepositoryModelUnloadRequest(model_name=model)


async def index(stub, **fields):
    answer = await stub.RepositoryIndex(inference.RepositoryIndexRequest(**fields))
    return [(model.name, model.state, model.reason) for model in answer.models]


async def refusal(call):
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value


@pytest.fixture
async def served(start, hello, fakes, dial):
    """(application, data stub, admin stub) of a server with the models `hello` and `other`."""
    document = hello(server={"admin": ["127.0.0.1:0"]}, executor="fake", options={})
    document["models"].append(document["models"][0] | {"name": "other"})
    application = await start(document)
    data = await dial(application.grpc.addresses[0])
    return application, data, await dial(application.grpc.admin_addresses[0])


async def test_a_data_listener_changes_nothing(served, request_of):
    _, data, _ = served
    for call in (data.RepositoryModelLoad(load()), data.RepositoryModelUnload(unload())):
        error = await refusal(call)
        assert error.code() is DENIED
        assert "server.admin" in error.details()
    assert (await data.ModelInfer(request_of(), timeout=WAIT_S)).model_name == "hello"


async def test_a_data_listener_does_not_say_which_models_it_could_change(served):
    _, data, _ = served
    assert (await refusal(data.RepositoryModelUnload(unload("unknown")))).code() is DENIED


async def test_an_admin_listener_unloads_and_loads(served, fakes, request_of):
    _, data, admin = served
    assert await index(data) == [("hello", "READY", ""), ("other", "READY", "")]

    await admin.RepositoryModelUnload(unload())

    assert await index(data) == [("hello", "UNAVAILABLE", "unloaded"), ("other", "READY", "")]
    assert await index(data, ready=True) == [("other", "READY", "")]
    ready = inference.ModelReadyRequest(name="hello")
    assert not (await data.ModelReady(ready)).ready
    # A model that was unloaded on purpose does not make the server unready.
    assert (await data.ServerReady(inference.ServerReadyRequest())).ready
    error = await refusal(data.ModelInfer(request_of(), timeout=WAIT_S))
    assert error.code() is UNAVAILABLE
    assert "unloaded" in error.details()
    assert int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
    assert (await data.ModelInfer(request_of(model="other"), timeout=WAIT_S)).model_name == "other"

    await admin.RepositoryModelLoad(load())

    assert await index(data) == [("hello", "READY", ""), ("other", "READY", "")]
    assert (await data.ModelInfer(request_of(), timeout=WAIT_S)).model_name == "hello"
    assert len(fakes) == 3
    assert [call.method for call in fakes[0].calls] == ["load", "close"]


async def test_an_unload_answers_what_was_accepted_and_refuses_what_comes(
    served, fakes, request_of, eventually
):
    application, data, admin = served
    hang = fakes[0].hang_next()
    running = asyncio.ensure_future(data.ModelInfer(request_of(), timeout=WAIT_S))
    await asyncio.to_thread(hang.wait_entered)
    waiting = asyncio.ensure_future(data.ModelInfer(request_of(), timeout=WAIT_S))
    await eventually(lambda: application.batcher.unanswered == 2)

    unloading = asyncio.ensure_future(admin.RepositoryModelUnload(unload()))
    await eventually(lambda: not application.models.find("hello").ready)
    assert (await index(data))[0] == ("hello", "UNAVAILABLE", "unloading")
    error = await refusal(data.ModelInfer(request_of(), timeout=WAIT_S))
    assert error.code() is UNAVAILABLE
    assert "unloading" in error.details()
    assert not unloading.done()

    hang.release()
    assert [(await each).model_name for each in (running, waiting)] == ["hello", "hello"]
    await unloading
    assert (await index(data))[0] == ("hello", "UNAVAILABLE", "unloaded")


async def test_an_unload_refuses_what_it_cannot_answer_in_time(
    start, hello, fakes, dial, request_of
):
    document = hello(
        server={"admin": ["127.0.0.1:0"]}, executor="fake", options={}, drain_timeout="50ms"
    )
    application = await start(document)
    data = await dial(application.grpc.addresses[0])
    admin = await dial(application.grpc.admin_addresses[0])
    hang = fakes[0].hang_next()
    running = asyncio.ensure_future(data.ModelInfer(request_of(), timeout=WAIT_S))
    await asyncio.to_thread(hang.wait_entered)
    waiting = asyncio.ensure_future(data.ModelInfer(request_of(), timeout=WAIT_S))
    unloading = asyncio.ensure_future(admin.RepositoryModelUnload(unload()))
    for call in (waiting, running):
        error = await refusal(call)
        assert error.code() is UNAVAILABLE
    await unloading
    assert await index(data) == [("hello", "UNAVAILABLE", "unloaded")]
    hang.release()


async def test_a_model_that_cannot_load_says_why(served, fakes, request_of):
    _, data, admin = served
    await admin.RepositoryModelUnload(unload())
    fakes.options["load_error"] = RuntimeError("no such weights")

    error = await refusal(admin.RepositoryModelLoad(load()))
    assert error.code() is UNAVAILABLE
    assert "no such weights" in error.details()
    name, state, reason = (await index(data))[0]
    assert (name, state) == ("hello", "UNAVAILABLE")
    assert "no such weights" in reason

    del fakes.options["load_error"]
    await admin.RepositoryModelLoad(load())
    assert (await data.ModelInfer(request_of(), timeout=WAIT_S)).model_name == "hello"


async def test_unknown_models_and_overrides_are_refused(served):
    _, _, admin = served
    error = await refusal(admin.RepositoryModelLoad(load("unknown")))
    assert error.code() is grpc.StatusCode.NOT_FOUND

    request = load()
    request.parameters["config"].string_param = "{}"
    error = await refusal(admin.RepositoryModelLoad(request))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "loaded as the configuration file says" in error.details()

    request = unload()
    request.parameters["force"].bool_param = True
    error = await refusal(admin.RepositoryModelUnload(request))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "allowed: unload_dependents" in error.details()
    del request.parameters["force"]
    request.parameters["unload_dependents"].bool_param = True
    await admin.RepositoryModelUnload(request)


async def test_an_admin_listener_answers_inference_too(served, request_of):
    _, data, admin = served
    assert (await admin.ModelInfer(request_of())).model_name == "hello"
    question = inference.ServerMetadataRequest()
    assert "model_repository" in (await admin.ServerMetadata(question)).extensions
    assert "model_repository" not in (await data.ServerMetadata(question)).extensions
