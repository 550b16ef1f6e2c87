"""gRPC's own balancer gives each server the share of the calls that its load report asks for."""

import json
from dataclasses import replace

import numpy as np
import pytest
from grpc import aio

from batcher.protocol import INFERENCE, Stub
from batcher.telemetry.load import RecentLoad
from batcher.testing.messages import infer_request

CALLS = 100
QUICK = {"blackoutPeriod": "0s", "weightUpdatePeriod": "0.1s", "oobReportingPeriod": "1s"}


@pytest.fixture
async def loaded(start, hello):
    """A function that starts a server whose load report says this, whatever its load is."""

    async def loaded(desired_ratio, requests_per_second, refusals_per_second=0.0):
        application = await start(hello(server={"load_trailers": True}))
        sources, observe = application.load.sources, application.runner.observe
        sources.observe = lambda: replace(observe(), desired_ratio=desired_ratio)
        recent = RecentLoad(10.0, requests_per_second, 0.0, refusals_per_second, 0.0, 0.0)
        sources.recent = lambda _: recent
        return application

    return loaded


def answered(application):
    return sum(count for model in application.telemetry for count in model.requests.values())


async def is_shared(applications, expected, eventually, *, stream):
    """Returns when each server gets so many of `CALLS` calls, give or take two."""
    policy = {"weighted_round_robin": QUICK | {"enableOobLoadReport": stream}}
    options = [("grpc.service_config", json.dumps({"loadBalancingConfig": [policy]}))]
    target = "ipv4:" + ",".join(each.grpc.addresses[0] for each in applications)
    request = infer_request("hello", {"X": np.ones((1, 4), np.float32)})
    async with aio.insecure_channel(target, options=options) as channel:
        infer = Stub(channel, INFERENCE).ModelInfer

        async def shared():
            before = [answered(each) for each in applications]
            for _ in range(CALLS):
                await infer(request)
            shares = [answered(a) - n for a, n in zip(applications, before, strict=True)]
            return all(abs(a - b) <= 2 for a, b in zip(shares, expected, strict=True))

        await eventually(shared)


@pytest.mark.parametrize("stream", [False, True], ids=["trailers", "stream"])
async def test_the_less_loaded_server_gets_more(loaded, eventually, stream):
    servers = [await loaded(0.25, 100.0), await loaded(1.0, 100.0)]
    await is_shared(servers, (80, 20), eventually, stream=stream)


async def test_the_larger_server_gets_more_at_equal_load(loaded, eventually):
    servers = [await loaded(0.5, 300.0), await loaded(0.5, 100.0)]
    await is_shared(servers, (75, 25), eventually, stream=True)


async def test_a_server_that_refuses_gets_less(loaded, eventually):
    """The weight is requests over utilization plus the share of errors: 100 / (1 + 1), and 100 / 1."""
    servers = [await loaded(1.0, 100.0, 100.0), await loaded(1.0, 100.0)]
    await is_shared(servers, (33, 67), eventually, stream=False)


async def test_a_server_whose_load_is_unknown_gets_its_share(loaded, eventually):
    servers = [await loaded(None, 100.0), await loaded(0.1, 100.0)]
    await is_shared(servers, (50, 50), eventually, stream=False)
