import math

import pytest

from batcher.protocol import load
from batcher.scaler.report import MAX_MODELS, Cause, UnbelievedError, read_report
from batcher.testing.replica import FakeReplica


def read(edit=lambda _: None, **attributes):
    speaker = FakeReplica()
    for name, value in attributes.items():
        setattr(speaker, name, value)
    report = speaker.report()
    edit(report)
    return read_report(report.SerializeToString())


def test_what_is_used_is_read():
    report = read(ratio=0.75, pending=3, ended=5, refused=2)
    (model,) = report.models.values()
    assert report.load == model.load == 0.75
    assert report.ready
    assert not report.reason
    assert (model.ended, model.refused, model.pending) == (7, 2, True)
    assert (model.queue_requests, model.queue_rows, model.oldest_s) == (3, 6, 0.3)
    assert report.devices["gpu0"].duty_cycle == 0.75


def test_what_is_absent_is_not_known():
    report = read(ratio=None)
    assert report.load is None
    assert report.devices["gpu0"].utilization is None


@pytest.mark.parametrize(
    "state", [{"draining": True}, {"ready": False}, {"ready": False, "draining": True}]
)
def test_a_replica_that_starts_or_drains_is_not_ready(state):
    report = read(**state)
    assert not report.ready
    assert report.reason


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.001, 1001.0, 1e300])
@pytest.mark.parametrize(
    ("part", "field"),
    [
        ("replica", "desired_ratio"),
        ("replica", "uptime_seconds"),
        ("model", "queue_backlog_seconds"),
        ("model", "oldest_waiting_age_seconds"),
        ("model", "offered_rows_per_second"),
        ("on_device", "load_ratio"),
        ("device", "duty_cycle_ratio"),
        ("recent", "requests_per_second"),
    ],
)
def test_a_number_that_cannot_be_is_not_believed(part, field, value):
    if value == 1001.0 and field not in {"desired_ratio", "load_ratio", "duty_cycle_ratio"}:
        return  # large, and possible

    def edit(report):
        model = report.models[0]
        parts = {
            "replica": report.replica,
            "model": model,
            "on_device": model.devices[0],
            "device": report.devices[0],
            "recent": model.recent,
        }
        setattr(parts[part], field, value)

    with pytest.raises(UnbelievedError, match=field) as raised:
        read(edit)
    assert raised.value.cause is Cause.NUMBER


@pytest.mark.parametrize("count", [-1, 1 << 62])
def test_a_count_that_cannot_be_is_not_believed(count):
    def edit(report):
        report.models[0].requests[0].count = count

    with pytest.raises(UnbelievedError):
        read(edit)


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xff\xff", load.LoadReport(number=3).SerializeToString()]
)
def test_what_is_no_report_is_not_believed(data):
    with pytest.raises(UnbelievedError) as raised:
        read_report(data)
    assert raised.value.cause is Cause.UNREADABLE


def test_a_report_of_too_many_models_is_not_believed():
    def edit(report):
        for _ in range(MAX_MODELS):
            report.models.add()

    with pytest.raises(UnbelievedError, match="more than"):
        read(edit)


def test_what_a_replica_calls_itself_is_short_and_on_one_line():
    def edit(report):
        report.replica.replica = "a\nb\x1b[31m" + "c" * 10_000

    name = read(edit).replica
    assert len(name) < 300
    assert name.isprintable()
