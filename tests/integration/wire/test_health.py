"""HTTP, gRPC health, readiness RPCs, index and metrics agree on the state of a model."""

import asyncio

import pytest

from batcher.clock import SECOND
from batcher.errors import BackendUnavailable
from batcher.protocol import HEALTH, INFERENCE, health, inference
from batcher.testing.fakes import double

SERVING = health.HealthCheckResponse.SERVING
NOT_SERVING = health.HealthCheckResponse.NOT_SERVING
UNKNOWN = health.HealthCheckResponse.SERVICE_UNKNOWN
WAIT_S = 20
LABELS = {"model": "hello", "version": "1"}


class Surfaces:
    """All that can be asked of the health of `hello` and of the server."""

    def __init__(self, application, data, checks):
        self.application = application
        self.data = data
        self.checks = checks

    async def model(self):
        """(state of the metrics, of the index, reason) after checking that all agree."""
        report = self.application.health()
        (hello,) = [model for model in report.models if model.name == "hello"]
        count = self.application.registry.get_sample_value
        for state in ("loading", "ready", "unready", "failed", "unloaded"):
            value = count("batcher_model_state", LABELS | {"state": state})
            assert value == (hello.state == state)
        assert hello.ready == (hello.state == "ready")
        asked = inference.ModelReadyRequest(name="hello")
        assert (await self.data.ModelReady(asked)).ready == hello.ready
        for service in ("hello", "hello/1"):
            assert await self.check(service) == (SERVING if hello.ready else NOT_SERVING)
        index = await self.data.RepositoryIndex(inference.RepositoryIndexRequest())
        (entry,) = [model for model in index.models if model.name == "hello"]
        assert entry.reason == hello.reason
        return hello.state, entry.state, hello.reason

    async def server(self):
        """Whether the server is ready, after checking that all agree."""
        ready = self.application.health().ready
        assert (await self.data.ServerReady(inference.ServerReadyRequest())).ready == ready
        assert (await self.data.ServerLive(inference.ServerLiveRequest())).live
        for service in ("", INFERENCE):
            assert await self.check(service) == (SERVING if ready else NOT_SERVING)
        assert self.application.registry.get_sample_value("batcher_ready") == ready
        return ready

    async def check(self, service):
        return (await self.checks.Check(health.HealthCheckRequest(service=service))).status


def dead(_):
    raise ConnectionError("no answer from the backend")


@pytest.fixture
async def served(start, hello, fakes, dial):
    """(surfaces, admin stub) of a server with the models `hello` and `other`."""
    quick = {"interval": "5ms", "failure_threshold": 2}
    document = hello(
        server={"admin": ["127.0.0.1:0"]},
        executor="fake",
        options={},
        execute_timeout="500ms",
        warmup={"batch_sizes": [1]},
        health=quick,
    )
    document["models"].append(document["models"][0] | {"name": "other"})
    application = await start(document)
    address = application.grpc.addresses[0]
    surfaces = Surfaces(application, await dial(address), await dial(address, HEALTH))
    return surfaces, await dial(application.grpc.admin_addresses[0])


async def test_ready(served):
    surfaces, _ = served
    assert await surfaces.model() == ("ready", "READY", "")
    assert await surfaces.server()
    listed = await surfaces.checks.List(health.HealthListRequest())
    assert set(listed.statuses) == {"", INFERENCE, "hello", "hello/1", "other", "other/1"}


async def test_unloaded_on_purpose(served):
    surfaces, admin = served
    await admin.RepositoryModelUnload(inference.RepositoryModelUnloadRequest(model_name="hello"))
    assert await surfaces.model() == ("unloaded", "UNAVAILABLE", "unloaded")
    assert await surfaces.server()
    await admin.RepositoryModelLoad(inference.RepositoryModelLoadRequest(model_name="hello"))
    assert await surfaces.model() == ("ready", "READY", "")


async def test_a_load_that_failed_and_one_that_waits(served, fakes, eventually):
    surfaces, admin = served
    await admin.RepositoryModelUnload(inference.RepositoryModelUnloadRequest(model_name="hello"))
    fakes.options["load_error"] = RuntimeError("no such weights")
    load = inference.RepositoryModelLoadRequest(model_name="hello")
    with pytest.raises(Exception, match="no such weights"):
        await admin.RepositoryModelLoad(load)
    state, index, reason = await surfaces.model()
    assert (state, index) == ("failed", "UNAVAILABLE")
    assert "no such weights" in reason
    # What fails at run time does not take the server out of service.
    assert await surfaces.server()

    fakes.options["load_error"] = BackendUnavailable("hello: connection refused")
    loading = asyncio.ensure_future(admin.RepositoryModelLoad(load))
    await eventually(lambda: "trying again" in surfaces.application.health().models[0].reason)
    expected = ("loading", "LOADING", "hello: connection refused; trying again")
    assert await surfaces.model() == expected
    assert await surfaces.server()
    del fakes.options["load_error"]
    await loading
    assert await surfaces.model() == ("ready", "READY", "")
    assert await surfaces.server()


async def test_a_lost_instance(served, fakes, request_of, eventually):
    surfaces, _ = served
    fakes.options["load_error"] = RuntimeError("the device is lost")
    hang = next(fake for fake in fakes if fake.context.model == "hello").hang_next()
    with pytest.raises(Exception, match="the instance that ran the request went down"):
        await surfaces.data.ModelInfer(request_of(), timeout=WAIT_S)
    await eventually(lambda: "device is lost" in surfaces.application.health().models[0].reason)
    state, index, _ = await surfaces.model()
    assert (state, index) == ("unready", "UNAVAILABLE")
    assert not await surfaces.server()
    del fakes.options["load_error"]
    await eventually(lambda: surfaces.application.health().ready)
    assert await surfaces.model() == ("ready", "READY", "")
    hang.release()


async def test_a_dead_backend_as_watchers_see_it(served, fakes, request_of, eventually):
    surfaces, _ = served
    watched = {
        service: surfaces.checks.Watch(health.HealthCheckRequest(service=service))
        for service in ("", "hello", "other")
    }
    for watch in watched.values():
        assert (await watch.read()).status == SERVING
    fake = next(fake for fake in fakes if fake.context.model == "hello")
    fake.default(dead)
    for _ in range(2):
        with pytest.raises(Exception, match="no answer from the backend"):
            await surfaces.data.ModelInfer(request_of(), timeout=WAIT_S)
    assert (await watched["hello"].read()).status == NOT_SERVING
    assert (await watched[""].read()).status == NOT_SERVING
    state, index, reason = await surfaces.model()
    assert (state, index) == ("unready", "UNAVAILABLE")
    assert "no answer from the backend" in reason
    assert not await surfaces.server()

    # It gets no traffic, for it is not ready; a test batch finds out.
    fake.default(double)
    assert (await watched["hello"].read()).status == SERVING
    assert (await watched[""].read()).status == SERVING
    assert await surfaces.model() == ("ready", "READY", "")
    for watch in watched.values():
        watch.cancel()
    await eventually(lambda: surfaces.application.health().ready)


async def test_unknown_models(served):
    surfaces, _ = served
    for fields in ({"name": "unknown"}, {"name": "hello", "version": "7"}):
        asked = inference.ModelReadyRequest(**fields)
        assert not (await surfaces.data.ModelReady(asked)).ready
        for question in (
            surfaces.data.ModelMetadata(inference.ModelMetadataRequest(**fields)),
            surfaces.data.ModelConfig(inference.ModelConfigRequest(**fields)),
        ):
            with pytest.raises(Exception, match="unknown"):
                await question


async def test_draining(served):
    """Nothing is ready from the first moment on, while requests are still taken."""
    surfaces, _ = served
    draining = asyncio.create_task(surfaces.application.drain(3600 * SECOND))
    await asyncio.sleep(0)
    assert not await surfaces.server()
    for service in ("hello", "hello/1"):
        assert await surfaces.check(service) == NOT_SERVING
    assert not (await surfaces.data.ModelReady(inference.ModelReadyRequest(name="hello"))).ready
    draining.cancel()
