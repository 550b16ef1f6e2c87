"""KEDA's protocol through the life of a fleet: from zero, steady, bursts, replicas that fail, restarts."""

import asyncio

import pytest
from grpc import StatusCode, aio

from batcher.protocol import keda
from batcher.scaler.discovery import Endpoint

UNAVAILABLE = StatusCode.UNAVAILABLE


async def test_what_keda_asks_first(fleet):
    _, client, _ = fleet
    assert await client.spec() == ("desired_ratio", 0.8)


async def test_whole_numbers_for_versions_of_keda_that_read_no_others(fleet):
    _, client, _ = fleet
    request = keda.GetMetricsRequest(scaledObjectRef=client.ref, metricName="desired_ratio")
    (value,) = (await client.stub.GetMetrics(request)).metricValues
    assert value.metricValue == 2
    (spec,) = (await client.stub.GetMetricSpec(client.ref)).metricSpecs
    assert spec.targetSize == 1


async def test_specifications_are_asked_for_and_not_pushed(scaled, keda_of):
    client = await keda_of(await scaled())
    with pytest.raises(aio.AioRpcError) as raised:
        await client.stub.StreamMetricSpec(client.ref).read()
    assert raised.value.code() is StatusCode.UNIMPLEMENTED, "KEDA then asks by GetMetricSpec"


async def test_a_load_of_zero_is_a_value(fleet):
    _, client, three = fleet
    for replica in three:
        replica.ratio = 0.0
    await client.until(client.value, 0.0)
    assert await client.active() is True


async def test_from_zero_and_back(scaled, keda_of, replicas):
    running = await scaled(idle_after="1s", wake_for="30s")
    client = await keda_of(running)
    assert await client.active() is UNAVAILABLE, "nothing is known before the first list"
    assert await client.value() is UNAVAILABLE
    running.listing.finds()
    await client.until(client.active, False)
    assert await client.value() == 0.0
    assert await client.wake() == 30.0
    assert await client.active() is True
    assert await client.value() == 0.0
    (one,) = await replicas(1, ratio=0.3)
    one.ready = False
    running.listing.finds(Endpoint(one.address, ready=False))
    await client.until(lambda: running.state("not_ready"), 1)
    await client.until(client.value, 0.8)  # the target: what starts is kept
    one.ready = True
    running.listing.finds(Endpoint(one.address, ready=True))
    await client.until(lambda: running.state("known"), 1)
    await client.until(client.value, 0.3)
    running.fleet._woken_until_ns = 0  # its time is over
    running.fleet._forget()
    assert await client.active() is True
    one.ratio = 0.0
    await client.until(client.active, False)
    running.listing.finds()
    await client.until(client.value, 0.0)
    assert await client.active() is False


async def test_a_burst_is_seen(fleet):
    _, client, three = fleet
    for replica in three:
        replica.ratio = 4.0
    await client.until(client.value, 12.0)


async def test_a_dead_replica_is_not_idle(scaled, keda_of, replicas):
    running = await scaled(idle_after="200ms")
    three = await replicas(3)
    running.listing.finds(*three)
    client = await keda_of(running)
    await client.until(client.active, False)
    await three[0].stop()
    await client.until(lambda: running.state("kept"), 1)
    for _ in range(20):
        assert await client.active() is True
        await asyncio.sleep(0.03)
    running.listing.finds(*three[1:])
    await client.until(client.active, False)


async def test_all_replicas_hang(fleet):
    running, client, three = fleet
    for replica in three:
        replica.hangs = True
    await client.until(lambda: running.state("kept"), 3)
    assert await client.value() == 1.5
    assert await client.active() is True
    running.forget(*(replica.address for replica in three))
    await client.until(client.value, UNAVAILABLE)
    assert await client.active() is True
    assert [replica.most_at_once for replica in three] == [1, 1, 1]
    for replica in three:
        replica.hangs = False
    await client.until(client.value, 1.5)


@pytest.mark.parametrize(
    ("nonsense", "result"),
    [
        ({"ratio": float("nan")}, "unbelieved"),
        ({"ratio": float("inf")}, "unbelieved"),
        ({"ratio": -1.0}, "unbelieved"),
        ({"ratio": 1e12}, "unbelieved"),
        ({"raw": b""}, "unbelieved"),
        ({"raw": b"\x00\xff nonsense"}, "unbelieved"),
        ({"raw": b"\x0a" + b"\xff" * 2_000_000}, "too_large"),
        ({"status": StatusCode.UNIMPLEMENTED}, "failed"),
        ({"status": StatusCode.RESOURCE_EXHAUSTED}, "failed"),
    ],
    ids=["nan", "inf", "negative", "absurd", "empty", "garbage", "giant", "other", "busy"],
)
async def test_nonsense_is_unknown(fleet, nonsense, result):
    running, client, three = fleet
    for name, value in nonsense.items():
        setattr(three[0], name, value)
    await client.until(lambda: running.state("kept"), 1)
    three[1].ratio = three[2].ratio = 0.75
    answers = await client.until(client.value, 2.0)
    assert all(1.5 <= answer <= 2 for answer in answers), "0.5 is what it said last"
    (odd,) = [each for each in running.fleet.replicas if each.endpoint.address == three[0].address]
    assert odd.result == result
    running.forget(three[0].address)
    await client.until(client.value, 2.25)
    assert await client.active() is True


async def test_a_replica_that_starts_again_is_known_at_once(fleet):
    running, client, three = fleet
    three[0].start_again()
    three[0].ratio = 1.0
    await client.until(client.value, 2.0)
    assert not running.fleet.counts.unbelieved


async def test_after_a_restart_of_the_scaler_nothing_is_idle_before_all_were_asked(
    scaled, keda_of, replicas
):
    three = await replicas(3)
    three[2].hangs = True
    running = await scaled(idle_after="200ms")
    running.listing.finds(*three)
    client = await keda_of(running)
    await client.until(client.active, True)
    await client.until(lambda: running.state("known"), 2)
    for _ in range(20):
        assert await client.active() is True
        await asyncio.sleep(0.03)
    three[2].hangs = False
    await client.until(client.active, False)


async def test_a_stream_says_the_state_at_once_and_when_it_changes(scaled, keda_of):
    running = await scaled()
    running.listing.finds()
    client = await keda_of(running)
    await client.until(client.active, False)
    stream = client.stub.StreamIsActive(client.ref)
    assert (await stream.read()).result is False
    await client.wake()
    assert (await stream.read()).result is True
    await running.scaler.close()
    assert await stream.read() is aio.EOF, "KEDA then asks again soon, and not after a minute"


async def test_a_stream_that_is_left_is_counted(scaled, keda_of):
    running = await scaled()
    running.listing.finds()
    client = await keda_of(running)
    stream = client.stub.StreamIsActive(client.ref)
    assert (await stream.read()).result is False
    assert (await running.metrics())["batcher_scaler_streams",] == 1
    stream.cancel()

    async def left():
        samples = await running.metrics()
        counted = samples.get(("batcher_scaler_calls_total", "CANCELLED", "StreamIsActive"))
        return samples["batcher_scaler_streams",], counted

    await client.until(left, (0, 1))


@pytest.mark.parametrize(
    ("metadata", "code", "said"),
    [
        ({"fleet": "rankr"}, StatusCode.NOT_FOUND, "did you mean ranker?"),
        ({"metric": "speed"}, StatusCode.INVALID_ARGUMENT, "desired_ratio"),
        ({"target": "none"}, StatusCode.INVALID_ARGUMENT, "0.001"),
        ({"targt": "1"}, StatusCode.INVALID_ARGUMENT, "did you mean target?"),
    ],
)
async def test_every_method_refuses_what_it_cannot_answer(scaled, keda_of, metadata, code, said):
    client = await keda_of(await scaled(), **metadata)
    request = keda.GetMetricsRequest(scaledObjectRef=client.ref, metricName="desired_ratio")
    for call in (
        client.stub.IsActive(client.ref),
        client.stub.GetMetricSpec(client.ref),
        client.stub.GetMetrics(request),
    ):
        with pytest.raises(aio.AioRpcError) as raised:
            await call
        assert raised.value.code() is code
        assert said in raised.value.details()
    with pytest.raises(aio.AioRpcError) as raised:
        await client.stub.StreamIsActive(client.ref).read()
    assert raised.value.code() is code


async def test_another_metric_than_that_of_the_trigger_is_refused(fleet):
    _, client, _ = fleet
    assert await client.value("queue_requests") is StatusCode.NOT_FOUND
    assert await client.value("s0-desired_ratio") is StatusCode.NOT_FOUND


async def test_a_model_that_no_replica_has_is_refused(fleet, keda_of):
    running, _, _ = fleet
    client = await keda_of(running, model="ranke")
    assert await client.value() is StatusCode.NOT_FOUND
    client = await keda_of(running, model="ranker")
    assert await client.value() == 1.5


async def test_metadata_chooses_among_the_fleets_of_the_file_and_names_no_address(fleet, keda_of):
    running, _, three = fleet
    client = await keda_of(running, scalerAddress="169.254.169.254:80")
    assert await client.value() == 1.5
    client = await keda_of(running, fleet=three[0].address)
    assert await client.value() is StatusCode.NOT_FOUND


async def test_two_hundred_replicas(scaled, keda_of, replicas):
    running = await scaled(poll={"interval": "1s", "timeout": "900ms"})
    many = await replicas(200, ratio=0.25)
    running.listing.finds(*many)
    client = await keda_of(running)
    await client.until(client.value, 50.0)
    await client.until(lambda: running.state("known"), 200)
    for replica in many[:50]:
        replica.hangs = True
    for replica in many[50:60]:
        replica.ratio = float("nan")
    await client.until(lambda: running.state("kept"), 60)
    for _ in range(50):
        assert await client.value() == 50.0
        assert await client.active() is True
    for replica in many:
        replica.hangs = False
