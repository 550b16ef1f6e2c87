"""Triton's names say what ours say, in the text that its tools read."""

import re
from dataclasses import replace

import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from batcher.clock import SECOND
from batcher.core.commands import Outcome, Reason
from batcher.core.observation import ModelObservation, Observation
from batcher.telemetry import ReplyReason, TritonPart
from batcher.telemetry.devices import DeviceState, DeviceStatistics
from batcher.telemetry.families import triton
from batcher.telemetry.machine import Machine
from batcher.telemetry.parts.triton import failure_of
from batcher.telemetry.reasons import ENDS
from batcher.web.exposition import render

GPU = DeviceStatistics(
    "cuda:0",
    DeviceState.OK,
    uuid="GPU-1",
    utilization=0.41,
    memory_used=8_000_000_001,
    memory_total=85_899_345_920,
    power_w=81.619,
    energy_j=1_000_000.5,
)
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def devices():
    return [GPU]


@pytest.fixture
def part(telemetry, clock, devices):
    part = TritonPart(telemetry, lambda: devices, clock)
    telemetry.add(part)
    return part


def lines(text):
    return {line.rpartition(" ")[0]: line.rpartition(" ")[2] for line in text.splitlines()}


async def scraped(registry):
    return (await render(registry, ""))[0].decode()


async def test_counts_equal_ours(registry, telemetry, model, part, stamps):
    for _ in range(3):
        model.request_ended(Outcome.OK, Reason.NONE, 5, stamps(0, 1, 3, 6, 10, 15, 21), None)
    for outcome, reason in ENDS[1:]:
        model.request_ended(outcome, reason, 1, stamps(0, 1, 0, 0, 0, 2, 2), None)
    for number in range(2):
        model.execution_started(number, "cpu", 0)
        model.batch_finished(
            rows=7,
            requests=2,
            max_batch_size=8,
            started_ns=1,
            execute_start_ns=2,
            execute_end_ns=3,
            scattered_ns=4,
            failed=bool(number),
        )
    observed = ModelObservation("m:1", 4, 9, 0, 0, None, None, None)
    telemetry.watch(lambda: Observation(0, (observed,), ()))
    found = lines(await scraped(registry))
    labels = '{model="m",version="1"}'
    assert found[f"nv_inference_request_success{labels}"] == "3"
    assert found[f"nv_inference_count{labels}"] == "15"
    assert found[f"nv_inference_exec_count{labels}"] == "1"
    assert found[f"nv_inference_pending_request_count{labels}"] == "4"
    for stage, us in (
        ("request", 63_000),
        ("queue", 6_000),
        ("compute_input", 9_000),
        ("compute_infer", 12_000),
        ("compute_output", 15_000),
    ):
        assert found[f"nv_inference_{stage}_duration_us{labels}"] == str(us)
    failures = {
        reason: int(
            found[f'nv_inference_request_failure{{model="m",version="1",reason="{reason}"}}']
        )
        for reason in triton.FAILURES
    }
    assert sum(failures.values()) == len(ENDS) - 1
    assert failures["CANCELED"] == 3


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ((Outcome.OK, Reason.NONE), None),
        ((Outcome.CANCELLED, Reason.CALLER_CANCELLED), "CANCELED"),
        ((Outcome.EXPIRED, Reason.QUEUE_TIMEOUT), "REJECTED"),
        ((Outcome.REJECTED, Reason.PREDICTED_LATE), "REJECTED"),
        ((Outcome.REJECTED, Reason.TOO_MANY_ROWS), "OTHER"),
        ((Outcome.FAILED, Reason.DEVICE_FAILURE), "BACKEND"),
        ((Outcome.FAILED, Reason.INSTANCE_DOWN), "BACKEND"),
        ((Outcome.FAILED, ReplyReason.ANSWER_TOO_LARGE), "OTHER"),
    ],
)
def test_failures_have_tritons_reasons(end, reason):
    assert failure_of(end) == reason


async def test_the_text_is_as_triton_writes_it(registry, part, model):
    """perf_analyzer reads it with an expression that knows no exponents."""
    text = await scraped(registry)
    assert "# TYPE nv_inference_request_success counter\n" in text
    assert "# TYPE nv_gpu_utilization gauge\n" in text
    for name, value in (
        ("nv_gpu_utilization", 0.41),
        ("nv_gpu_power_usage", 81.619),
        ("nv_gpu_memory_used_bytes", 8_000_000_001),
        ("nv_gpu_memory_total_bytes", 85_899_345_920),
    ):
        (found,) = re.findall(rf'\n{name}\{{gpu_uuid\="([^"]+)"\}} (\d+\.?\d*)\n', text)
        assert (found[0], float(found[1])) == ("GPU-1", value)


async def test_both_formats_and_the_library_agree(registry, telemetry, part, model):
    observed = ModelObservation("m:1", 4, 9, 0, 0, None, None, None)
    telemetry.watch(lambda: Observation(0, (observed,), ()))
    classic = {m.name: m for m in prometheus(await scraped(registry))}
    text = (await render(registry, OPENMETRICS))[0].decode()
    modern = {m.name: m for m in openmetrics(text)}
    of_library = {m.name: m for m in prometheus(generate_latest(registry).decode())}
    for family in triton.FAMILIES:
        if family.name.startswith("nv_cpu"):
            continue  # it changes from one reading to the next
        assert classic[family.name].type == family.kind
        assert modern[family.name].type == ("gauge" if family.kind == "gauge" else "unknown")
        # The parser gives every counter a name in OpenMetrics' style.
        samples = [
            (name.removesuffix("_total"), *rest)
            for name, *rest, _, _ in [sample[:5] for sample in classic[family.name].samples]
        ]
        assert samples, family.name
        for other in (modern, of_library):
            assert [sample[:3] for sample in other[family.name].samples] == samples


async def test_what_is_not_known_is_absent(registry, part, devices, model):
    devices[:] = [DeviceStatistics("cpu"), replace(GPU, utilization=None, energy_j=None)]
    text = await scraped(registry)
    assert "nv_gpu_utilization{" not in text
    assert "nv_energy_consumption{" not in text
    assert "nv_gpu_memory_used_bytes{" in text


async def test_energy_is_since_the_first_reading(registry, part, devices):
    name = 'nv_energy_consumption{gpu_uuid="GPU-1"}'
    assert lines(await scraped(registry))[name] == "0"
    later = replace(GPU, energy_j=1_000_020.0)
    devices[:] = [later, replace(later, device="another on the same GPU")]
    assert lines(await scraped(registry))[name] == "19.500000"


class TestMachine:
    @pytest.fixture
    def proc(self, tmp_path):
        (tmp_path / "stat").write_text("cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 2 3 4\n")
        (tmp_path / "meminfo").write_text(
            "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 400 kB\n"
        )
        return tmp_path

    def test_the_busy_share_is_since_the_reading_before(self, proc, clock):
        machine = Machine(clock, proc)
        assert machine.utilization() is None
        (proc / "stat").write_text("cpu  130 0 130 730 110 0 0 0 80 0\n")
        assert machine.utilization() is None
        clock.advance(SECOND)
        assert machine.utilization() == pytest.approx(0.6)
        clock.advance(SECOND // 2)
        (proc / "stat").write_text("cpu  0 0 0 0 0 0 0 0 0 0\n")
        assert machine.utilization() == pytest.approx(0.6)
        clock.advance(SECOND)
        assert machine.utilization() is None

    def test_memory(self, proc, clock):
        assert Machine(clock, proc).memory() == (1_024_000, 614_400)

    @pytest.mark.parametrize("text", [None, "", "cpu a b c", "intr 1 2 3 4 5 6 7 8"])
    def test_what_cannot_be_read_is_unknown(self, tmp_path, clock, text):
        if text is not None:
            for name in ("stat", "meminfo"):
                (tmp_path / name).write_text(text)
        machine = Machine(clock, tmp_path)
        assert machine.memory() is None
        for _ in range(2):
            assert machine.utilization() is None
            clock.advance(SECOND)

    def test_this_machine(self, clock):
        machine = Machine(clock)
        total, used = machine.memory()
        assert total > used > 0
        machine.utilization()
        clock.advance(SECOND)
        assert machine.utilization() is None or 0 <= machine.utilization() <= 1
