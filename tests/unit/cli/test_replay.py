import json
from dataclasses import replace

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.commands import Settle
from batcher.core.events import (
    BatchProgress,
    DeviceConfigured,
    FailureCause,
    InstanceUp,
    ModelConfigured,
    ModelRemoved,
    RequestArrived,
)
from batcher.core.scheduler import Scheduler
from batcher.core.settings import Adaptive, ModelSettings, PaddedAxis
from batcher.simulation import Driver
from batcher.simulation.engine.driver import succeed
from batcher.testing.recording import RecordedScheduler

MODELS = {
    "hello/1": {
        "batching": {"policy": "adaptive", "target_p99": "50ms", "max_batch_size": 8},
        "queue": {"max_requests": 1024},
    }
}


def at(each):
    return each[0]


def story():
    yield 0, DeviceConfigured("d", 1)
    yield 0, ModelConfigured("hello/1", ModelSettings(8, Adaptive(), target_ns=50 * MILLISECOND))
    yield 0, InstanceUp("hello/1#0", 1, "hello/1", "d")
    for number in range(1, 601):
        at_ns = number * 5 * MILLISECOND
        yield at_ns, RequestArrived(number, "hello/1", 1, 16, (), "", at_ns)


@pytest.fixture
def folder(tmp_path):
    """A journal of 3 s in segments of one."""
    path = tmp_path / "journal"
    path.mkdir()
    with RecordedScheduler(path, segment_ns=SECOND, models=MODELS) as scheduler:
        Driver(scheduler, lambda dispatch: 4 * MILLISECOND, observe=lambda n, c: None).run(story())
    return path


@pytest.fixture
def replayed(run, folder):
    """A function that replays the journal; returns the JSON objects."""

    def call(*options, code=0):
        result = run("replay", folder, "--json", *options)
        assert result.exit_code == code, result.stderr
        return [json.loads(line) for line in result.stdout.splitlines()]

    return call


def test_the_contents_come_first_and_then_the_result(run, folder):
    result = run("replay", folder)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("4 segments (0 to 3), 3.0 s from 20")
    assert lines[0].endswith(" UTC, 600 requests")
    assert lines[1].startswith("recorded by batcher 0.")
    assert lines[2] == "model hello/1: adaptive, target 50ms, at most 8 rows"
    assert lines[3].startswith("replay: identical, ")
    assert len(lines) == 4
    assert result.stderr == ""


def test_as_json(replayed):
    contents, result = replayed()
    assert contents["log"]["requests"] == 600
    assert contents["log"]["segments"] == [0, 1, 2, 3]
    assert contents["log"]["models"]["hello/1"]["batching"]["target_p99"] == "50ms"
    assert contents["log"]["incident"] is None
    assert result["replay"]["identical"] is True
    assert result["replay"]["difference"] is None


def test_other_settings_are_shown_next_to_what_was_recorded(replayed):
    options = ("--set", "batching.target_p99=40ms", "--policy", "configured", "--policy", "none")
    *_, recorded, replay, changed, none = replayed(*options)
    assert [each["policy"] for each in (recorded, replay, changed, none)] == [
        "recorded",
        "replayed",
        "batching.target_p99=40ms",
        "none, batching.target_p99=40ms",
    ]
    assert all(each["requests"] == 600 for each in (recorded, replay, changed, none))
    assert none["mean_batch"] == 1


def test_settings_that_changed_during_the_recording_are_shown(run, tmp_path):
    path = tmp_path / "changed"
    path.mkdir()
    tuned = ModelSettings(4, Adaptive(), target_ns=20 * MILLISECOND)
    events = sorted([*story(), (1250 * MILLISECOND, ModelConfigured("hello/1", tuned))], key=at)
    with RecordedScheduler(path, segment_ns=SECOND, models=MODELS) as scheduler:
        Driver(scheduler, lambda dispatch: 4 * MILLISECOND, observe=lambda n, c: None).run(events)
    lines = run("replay", path).stdout.splitlines()
    assert lines[2:5] == [
        "model hello/1: adaptive, target 50ms, at most 8 rows",
        "model hello/1: batching.max_batch_size 8 -> 4 at 1.250 s",
        "model hello/1: batching.target_p99 50ms -> 20ms at 1.250 s",
    ]
    assert lines[5].startswith("replay: identical, ")
    lines = run("replay", path, "--from", "2100ms").stdout.splitlines()
    assert lines[2] == "model hello/1: adaptive, target 20ms, at most 4 rows"
    assert lines[3].startswith("replay: identical, ")
    replayed = json.loads(run("replay", path, "--json").stdout.splitlines()[1])["replay"]
    assert replayed["changes"][1] == {
        "at": 1.25,
        "model": "hello/1",
        "path": "batching.target_p99",
        "old": "50ms",
        "new": "20ms",
    }


def test_padding_that_changed_during_the_recording_is_shown(run, tmp_path):
    path = tmp_path / "changed"
    path.mkdir()
    padding = (PaddedAxis(0, 1, (64, 128)),)
    padded = ModelSettings(8, Adaptive(), target_ns=50 * MILLISECOND, padding=padding)
    events = sorted([*story(), (1250 * MILLISECOND, ModelConfigured("hello/1", padded))], key=at)
    with RecordedScheduler(path, segment_ns=SECOND, models=MODELS) as scheduler:
        Driver(scheduler, lambda dispatch: 4 * MILLISECOND, observe=lambda n, c: None).run(events)
    lines = run("replay", path).stdout.splitlines()
    now = [{"input": 0, "axis": 1, "buckets": [64, 128]}]
    assert lines[3] == f"model hello/1: padding [] -> {json.dumps(now)} at 1.250 s"
    (change,) = json.loads(run("replay", path, "--json").stdout.splitlines()[1])["replay"][
        "changes"
    ]
    assert (change["path"], change["old"], change["new"]) == ("padding", [], now)


def test_what_a_model_is_loaded_with_is_no_change(run, restarted):
    """A server says which axes are padded when the model is loaded, at each of its starts."""
    padding = (PaddedAxis(0, 1, (64, 128)),)
    padded = ModelSettings(8, Adaptive(), target_ns=50 * MILLISECOND, padding=padding)
    path = restarted(0, SECOND, (0, ModelConfigured("hello/1", padded)))
    replayed = json.loads(run("replay", path, "--json").stdout.splitlines()[1])["replay"]
    assert replayed["identical"]
    assert replayed["changes"] == []


def test_batches_that_failed_without_a_failing_request_are_shown(run, tmp_path):
    path = tmp_path / "failed"
    path.mkdir()

    def outcome(dispatch, timings):
        if 1 <= timings.started_ns / SECOND < 1.5:
            return BatchProgress(dispatch.batch_id, (), timings=timings, error=FailureCause.UNKNOWN)
        return succeed(dispatch, timings)

    with RecordedScheduler(path, segment_ns=SECOND, models=MODELS) as scheduler:
        took = 4 * MILLISECOND
        Driver(scheduler, lambda _: took, observe=lambda n, c: None, outcome=outcome).run(story())
    text = run("replay", path, "--policy", "none").stdout
    prefix = "batches that failed without a failing request being found: "
    counts = [int(line.rpartition(prefix)[2]) for line in text.splitlines() if prefix in line]
    assert len(counts) == 3
    assert min(counts) > 50
    rows = run("replay", path, "--policy", "none", "--json").stdout.splitlines()[2:]
    assert [json.loads(row)["failed_batches"] for row in rows] == counts


HOUR_NS = 3600 * SECOND
WALL_NS = 1_700_000_000 * SECOND


@pytest.fixture
def restarted(tmp_path, monkeypatch):
    """A function that makes a journal of two logs whose monotonic clocks began at these moments.

    Events after these come before the instance is up.
    """
    path = tmp_path / "restarted"
    path.mkdir()

    def record(name, begins_ns, wall_ns, requests, loaded):
        mine = tmp_path / name
        mine.mkdir()
        device, configured, *others = story()
        events = [device, configured, *loaded, *others[: 1 + requests]]
        events = [later(begins_ns, *each) for each in events]
        with RecordedScheduler(
            mine, segment_ns=SECOND, models=MODELS, begins_ns=begins_ns, wall_ns=wall_ns
        ) as scheduler:
            driver = Driver(scheduler, lambda dispatch: 4 * MILLISECOND, observe=lambda n, c: None)
            driver.run(events)
        for place, file in enumerate(sorted(mine.iterdir())):
            file.rename(path / f"journal-{name}-{place}.batcherlog")

    def make(first_ns, second_ns, *loaded):
        record("a", first_ns, WALL_NS, 600, loaded)
        record("b", second_ns, WALL_NS + HOUR_NS, 300, loaded)
        return path

    return make


def later(by_ns, at_ns, event):
    if type(event) is RequestArrived:
        event = replace(event, arrival_ns=event.arrival_ns + by_ns)
    return at_ns + by_ns, event


@pytest.mark.parametrize("clocks", [(5_000_000 * SECOND, 20 * SECOND), (0, 5_000_000 * SECOND)])
def test_each_log_of_a_folder_is_on_a_clock_of_its_own(run, restarted, clocks):
    path = restarted(*clocks)
    lines = run("replay", path).stdout.splitlines()
    head = "2023-11-14 22:13:20 UTC, 600 requests"
    assert lines[0] == f"log 1 of 2: 4 segments (0 to 3), 3.0 s from {head}"
    later = "2023-11-14 23:13:20 UTC, 300 requests"
    assert lines[1] == f"log 2 of 2: 2 segments (0 to 1), 1.5 s from {later}"
    assert lines[-1].startswith("replay: identical, ")
    first = run("replay", path, "--to", "1m", "--from", "0s").stdout.splitlines()
    assert first[0] == lines[0].removeprefix("log 1 of 2: ")
    second = run("replay", path, "--from", "1h", "--policy", "none")
    assert second.stdout.splitlines()[0] == lines[1].removeprefix("log 2 of 2: ")
    assert "300 requests at 200" in second.stdout
    both = run("replay", path, "--policy", "none", "--to", "3601s")
    assert "799 requests at 2" in both.stdout  # the last one had not ended by then
    assert (
        "the log, which is 3602s long, has nothing there"
        in run("replay", path, "--from", "2h").stderr
    )


def test_a_segment_of_two_logs_is_not_taken_for_one(run, restarted):
    path = restarted(0, SECOND)
    result = run("replay", path, "--segment", "1")
    assert result.exit_code == 2
    assert "--segment: got 1, which several logs in" in result.stderr
    assert run("replay", path, "--segment", "3").stdout.startswith("1 segment (3 to 3)")
    assert run("replay", path / "journal-b-1.batcherlog").exit_code == 0


@pytest.mark.slow
def test_the_table(run, folder):
    result = run("replay", folder, "--policy", "greedy", "--seeds", "2")
    assert result.exit_code == 0
    rows = [line.split()[0] for line in result.stdout.splitlines()[5:] if line.strip()]
    assert rows[-3:] == ["recorded", "replayed", "greedy"]
    assert "600 requests at 200.0/s, 2 seeds" in result.stdout


@pytest.mark.slow
def test_a_part_of_the_log(replayed):
    assert replayed("--segment", "1")[0]["log"]["segments"] == [1]
    assert replayed("--segment", "0", "--segment", "2")[0]["log"]["segments"] == [0, 2]
    assert replayed("--from", "1500ms")[0]["log"]["segments"] == [1, 2, 3]
    assert replayed("--to", "1500ms")[0]["log"]["segments"] == [0, 1]
    recorded = replayed("--from", "1100ms", "--to", "2s", "--policy", "none")[2]
    assert recorded["requests"] == pytest.approx(200, abs=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--segment", "7"), "--segment: got 7; allowed: 0 to 3"),
        (("--from", "10m"), "the log, which is 3s long, has nothing there"),
        (("--from", "2s", "--to", "1s"), "has nothing there"),
        (("--from", "soon"), "--from: got 'soon'; allowed: a number with a unit"),
        (("--model", "hallo", "--policy", "none"), "--model: got 'hallo'; allowed: hello/1"),
        (("--policy", "gredy"), "--policy: got 'gredy'; allowed: configured"),
        (
            ("--set", "batching.target_p99=40"),
            "batching.target_p99: got 40; allowed: a number with",
        ),
        (
            ("--set", "batching.max_batch_size=9999999"),
            "batching.max_batch_size: got 9999999; allowed: 65536 or less",
        ),
        (("--set", "queue.max_request=4"), "queue.max_request: unknown key; did you mean"),
        (("--set", "instances=4"), 'got "instances=4"; allowed: batching.KEY=VALUE'),
        (("--plot", "x.nope"), "--plot: got x.nope"),
        (
            ("--plot", "x.png"),
            "--plot: got x.png, but nothing to plot; add --set or",
        ),
    ],
)
def test_a_wrong_option_is_reported_before_anything_is_replayed(run, folder, options, message):
    result = run("replay", folder, *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


@pytest.mark.slow
def test_a_model_goes_by_its_name_or_its_key(replayed):
    for name in ("hello", "hello/1"):
        assert (
            replayed("--model", name, "--set", "batching.max_batch_size=4")[-1]["requests"] == 600
        )


def test_a_file_that_is_not_a_log_is_wrong_input(run, tmp_path):
    result = run("replay", tmp_path / "nothing")
    assert result.exit_code == 2
    assert "no such file or folder" in result.stderr


def test_a_corrupt_segment_is_reported_and_the_rest_replays(run, folder):
    second = sorted(folder.iterdir())[1]
    data = bytearray(second.read_bytes())
    data[len(data) // 2] ^= 1
    second.write_bytes(data)
    result = run("replay", folder, "--policy", "none")
    assert result.exit_code == 0
    assert f"fault: segment 1 ({second.name}): it is corrupt at byte" in result.stderr
    assert "replay: identical" in result.stdout
    assert "2 parts without a gap" in result.stdout


def test_a_difference_is_shown_and_ends_with_1(run, folder, monkeypatch):
    handle = Scheduler.handle

    def other(self, events, now_ns):
        commands = handle(self, events, now_ns)
        return commands if now_ns < 1500 * MILLISECOND else []

    monkeypatch.setattr(Scheduler, "handle", other)
    result = run("replay", folder)
    assert result.exit_code == 1
    assert "replay: DIFFERENT in 3 of 4 segments" in result.stdout
    assert "first difference: segment 1 (journal-" in result.stdout
    assert "at 1.500000 s, in its commands" in result.stdout
    assert "expected [Dispatch(" in result.stdout
    assert "got      []" in result.stdout
    result = json.loads(run("replay", folder, "--json").stdout.splitlines()[1])["replay"]
    assert result["identical"] is False
    assert result["difference"]["what"] == "commands"


def test_a_log_of_another_scheduler_is_warned_of(run, folder, monkeypatch):
    monkeypatch.setattr("batcher.journal.scheduler_fingerprint", lambda: "another")
    result = run("replay", folder)
    assert result.exit_code == 0
    assert "recorded by another scheduler" in result.stderr
    assert "which may decide differently" in result.stderr


@pytest.mark.slow
def test_a_plot(run, folder, tmp_path):
    picture = tmp_path / "out.png"
    assert run("replay", folder, "--policy", "none", "--plot", picture).exit_code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_closed_loop_is_noted_and_an_open_stream_is_not(run, tmp_path):
    note = "note: the recorded requests follow the answers"
    path = tmp_path / "open"
    path.mkdir()
    with RecordedScheduler(path, segment_ns=SECOND, models=MODELS) as scheduler:
        driver = Driver(scheduler, lambda dispatch: 7 * MILLISECOND, observe=lambda n, c: None)
        driver.run(story())
    assert note not in run("replay", path, "--policy", "none").stdout
    path = tmp_path / "closed"
    path.mkdir()
    with RecordedScheduler(path, segment_ns=SECOND, models=MODELS) as scheduler:
        asked = 10

        def ask(now_ns, commands):
            nonlocal asked
            for command in commands:
                for _ in command.ids if isinstance(command, Settle) and asked < 400 else ():
                    asked += 1
                    at_ns = now_ns + MILLISECOND // 4
                    driver.post(at_ns, RequestArrived(asked, "hello/1", 1, 16, (), "", at_ns))

        driver = Driver(scheduler, lambda dispatch: 4 * MILLISECOND, observe=ask)
        driver.run(each for each in story() if each[0] <= 20 * MILLISECOND)
    assert note in run("replay", path, "--policy", "none").stdout


def test_what_waits_at_the_end_is_told_in_words(run, tmp_path):
    path = tmp_path / "ended"
    path.mkdir()

    def ended():
        yield from (each for each in story() if each[0] <= 500 * MILLISECOND)
        yield 501 * MILLISECOND, ModelRemoved("hello/1")

    with RecordedScheduler(path, segment_ns=SECOND, models=MODELS) as scheduler:
        Driver(scheduler, lambda dispatch: 40 * MILLISECOND, observe=lambda n, c: None).run(ended())
    said = run("replay", path, "--policy", "greedy").stdout
    assert "still waiting when the model was unloaded or the recording ended" in said
    assert "model_removed" not in said
