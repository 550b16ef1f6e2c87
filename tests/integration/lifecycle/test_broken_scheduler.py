"""A scheduler that raises: every request fails, none waits, and every surface reports it."""

import asyncio

import grpc
import pytest
from grpc import aio

from batcher.protocol import HEALTH, health, inference

WAIT_S = 20


@pytest.fixture
async def application(start, hello, tmp_path):
    flight = {"folder": str(tmp_path / "incidents")}
    return await start(hello() | {"flight_recorder": flight})


async def test_every_request_fails_and_none_waits(
    application, dial, request_of, tmp_path, eventually, monkeypatch
):
    address = application.grpc.addresses[0]
    stub, checks = await dial(address), await dial(address, HEALTH)
    watch = checks.Watch(health.HealthCheckRequest())
    assert (await watch.read()).status == health.HealthCheckResponse.SERVING
    assert await stub.ModelInfer(request_of(), timeout=WAIT_S)

    def handle(events, now_ns):
        raise KeyError("a batch group that does not exist")

    monkeypatch.setattr(application.runner._scheduler, "handle", handle)
    calls = [stub.ModelInfer(request_of(n), timeout=WAIT_S) for n in range(5)]
    for end in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(end, aio.AioRpcError)
        assert end.code() is grpc.StatusCode.INTERNAL
        assert "internal error of the scheduler: KeyError" in end.details()
    monkeypatch.undo()

    assert (await watch.read()).status == health.HealthCheckResponse.NOT_SERVING
    report = application.health()
    assert (report.ready, report.live) == (False, False)
    assert not (await stub.ServerLive(inference.ServerLiveRequest())).live
    assert not (await stub.ModelReady(inference.ModelReadyRequest(name="hello"))).ready
    labels = {"model": "hello", "version": "1", "outcome": "failed", "reason": "internal"}
    count = application.registry.get_sample_value
    assert count("batcher_requests_total", labels) == 5
    assert count("batcher_ready") == 0
    await eventually(lambda: count("batcher_incidents_total", {"reason": "internal"}) == 1)
    assert [*(tmp_path / "incidents").glob("incident-*-internal*")]

    with pytest.raises(aio.AioRpcError) as caught:
        await stub.ModelInfer(request_of(), timeout=WAIT_S)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    await application.drain()
