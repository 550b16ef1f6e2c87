from __future__ import annotations

import pytest

from batcher.core.commands import Outcome, Reason
from batcher.telemetry.devices.statistics import DeviceState, DeviceStatistics, FailureCause
from batcher.telemetry.live import Severity, Window
from batcher.telemetry.live.problems import of_device, of_model, of_server, seconds, worst
from batcher.telemetry.load import DeviceLoad, LoadReport, ModelLoad, ReplicaLoad

OK = (Outcome.OK, Reason.NONE)
LATE = (Outcome.REJECTED, Reason.PREDICTED_LATE)
FULL = (Outcome.REJECTED, Reason.QUEUE_REQUESTS)
FAILED = (Outcome.FAILED, Reason.DEVICE_FAILURE)


def window(ended=None, late=0.0):
    return Window(10, 0, ended or {}, late, None, None, 0, None, (0,), {})


def load(state="ready", **fields):
    return ModelLoad("m", "1", state, **fields)


def found(load, window=None):
    return [(p.severity.value, p.text) for p in of_model(load, window)]


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        (load(), []),
        (load("failed", reason="no file"), [("critical", "failed: no file")]),
        (load("unready", reason="killed"), [("critical", "unready: killed")]),
        (load("loading"), [("notice", "loading")]),
        (load("unloaded"), [("notice", "unloaded")]),
        (load(reason="cannot be loaded again: x"), [("warning", "cannot be loaded again: x")]),
        (load(instances={"up": 1, "restarting": 2}), [("warning", "2 instances restarting")]),
        (
            load(
                target_seconds=0.05,
                oldest_executing_age_seconds=0.06,
                oldest_request_target_ratio=1.2,
            ),
            [("warning", "oldest request is 60 ms old, 1.2 x the target")],
        ),
        (
            load(
                target_seconds=0.05,
                oldest_waiting_age_seconds=12.0,
                oldest_request_target_ratio=240.0,
            ),
            [("critical", "oldest request is 12 s old, 2.4e+02 x the target")],
        ),
        (load(oldest_waiting_age_seconds=9.0), []),
        (
            load(oldest_executing_age_seconds=300.0),
            [("warning", "oldest request is 5 min old")],
        ),
    ],
)
def test_what_is_wrong_with_a_state_or_a_queue(load, expected):
    assert found(load) == expected


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (window(), []),
        (window({OK: 100.0}), []),
        (window({OK: 100.0}, late=1.0), []),  # the p99 target allows one in a hundred
        (window({OK: 100.0}, late=2.0), [("warning", "2 % of answers late")]),
        (window({OK: 100.0}, late=20.0), [("critical", "20 % of answers late")]),
        (
            window({OK: 999.0, LATE: 1.0}),
            [("notice", "0.1 % of requests refused (predicted_late)")],
        ),
        (
            window({OK: 90.0, LATE: 6.0, FULL: 4.0}),
            [("warning", "10 % of requests refused (predicted_late, ...)")],
        ),
        (
            window({OK: 5.0, LATE: 15.0}),
            [("critical", "75 % of requests refused (predicted_late)")],
        ),
        (
            window({OK: 999.0, FAILED: 1.0}),
            [("warning", "0.1 % of requests failed (device)")],
        ),
        # Callers that give up are no fault of the server.
        (window({OK: 1.0, (Outcome.CANCELLED, Reason.CALLER_CANCELLED): 9.0}), []),
    ],
)
def test_what_is_wrong_with_the_last_requests(window, expected):
    assert found(load(), window) == expected


def server(**fields):
    replica = {"ready": True, "draining": False, "reason": ""} | fields
    return LoadReport(1, 0.0, ReplicaLoad("r", "s", "0", 1.0, **replica), (), ())


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (server(), []),
        (server(ready=False, reason="not ready: m"), []),  # the model itself says why
        (server(ready=False, reason="starting"), [("notice", "server is not ready: starting")]),
        (server(ready=False, reason="draining"), [("warning", "server is not ready: draining")]),
        (server(desired_ratio=0.99), []),
        (server(desired_ratio=1.72), [("warning", "load for 1.7 replicas like this one")]),
    ],
)
def test_what_is_wrong_with_the_server(report, expected):
    assert [(p.severity.value, p.text) for p in of_server(report)] == expected


@pytest.mark.parametrize(
    ("statistics", "expected"),
    [
        (None, []),
        (DeviceStatistics("gpu", DeviceState.NO_DRIVER, "no driver"), []),
        (DeviceStatistics("gpu", DeviceState.OK), []),
        (
            DeviceStatistics("gpu", DeviceState.HANGING, "for 9 s"),
            [("warning", "device gpu cannot be read, hanging: for 9 s")],
        ),
        (
            DeviceStatistics("gpu", DeviceState.LOST, failures={FailureCause.LOST: "off the bus"}),
            [("critical", "device gpu has failed: off the bus")],
        ),
    ],
)
def test_what_is_wrong_with_a_device(statistics, expected):
    device = DeviceLoad("gpu", statistics=statistics)
    assert [(p.severity.value, p.text) for p in of_device(device)] == expected


def test_the_worst():
    assert worst([]) is Severity.OK
    assert worst(list(of_model(load("failed"), window({OK: 10.0}, 1.0)))) is Severity.CRITICAL


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0123, "12.3 ms"),
        (0.9996, "1 s"),
        (59.94, "59.9 s"),
        (150, "2.5 min"),
        (9000, "2.5 h"),
    ],
)
def test_times(value, text):
    assert seconds(value) == text
