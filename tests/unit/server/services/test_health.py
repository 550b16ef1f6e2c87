"""The standard health service, over a real channel."""

import asyncio

import grpc
import pytest
from grpc import aio

from batcher.protocol import HEALTH, Stub, health
from batcher.server.services.health import HealthService
from batcher.server.status import MAX_MESSAGE

Answer = health.HealthCheckResponse
WAIT_S = 10


def ask(service=""):
    return health.HealthCheckRequest(service=service)


async def read(call):
    async with asyncio.timeout(WAIT_S):
        answer = await call.read()
    return answer if answer is aio.EOF else answer.status


async def test_nothing_serves_until_it_is_said(serving):
    service = HealthService()
    async with serving(service.handler()) as channel:
        stub = Stub(channel, HEALTH)

        assert (await stub.Check(ask())).status == Answer.NOT_SERVING
        service.set("", True)
        assert (await stub.Check(ask())).status == Answer.SERVING
        service.set("inference", False)
        assert (await stub.Check(ask("inference"))).status == Answer.NOT_SERVING


async def test_an_unknown_service_is_not_found(serving):
    async with serving(HealthService().handler()) as channel:
        with pytest.raises(aio.AioRpcError, match="'other' is unknown") as caught:
            await Stub(channel, HEALTH).Check(ask("other"))

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_long_name_is_not_sent_back_whole(serving):
    async with serving(HealthService().handler()) as channel:
        with pytest.raises(aio.AioRpcError) as caught:
            await Stub(channel, HEALTH).Check(ask("x" * 100_000))

    assert len(caught.value.details()) == MAX_MESSAGE


async def test_list_names_every_service(serving):
    service = HealthService()
    service.set("m", True)
    async with serving(service.handler()) as channel:
        answer = await Stub(channel, HEALTH).List(health.HealthListRequest())

    assert {name: each.status for name, each in answer.statuses.items()} == {
        "": Answer.NOT_SERVING,
        "m": Answer.SERVING,
    }


async def test_watch_sends_the_status_now_and_each_change(serving):
    service = HealthService()
    async with serving(service.handler()) as channel:
        call = Stub(channel, HEALTH).Watch(ask())
        assert await read(call) == Answer.NOT_SERVING

        service.set("", True)
        assert await read(call) == Answer.SERVING
        service.set("", True)
        service.set("", False)
        assert await read(call) == Answer.NOT_SERVING
        call.cancel()


async def test_watch_of_a_service_that_appears_later(serving):
    service = HealthService()
    async with serving(service.handler()) as channel:
        call = Stub(channel, HEALTH).Watch(ask("late"))
        assert await read(call) == Answer.SERVICE_UNKNOWN

        service.set("late", True)
        assert await read(call) == Answer.SERVING
        call.cancel()


async def test_close_notifies_watchers_and_ends_their_calls(serving):
    service = HealthService()
    service.set("", True)
    async with serving(service.handler()) as channel:
        watching = Stub(channel, HEALTH).Watch(ask())
        unknown = Stub(channel, HEALTH).Watch(ask("other"))
        assert await read(watching) == Answer.SERVING
        assert await read(unknown) == Answer.SERVICE_UNKNOWN

        service.close()

        assert await read(watching) == Answer.NOT_SERVING
        assert await read(watching) is aio.EOF
        assert await read(unknown) is aio.EOF
        assert await watching.code() is grpc.StatusCode.OK
        service.set("", True)
        assert (await Stub(channel, HEALTH).Check(ask())).status == Answer.NOT_SERVING


async def test_watchers_that_leave_are_forgotten():
    service = HealthService()
    calls = [service._watch(ask(name), None) for name in ("a", "b")]
    for call in calls:
        await anext(call)

    await calls[0].aclose()

    assert list(service._watchers) == ["b"]
    await calls[1].aclose()
    assert service._watchers == {}
