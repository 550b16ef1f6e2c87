from __future__ import annotations

import sys

import pytest
from prometheus_client import CollectorRegistry

from batcher.clock import MILLISECOND, SECOND
from batcher.core.commands import Outcome, Reason
from batcher.core.observation import ModelObservation, Observation
from batcher.telemetry import Stamps, Telemetry
from batcher.telemetry.live import HISTORY_S, WINDOW_S, Sampler
from batcher.testing import ManualClock


class Server:
    """A telemetry with one model `m`, and its sampler."""

    def __init__(self):
        self.clock = ManualClock(100 * SECOND)
        self.telemetry = Telemetry(CollectorRegistry(), clock=self.clock)
        self.model = self.telemetry.model("m:1", "m", "1")
        self.waiting = {}
        self.sampler = Sampler(self.telemetry, self.observe, self.clock)

    def observe(self):
        queue = ModelObservation("m:1", 0, 0, 0, 0, None, None, 50 * MILLISECOND)
        from dataclasses import replace

        return Observation(self.clock(), (replace(queue, **self.waiting),), ())

    def end(self, outcome=Outcome.OK, reason=Reason.NONE, *, took=10, due=50):
        """A request ends now, `took` milliseconds after its arrival."""
        now = self.clock()
        came = now - took * MILLISECOND
        stamps = Stamps(came, came, came, came, now, now, now)
        if outcome is not Outcome.OK:
            stamps = Stamps(came, came, 0, 0, 0, now, now)
        self.model.request_ended(outcome, reason, 1, stamps, came + due * MILLISECOND)

    def second(self, seconds=1.0):
        self.clock.advance(int(seconds * SECOND))
        self.sampler.sample()
        return self.sampler.models[0]


@pytest.fixture
def server():
    server = Server()
    server.second()
    return server


def test_the_first_sample_has_no_rates():
    server = Server()
    sample = server.second()
    assert (sample.name, sample.version, sample.window) == ("m", "1", None)
    assert len(sample.history) == 0


def test_rates_are_differences_over_the_window(server):
    for _ in range(4):
        server.end()
    server.end(took=80)
    server.end(Outcome.REJECTED, Reason.PREDICTED_LATE)
    window = server.second().window
    assert window.seconds == 1
    assert window.arrived == 6
    assert dict(window.ended) == {
        (Outcome.OK, Reason.NONE): 5,
        (Outcome.REJECTED, Reason.PREDICTED_LATE): 1,
    }
    assert window.late == 1
    assert window.total(Outcome.REJECTED) == 1
    assert server.second().window.arrived == 3  # 6 in 2 seconds


def test_what_is_older_than_the_window_does_not_count(server):
    server.end()
    for _ in range(WINDOW_S):
        sample = server.second()
    assert sample.window.arrived == 1 / WINDOW_S
    sample = server.second()
    assert (sample.window.arrived, sample.window.p99_s, sample.window.seconds) == (
        0,
        None,
        WINDOW_S,
    )


def test_after_a_stall_the_window_has_no_readings_that_are_too_old(server):
    server.end()
    server.second()
    server.second(3600)
    sample = server.second()
    assert sample.window.seconds == 1
    assert sample.history.columns()["age_seconds"][-2:] == [0, 0]
    assert sample.history.columns()["age_seconds"][-3] is None


def test_requests_that_wait_have_arrived(server):
    server.waiting = {"waiting_requests": 3, "executing_requests": 2}
    assert server.second().window.arrived == 5
    server.waiting = {}
    assert server.second().window.arrived == 0  # gone with their generation, without an end


def test_percentiles_and_batches_are_those_of_the_window(server):
    for _ in range(10):
        server.end(took=100)
    server.second()
    for _ in range(WINDOW_S):
        server.second()
    for _ in range(98):
        server.end(took=4)
    server.end(took=40)
    server.end(took=40)
    for rows in (1, 3, 4, 9):
        server.model.batch_finished(
            rows=rows,
            requests=rows,
            max_batch_size=16,
            started_ns=0,
            execute_start_ns=0,
            execute_end_ns=1,
            scattered_ns=1,
            failed=False,
        )
    window = server.second().window
    assert 0.003 < window.p50_s < 0.005
    assert 0.03 < window.p99_s < 0.05
    assert list(window.batch_sizes[:6]) == [1, 0, 2, 0, 1, 0]
    assert sum(window.batch_sizes) == 4
    assert window.batch_rows == 17 / 4


def test_a_device_that_runs_all_the_time_is_busy_to_one(server):
    server.model.execution_started(1, "gpu", server.clock())
    assert server.second().window.busy == {"gpu": 1.0}
    server.model.execution_ended(1, server.clock())
    assert server.second().window.busy == {"gpu": 0.5}


def test_the_peak_of_a_second_is_seen_even_between_two_samples(server):
    server.end(took=400)
    server.waiting = {"waiting_requests": 1, "oldest_waiting_ns": 30 * MILLISECOND}
    sample = server.second()
    assert (sample.peak_age_s, sample.age_s) == (0.4, 0.03)
    sample = server.second()
    assert sample.peak_age_s == 0.03
    assert sample.history.columns()["age_seconds"] == [0.4, 0.03]


def test_what_executes_counts_as_the_oldest(server):
    server.waiting = {"oldest_waiting_ns": MILLISECOND, "oldest_executing_ns": 9 * SECOND}
    assert server.second().age_s == 9


def test_history_has_five_minutes_and_no_more(server):
    for _ in range(HISTORY_S + 5):
        server.end(Outcome.FAILED, Reason.DEVICE_FAILURE)
        sample = server.second()
    columns = sample.history.columns()
    assert {name: len(values) for name, values in columns.items()} == {
        "age_seconds": HISTORY_S,
        "arrived": HISTORY_S,
        "unserved": HISTORY_S,
    }
    assert set(columns["arrived"]) == set(columns["unserved"]) == {1}


def test_a_long_stall_fills_history_and_no_more(server):
    assert len(server.second(1e6).history) == HISTORY_S


def test_a_model_that_is_gone_is_dropped_and_begins_anew_when_it_comes_back(server):
    server.end()
    server.second()
    server.telemetry.remove("m", "1")
    server.clock.advance(SECOND)
    server.sampler.sample()
    assert server.sampler.models == ()
    assert server.sampler.of("m", "1") is None
    server.model = server.telemetry.model("m:2", "m", "1")
    assert server.second().window is None
    assert server.sampler.of("m", "1") is server.sampler.models[0]


def test_a_model_that_came_back_between_two_samples_begins_anew(server):
    for _ in range(7):
        server.end()
    server.second()
    server.telemetry.remove("m", "1")
    server.model = server.telemetry.model("m:2", "m", "1")
    assert server.second().window is None


def test_a_model_that_the_scheduler_does_not_know_has_no_queue():
    server = Server()
    server.telemetry.model("other:1", "other", "1")
    server.second()
    assert server.sampler.of("other", "1").queue is None
    assert server.sampler.of("other", "1").age_s == 0


def test_five_minutes_of_fifty_models_are_small():
    """Less than 4 MiB: what is kept does not grow with the traffic."""
    history = Server().second().history
    from batcher.telemetry.live.history import Point

    for second in range(HISTORY_S):
        history.add(Point(second + 0.5, second + 0.25, second + 0.75))
    each = sys.getsizeof(Point(1.0, 1.0, 1.0)) + 3 * sys.getsizeof(1.5)
    assert 50 * (HISTORY_S * each + sys.getsizeof(history._points)) < 4 << 20
