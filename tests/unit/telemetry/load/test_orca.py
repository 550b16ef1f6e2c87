from __future__ import annotations

import json
from dataclasses import replace
from math import inf, nan

import pytest

from batcher.protocol import orca
from batcher.telemetry.load import DeviceLoad, OrcaTrailers, RecentLoad, TrailerFormat, whole
from batcher.telemetry.load.orca import of_model


@pytest.fixture
def report(reporter, model):
    return reporter.report()


def test_what_weighted_round_robin_reads(report):
    """Of 100 requests a second 4 are wrong, 20 are refused and 5 fail; the wrong ones are among these."""
    message = whole(report)
    assert message.application_utilization == 1.5
    assert message.rps_fractional == 96
    assert message.eps == 21
    assert message.cpu_utilization == 0


def test_what_is_not_known_says_nothing(report):
    for odd in (None, inf, nan):
        unknown = replace(
            report,
            replica=replace(report.replica, desired_ratio=odd, buffered_limit_bytes=0),
            models=(replace(report.models[0], recent=None),),
        )
        message = whole(unknown)
        assert not message.application_utilization
        assert not message.mem_utilization
        assert not message.rps_fractional


def test_rates_are_those_of_all_models_and_never_negative(report):
    def recent(requests, own):
        return RecentLoad(10.0, requests, 0.0, 0.0, 0.0, own)

    one, other = (replace(report.models[0], recent=recent(*r)) for r in ((10.0, 0.0), (5.0, 5.1)))
    message = whole(replace(report, models=(one, other)))
    assert message.rps_fractional == pytest.approx(9.9)
    assert message.eps == 0


def test_memory_is_at_most_all_of_it(report):
    replica = replace(report.replica, buffered_bytes=30, buffered_limit_bytes=20)
    assert whole(replace(report, replica=replica)).mem_utilization == 1


def test_the_stream_has_all_models_and_devices_with_labels(report):
    other = replace(report.models[0], model='o"dd\\', version="\n")
    devices = (DeviceLoad("gpu0", load_ratio=0.5, headroom_ratio=2.0),)
    named = whole(replace(report, models=(report.models[0], other), devices=devices)).named_metrics
    assert named['queue_requests{model="m",version="1"}'] == 3
    assert named[r'queue_requests{model="o\"dd\\",version="\n"}'] == 3
    assert named['device_load_ratio{device="gpu0"}'] == 0.5
    assert 'device_duty_cycle_ratio{device="gpu0"}' not in named


def test_a_name_that_is_no_unicode_can_be_sent(report):
    odd = replace(report, models=(replace(report.models[0], model="\ud800"),))
    assert whole(odd).SerializeToString()


def test_a_call_gets_its_own_model_without_labels(report):
    other = replace(report.models[0], model="other", queue_requests=9)
    report = replace(report, models=(report.models[0], other))
    assert of_model(report, "m", "1").named_metrics["queue_requests"] == 3
    assert of_model(report, "other", "").named_metrics["queue_requests"] == 9
    of_the_server = {"ready": 1.0}
    assert of_model(report, "m", "2").named_metrics == of_the_server
    assert of_model(report, "", "").named_metrics == of_the_server


def test_trailers_in_each_form_say_the_same(report):
    trailers = OrcaTrailers(lambda: report)
    ((key, data),) = trailers.current(TrailerFormat.BIN, "m", "1")
    assert key == "endpoint-load-metrics-bin"
    message = orca.OrcaLoadReport.FromString(data)
    ((key, text),) = trailers.current(TrailerFormat.JSON, "m", "1")
    assert key == "endpoint-load-metrics"
    form, _, rest = text.partition(" ")
    found = json.loads(rest)
    assert form == "JSON"
    assert found.pop("named_metrics") == dict(message.named_metrics)
    assert found["application_utilization"] == message.application_utilization
    ((_, text),) = trailers.current(TrailerFormat.TEXT, "m", "1")
    form, _, rest = text.partition(" ")
    assert form == "TEXT"
    pairs = dict(pair.split("=") for pair in rest.split(", "))
    assert pairs.pop("application_utilization") == "1.5"
    assert pairs["named_metrics.queue_requests"] == "3"


def test_trailers_are_made_once_for_a_report_and_bounded_whatever_callers_name(report):
    trailers = OrcaTrailers(lambda: report)
    first = trailers.current(TrailerFormat.BIN, "m", "1")
    assert trailers.current(TrailerFormat.BIN, "m", "1") is first
    unknown = {id(trailers.current(TrailerFormat.BIN, "m", str(n))) for n in range(2, 10_000)}
    unknown |= {id(trailers.current(TrailerFormat.BIN, str(n), "")) for n in range(10_000)}
    assert len(unknown) == 1


def test_trailers_do_not_grow_with_the_number_of_models(report):
    """Clients take 8 KiB of metadata by default."""
    many = tuple([replace(report.models[0], model=f"m{number}") for number in range(1_000)])
    trailers = OrcaTrailers(lambda: replace(report, models=many))
    for form in TrailerFormat:
        ((_, value),) = trailers.current(form, "m7", "1")
        assert len(value) < 1_024


def test_the_numbers_of_the_fields_are_those_of_cncf_xds():
    """Wire type 1 (64 bits) is a double; a map is a message of a key (1) and a value (2)."""
    message = orca.OrcaLoadReport(
        cpu_utilization=0.5,
        mem_utilization=0.5,
        rps=1,
        request_cost={"a": 0.5},
        utilization={"b": 0.5},
        rps_fractional=0.5,
        eps=0.5,
        named_metrics={"c": 0.5},
        application_utilization=0.5,
    )
    half = b"\0\0\0\0\0\0\xe0?"

    def entry(number, name):
        return bytes((number << 3 | 2, 12, 10, 1)) + name + b"\x11" + half

    def double(number):
        return bytes((number << 3 | 1,)) + half

    assert message.SerializeToString() == (
        double(1)
        + double(2)
        + b"\x18\1"
        + entry(4, b"a")
        + entry(5, b"b")
        + double(6)
        + double(7)
        + entry(8, b"c")
        + double(9)
    )
