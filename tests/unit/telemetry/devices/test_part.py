"""The families of GPUs, as a scrape has them."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from batcher.telemetry import GpusPart, Telemetry
from batcher.telemetry.devices import DeviceState, DeviceStatistics, FailureCause


@pytest.fixture
def scraped():
    def scrape(*reports):
        registry = CollectorRegistry()
        telemetry = Telemetry(registry)
        telemetry.add(GpusPart(lambda: reports))
        text = generate_latest(registry).decode()
        lines = [each for each in text.splitlines() if each.startswith("batcher_device_")]
        return dict(each.rsplit(" ", 1) for each in lines)

    return scrape


def test_a_device_without_a_gpu_has_a_state_alone(scraped):
    found = scraped(DeviceStatistics("cpu", DeviceState.NO_GPU, "none"))
    assert {name.partition("{")[0] for name in found} == {"batcher_device_statistics_state"}
    assert found['batcher_device_statistics_state{device="cpu",state="no_gpu"}'] == "1.0"
    assert len(found) == len(DeviceState)
    assert sum(map(float, found.values())) == 1


def test_what_is_not_known_is_absent(scraped):
    report = DeviceStatistics("gpu0", DeviceState.LOST, "lost", uuid="GPU-1", product="H100")
    found = scraped(report)
    assert {name.partition("{")[0] for name in found} == {
        "batcher_device_info",
        "batcher_device_statistics_state",
        "batcher_device_failed",
    }


def test_zeros_that_are_real(scraped):
    found = scraped(
        DeviceStatistics("gpu0", DeviceState.OK, uuid="GPU-1", utilization=0.0, memory_used=0)
    )
    assert found['batcher_device_utilization_ratio{device="gpu0",source="nvml"}'] == "0.0"
    assert found['batcher_device_memory_used_bytes{device="gpu0"}'] == "0.0"


def test_causes_of_a_failure(scraped):
    failures = {FailureCause.ECC: "why", FailureCause.XID: "why"}
    found = scraped(DeviceStatistics("gpu0", uuid="GPU-1", failures=failures))
    causes = {
        cause: found[f'batcher_device_failed{{cause="{cause}",device="gpu0"}}']
        for cause in FailureCause
    }
    assert causes == {"lost": "0.0", "reset_required": "0.0", "xid": "1.0", "ecc": "1.0"}


def test_xid_events(scraped):
    found = scraped(
        DeviceStatistics("gpu0", uuid="GPU-1", xid_events={31: 4, 79: 1, 0: 2}),
        DeviceStatistics("gpu1", uuid="GPU-2"),
    )
    counted = {name: count for name, count in found.items() if "xid_events" in name}
    assert not any("gpu1" in name for name in counted), "it cannot be watched"
    named = 'batcher_device_xid_events_total{{device="gpu0",xid="{}"}}'
    assert counted[named.format(31)] == "4.0"
    assert counted[named.format(79)] == "1.0"
    assert counted[named.format("other")] == "2.0"
    assert counted[named.format(119)] == "0.0", "so that increase() sees the first one"
    assert len(counted) == 14
