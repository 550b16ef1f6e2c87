import pytest

from batcher.scaler.judging import Judge
from batcher.scaler.replica import PollResult
from batcher.scaler.report import Cause, UnbelievedError, read_report


def judged(judge, speaker, now):
    judge.believe(read_report(speaker.report().SerializeToString()), now())


def test_the_first_report_counts_as_activity(heard, now):
    assert heard().asked_ns == now()


def test_reports_without_news_are_no_activity(heard, now):
    first_ns = heard(ended=7).asked_ns
    for _ in range(10):
        now.s += 1
        assert heard().asked_ns == first_ns


@pytest.mark.parametrize(
    "news",
    [{"ended": 8}, {"refused": 1}, {"pending": 1}, {"ratio": 0.3}],
    ids=lambda news: next(iter(news)),
)
def test_what_is_asked_of_a_replica_is_activity(heard, now, news):
    heard(ended=7)
    now.s += 1
    assert heard(**news).asked_ns == now()


def test_an_older_report_of_the_same_start_is_not_believed(heard, speaker, now):
    late = speaker.report()
    replica = heard()
    replica.answered(late.SerializeToString(), now())
    assert replica.cause is Cause.OLDER


def test_a_count_that_falls_is_not_believed_once(heard):
    assert heard(ended=9).cause is None
    assert heard(ended=4).cause is Cause.OLDER
    assert heard(ended=5).cause is None


def test_an_uptime_that_falls_is_not_believed(heard, speaker):
    speaker.edit = lambda report: setattr(report.replica, "uptime_seconds", 100.0)
    assert heard().cause is None
    speaker.edit = lambda report: setattr(report.replica, "uptime_seconds", 99.0)
    assert heard().cause is Cause.OLDER


def test_another_start_at_the_same_address_begins_anew(heard, speaker, now):
    heard(ended=9)
    now.s += 60
    speaker.start_again()
    replica = heard()
    assert replica.cause is None
    assert replica.asked_ns == now()


def test_two_starts_in_turns_are_several_replicas_behind_one_address(heard, speaker):
    one, other = "one", "other"
    heard(start_id=one)
    heard(start_id=other)
    assert heard(start_id=one).cause is Cause.ALTERNATES
    assert "headless" in heard(start_id=other).error


def test_the_same_report_for_seconds_is_not_of_now(heard, speaker, now):
    speaker.edit = lambda report: setattr(report, "number", 5)
    assert heard().cause is None
    now.s += 2
    assert heard().cause is None
    now.s += 4
    assert heard().cause is Cause.STUCK


def test_the_wall_clock_of_a_replica_may_jump(heard, speaker):
    for timestamp in (1.8e9, 1.0, 1.9e9, 0.0):
        speaker.edit = lambda report, timestamp=timestamp: setattr(
            report, "timestamp_seconds", timestamp
        )
        assert heard().cause is None


def test_a_replica_of_another_fleet_is_told_by_its_models(speaker, now):
    judge = Judge(["ranker"])
    judged(judge, speaker, now)
    speaker.model = "translator"
    with pytest.raises(UnbelievedError, match="translator") as raised:
        judged(judge, speaker, now)
    assert raised.value.cause is Cause.OTHER_MODELS


def test_no_load_and_refusals_all_the_time_contradict_each_other(heard, now):
    heard()
    for second in range(1, 15):
        now.s += 1
        assert heard(refused=second).cause is None, "a burst is left out of the load"
    now.s += 2
    replica = heard(refused=99)
    assert replica.cause is Cause.CONTRADICTION
    assert replica.result is PollResult.UNBELIEVED


def test_bursts_of_refusals_do_not_contradict_no_load(heard, now):
    heard()
    for burst in range(1, 20):
        now.s += 6
        assert heard(refused=10 * burst).cause is None


def test_refusals_with_a_load_are_believed(heard, now):
    heard(ratio=3.0)
    for second in range(1, 40):
        now.s += 1
        assert heard(refused=second).cause is None


def test_what_is_odd_is_news_once(heard):
    assert heard().news
    assert not heard().news
    assert heard(ratio=-1.0).news
    assert not heard().news
    assert heard(ratio=0.0).news
