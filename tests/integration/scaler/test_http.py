"""What people and Prometheus see of the scaler, and who may wake a fleet."""

import json

import pytest
from grpc import StatusCode, aio

from batcher.protocol import HEALTH, Stub, health
from batcher.scaler.families import FAMILIES


async def test_every_family_is_exported_and_no_other(fleet):
    running, _, _ = fleet
    _, text = await running.http("/metrics")
    helps = [line.split()[2] for line in text.splitlines() if line.startswith("# HELP")]
    assert helps == [family.exported_name for family in FAMILIES]


async def test_what_is_counted(fleet):
    running, client, three = fleet
    three[0].ratio = -1.0
    three[1].hangs = True
    await client.until(lambda: running.state("kept"), 2)
    await client.active()
    await client.value("speed")
    samples = await running.metrics()
    assert samples["batcher_scaler_replicas", "ranker", "known"] == 1
    assert samples["batcher_scaler_replicas", "ranker", "kept"] == 2
    assert samples["batcher_scaler_desired_ratio", "ranker"] == 1.5
    assert samples["batcher_scaler_active", "ranker"] == 1
    assert samples["batcher_scaler_discovery_ok", "ranker"] == 1
    assert samples["batcher_scaler_polls_total", "ranker", "believed"] > 0
    assert samples["batcher_scaler_polls_total", "ranker", "timeout"] > 0
    assert samples["batcher_scaler_unbelieved_reports_total", "number", "ranker"] > 0
    assert samples["batcher_scaler_report_age_seconds", "ranker"] > 0.1
    assert samples["batcher_scaler_calls_total", "OK", "IsActive"] == 1
    assert samples["batcher_scaler_calls_total", "NOT_FOUND", "GetMetrics"] == 1
    assert samples["batcher_ready",] == 1


async def test_what_is_not_known_is_absent(scaled):
    running = await scaled()
    samples = await running.metrics()
    for name in ("active", "desired_ratio", "report_age_seconds", "discovery_ok"):
        assert (f"batcher_scaler_{name}", "ranker") not in samples


async def test_the_list_that_fails_is_seen(scaled, keda_of):
    running = await scaled()
    running.listing.fails("SERVFAIL from 10.0.0.10")
    client = await keda_of(running)
    await client.until(client.active, StatusCode.UNAVAILABLE)
    assert (await running.page())["discovery"]["error"] == "SERVFAIL from 10.0.0.10"
    samples = await running.metrics()
    assert samples["batcher_scaler_discovery_ok", "ranker"] == 0
    assert samples["batcher_scaler_discoveries_total", "ranker", "failed"] >= 1


async def test_the_page_says_why(fleet):
    running, client, three = fleet
    three[0].edit = lambda report: setattr(report.replica, "desired_ratio", float("nan"))
    await client.until(lambda: running.state("kept"), 1)
    page = await running.page()
    (odd,) = [each for each in page["replicas"] if each["address"] == three[0].address]
    assert (odd["state"], odd["last_poll"]) == ("kept", "unbelieved")
    assert "desired_ratio is nan" in odd["error"]
    assert page["active"] is True
    assert three[0].address in page["reason"]
    assert page["metrics"]["desired_ratio"] == {"value": 1.5, "last": 1.5}
    assert page["metrics"]["gpu_utilization_ratio"]["value"] is None
    everything = json.loads((await running.http("/v1/fleets"))[1])
    assert [each["fleet"] for each in everything["fleets"]] == ["ranker"]
    assert (await running.http("/v1/fleets/other"))[0] == 404
    assert (await running.http("/nothing"))[0] == 404


async def test_ready_when_each_replica_was_asked(scaled, keda_of, replicas):
    running = await scaled()
    (one,) = await replicas(1)
    client = await keda_of(running)
    status, text = await running.http("/readyz")
    assert (status, json.loads(text)["ready"]) == (503, False)
    assert "ranker" in text
    assert (await running.http("/healthz"))[0] == 200
    running.listing.finds(one)

    async def ready():
        return (await running.http("/readyz"))[0]

    await client.until(ready, 200)


async def test_the_health_service(fleet):
    running, client, _ = fleet
    async with aio.insecure_channel(running.grpc) as channel:
        check = Stub(channel, HEALTH).Check

        async def serving():
            return [
                (await check(health.HealthCheckRequest(service=service))).status
                for service in ("", "externalscaler.ExternalScaler")
            ]

        await client.until(serving, [health.HealthCheckResponse.SERVING] * 2)


async def test_anyone_may_wake_by_default(scaled, keda_of):
    running = await scaled(wake_for="90s")
    running.listing.finds()
    client = await keda_of(running)
    await client.until(client.active, False)
    status, text = await running.http("/v1/fleets/ranker/wake", method="POST")
    assert (status, json.loads(text)) == (200, {"fleet": "ranker", "active_for_seconds": 90.0})
    assert await client.active() is True
    assert (await running.http("/v1/fleets/ranker/wake"))[0] == 405, "a link wakes nothing"
    status, text = await running.http("/v1/fleets/rankr/wake", method="POST")
    assert status == 404
    assert "ranker" in text


async def test_a_token_that_is_asked_for(scaled, keda_of, tmp_path):
    token = tmp_path / "token"
    token.write_text("first\n")
    running = await scaled(wake_token=str(token))
    running.listing.finds()
    client = await keda_of(running)
    await client.until(client.active, False)
    path = "/v1/fleets/ranker/wake"
    for headers in ({}, {"authorization": "Bearer second"}, {"authorization": "first"}):
        assert (await running.http(path, method="POST", headers=headers))[0] == 401
        with pytest.raises(aio.AioRpcError) as raised:
            await client.wake(metadata=tuple(headers.items()))
        assert raised.value.code() is StatusCode.UNAUTHENTICATED
    assert await client.active() is False
    token.write_text("second")
    headers = {"authorization": "Bearer second"}
    assert await client.wake(metadata=tuple(headers.items())) == 300.0
    assert (await running.http(path, method="POST", headers=headers))[0] == 200
    token.write_text("")
    headers = {"authorization": "Bearer "}
    assert (await running.http(path, method="POST", headers=headers))[0] == 401
    token.unlink()
    assert (await running.http(path, method="POST", headers=headers))[0] == 401
    samples = await running.metrics()
    assert samples["batcher_scaler_wakes_total", "ranker", "woken"] == 2
    assert samples["batcher_scaler_wakes_total", "ranker", "refused"] == 8


async def test_waking_may_be_turned_off(scaled, keda_of):
    running = await scaled(wake_for=0)
    running.listing.finds()
    client = await keda_of(running)
    await client.until(client.active, False)
    assert (await running.http("/v1/fleets/ranker/wake", method="POST"))[0] == 409
    with pytest.raises(aio.AioRpcError) as raised:
        await client.wake()
    assert raised.value.code() is StatusCode.FAILED_PRECONDITION
    assert await client.active() is False
