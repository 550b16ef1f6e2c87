import pytest

from batcher.autoscaling.metrics import ExternalAverage, ExternalValue, replicas
from batcher.autoscaling.metrics import Fleet as HpaFleet
from batcher.autoscaling.pods import Pod
from batcher.autoscaling.settings import HpaSettings
from batcher.scaler.aggregation import Member, estimate, size_of
from batcher.scaler.metrics import METRICS, How
from batcher.scaler.replica import State
from batcher.scaler.report import read_report
from batcher.testing.replica import FakeReplica

LOAD = METRICS["desired_ratio"]


def member(state=State.KNOWN, edit=lambda _: None, **attributes):
    """A replica in that state; without attributes, one of which nothing is known."""
    if not attributes:
        return Member(state, None)
    speaker = FakeReplica()
    for name, value in attributes.items():
        setattr(speaker, name, value)
    report = speaker.report()
    edit(report)
    return Member(state, read_report(report.SerializeToString()))


def value(*members, metric=LOAD, model=""):
    found = estimate(members, metric, model)
    return None if found is None else pytest.approx(found.value)


def test_loads_are_summed():
    assert value(member(ratio=0.5), member(ratio=1.25), member(ratio=0.0)) == 1.75


def test_a_kept_report_counts_as_it_is():
    assert value(member(ratio=0.5), member(State.KEPT, ratio=0.9)) == 1.4


def test_an_unknown_replica_counts_as_the_mean_of_the_others():
    unknown = member(State.UNKNOWN)
    assert value(member(ratio=0.5), member(ratio=1.5), unknown, unknown) == 4.0


def test_without_a_known_replica_there_is_no_value():
    assert value(member(State.UNKNOWN)) is None
    assert value(member(State.UNKNOWN), member(State.NOT_READY, ratio=0.0)) is None


def test_a_replica_that_starts_counts_as_what_it_reports_or_nothing():
    starting = member(State.NOT_READY)
    draining = member(State.NOT_READY, ratio=0.4, draining=True)
    assert value(member(ratio=0.5), starting, draining) == 0.9
    assert value(member(ratio=0.5), starting, member(State.UNKNOWN)) == 1.0


def test_an_empty_fleet_has_no_load():
    assert value() == 0.0


def test_a_load_that_a_replica_does_not_know_is_not_zero():
    busy = member(ratio=None, pending=3)
    assert value(busy) is None
    assert value(busy, member(ratio=0.7)) == 1.4


def test_a_load_that_is_not_known_of_a_replica_that_nothing_is_asked_of_is_zero():
    assert value(member(ratio=None)) == 0.0


def test_a_replica_that_has_just_begun_to_count_its_requests_is_not_quiet():
    def edit(report):
        report.models[0].ClearField("recent")

    assert value(member(edit=edit, ratio=None)) is None


def test_a_minority_does_not_shrink_a_fleet():
    one, unknown = member(ratio=0.1), member(State.UNKNOWN)
    found = estimate([one, unknown, unknown], LOAD)
    assert found.stays
    assert found.for_target(0.8, How.SUM) == pytest.approx(3 * 0.8)
    half = estimate([one, unknown], LOAD)
    assert not half.stays
    assert half.for_target(0.8, How.SUM) == pytest.approx(0.2)


def test_a_minority_may_let_a_fleet_grow():
    busy, unknown = member(ratio=3.0), member(State.UNKNOWN)
    assert estimate([busy, unknown, unknown], LOAD).for_target(0.8, How.SUM) == 9.0


def test_a_maximum_for_a_minority_is_at_least_the_target():
    metric, unknown = METRICS["oldest_request_age_seconds"], member(State.UNKNOWN)
    found = estimate([member(pending=1), unknown, unknown], metric)
    assert found.for_target(0.5, How.MAXIMUM) == 0.5


def wanted(members, pods, ready=0, most=None):
    """The size that the HPA wants of a fleet of so many pods."""
    found = estimate(members, LOAD, most=most)
    named = [Pod(str(number), ready=number < ready) for number in range(pods)]
    fleet = HpaFleet(0, pods, pods, named, HpaSettings(min_replicas=1, max_replicas=50))
    return replicas(ExternalAverage(0.8, found.for_target(0.8, How.SUM)), fleet)


def test_a_fleet_that_starts_as_a_whole_keeps_its_size():
    starting = member(State.NOT_READY)
    reporting = member(State.NOT_READY, ratio=0.0, ready=False)
    assert wanted([starting] * 10, pods=10) == 10
    assert wanted([reporting] * 10, pods=10) == 10
    # From zero: the first one.
    assert wanted([starting], pods=1) == 1


def test_a_fleet_that_is_replaced_as_a_whole_does_not_double():
    starting = member(State.NOT_READY)
    draining = member(State.NOT_READY, ratio=0.4, draining=True)
    assert wanted([starting] * 6 + [draining] * 6, pods=6) == 6
    assert estimate([draining, draining], LOAD).for_target(0.8, How.SUM) == pytest.approx(0.8)


def test_a_rollout_of_a_fleet_that_does_not_serve_does_not_let_it_grow():
    """A quarter more pods start beside those that fail. If these were wanted, the next quarter would be larger."""
    assert wanted([member(State.NOT_READY)] * 13, pods=13, most=10) == 10
    assert wanted([member(ratio=0.1)] + [member(State.UNKNOWN)] * 12, pods=13, most=10) == 10


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([], (0, False)),
        ([member(State.NOT_READY)] * 3, (3, False)),
        ([member(ratio=0.5), member(State.NOT_READY)], (2, True)),
        ([member(ratio=0.5), member(State.UNKNOWN)], (2, True)),
        ([member(ratio=0.5), *[member(State.UNKNOWN)] * 2], (3, False)),
        ([member(ratio=0.5), member(State.NOT_READY, ratio=0.4, draining=True)], (1, True)),
    ],
)
def test_the_size_of_a_fleet_and_whether_it_is_to_be_relied_on(members, expected):
    assert size_of(members) == expected


def test_replicas_that_start_beside_one_that_serves_are_not_asked_for():
    assert wanted([member(ratio=0.7), *[member(State.NOT_READY)] * 3], pods=4, ready=1) == 1


def test_a_minority_beside_replicas_that_start_does_not_shrink_a_fleet():
    members = [member(ratio=0.1)] * 2 + [member(State.UNKNOWN)] * 3 + [member(State.NOT_READY)] * 5
    assert wanted(members, pods=10, ready=5) == 10


@pytest.mark.parametrize("name", ["oldest_request_age_seconds", "duty_cycle_ratio"])
def test_a_fleet_of_which_no_replica_is_ready_keeps_its_size(name):
    """What its replicas report, the HPA multiplies by those that are ready: nothing."""
    metric = METRICS[name]
    starting, draining = member(State.NOT_READY), member(State.NOT_READY, pending=3, draining=True)
    found = estimate([starting, draining], metric)
    value, pods = found.for_target(0.5, metric.how), [Pod("a", ready=False), Pod("b", ready=False)]
    for said, wanted in ((value, 2), (0.0, 0), (5.0, 0)):
        fleet = HpaFleet(0, 2, 2, pods, HpaSettings(min_replicas=1, max_replicas=9))
        assert replicas(ExternalValue(0.5, said), fleet) == wanted


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("queue_requests", 5),
        ("queue_rows", 10),
        ("queue_backlog_seconds", 0.05),
        ("executing_requests", 0),
        ("requests_per_second", 0),
        ("offered_rows_per_second", 0),
        ("oldest_request_age_seconds", 0.3),
        ("duty_cycle_ratio", 0.75),
    ],
)
def test_every_metric_of_two_replicas(name, expected):
    two = member(ratio=0.5, pending=2), member(ratio=4.0, pending=3)
    assert value(*two, metric=METRICS[name]) == pytest.approx(expected)


def test_a_mean_is_weighted_by_devices():
    def edit(report):
        report.devices.add(device="gpu1", duty_cycle_ratio=0.0)
        report.devices.add(device="gpu2", duty_cycle_ratio=0.1)

    two = member(ratio=0.5), member(edit=edit, ratio=0.8)
    assert value(*two, metric=METRICS["duty_cycle_ratio"]) == (0.5 + 0.8 + 0.0 + 0.1) / 4


def test_a_replica_that_starts_is_in_no_mean():
    two = member(ratio=0.6), member(State.NOT_READY, ratio=0.0)
    assert value(*two, metric=METRICS["duty_cycle_ratio"]) == 0.6


def test_gpus_that_are_not_looked_at_are_not_idle():
    assert value(member(ratio=0.5), metric=METRICS["gpu_utilization_ratio"]) is None


def with_another_model(report):
    other = report.models.add(model="other", version="1", state="ready", queue_requests=7)
    other.devices.add(device="gpu0", load_ratio=0.3)
    other.recent.window_seconds = 10


def test_a_model_alone():
    one = member(edit=with_another_model, ratio=0.9, pending=2)
    assert value(one, model="other") == 0.3
    assert value(one, metric=METRICS["queue_requests"], model="other") == 7
    assert value(one, metric=METRICS["queue_requests"]) == 9
    assert value(one, model="missing") == 0


def test_a_model_without_a_target_is_not_missed():
    def edit(report):
        report.models[0].target_seconds = 0.05
        report.models[0].oldest_request_target_ratio = 1.5
        with_another_model(report)

    metric = METRICS["oldest_request_target_ratio"]
    assert value(member(edit=edit, ratio=0.5), metric=metric) == 1.5


def test_a_model_that_is_unloaded_is_not_missed():
    def edit(report):
        report.models.add(model="gone", version="1", state="unloaded")

    metric = METRICS["queue_requests"]
    assert value(member(edit=edit, pending=2), metric=metric) == 2


def test_of_a_model_that_serves_all_must_be_known():
    def edit(report):
        report.models.add(model="odd", version="1", state="ready")

    assert value(member(edit=edit, pending=2), metric=METRICS["queue_requests"]) is None
