import io
import json

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.events import DeviceConfigured, InstanceUp, ModelConfigured, RequestArrived
from batcher.core.settings import FixedWindow, ModelSettings
from batcher.simulation import Driver
from batcher.testing.recording import RecordedScheduler


def test_a_table_and_the_line_for_the_configuration(run, tmp_path):
    path = tmp_path / "lengths.txt"
    path.write_text("3,10\n4,10\n20\n")
    result = run("buckets", path, "--count", "2")
    assert result.exit_code == 0
    assert "21 requests, lengths 3 to 20, 4.3 on average" in result.stdout
    assert result.stdout.splitlines()[-1] == "buckets: [4, 20]"
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["2", "10.0%", "59.1%", "4,", "20"] in rows


def test_json_with_multiples_and_a_longest_request(run, tmp_path):
    path = tmp_path / "lengths.txt"
    path.write_text("3\n3\n9\n")
    result = run("buckets", path, "--json", "--count", "3", "--multiple", "8", "--longest", "60")
    document = json.loads(result.stdout)
    assert document["proposed"] == {"buckets": [8, 16, 64], "waste": 0.53125}
    assert document["evenly_spaced"]["buckets"] == [24, 40, 64]
    assert document["one_bucket"]["buckets"] == [64]
    assert [each["buckets"] for each in document["by_count"]] == [[64], [16, 64], [8, 16, 64]]
    assert (document["requests"], document["longest"]) == (3, 9)


def test_what_is_longer_than_the_longest_does_not_count(run, tmp_path):
    path = tmp_path / "lengths.txt"
    path.write_text("3,10\n50,10\n51\n100\n")
    result = run("buckets", path, "--count", "2", "--longest", "50")
    assert "20 requests, lengths 3 to 50, 26.5 on average" in result.stdout
    assert "2 longer ones would be refused, and do not count" in result.stdout
    assert result.stdout.splitlines()[-1] == "buckets: [3, 50]"
    # The last bucket holds 56.
    result = run("buckets", path, "--json", "--longest", "50", "--multiple", "8")
    document = json.loads(result.stdout)
    assert (document["requests"], document["refused"]) == (21, 1)
    assert document["proposed"]["buckets"][-1] == 56
    result = run("buckets", path, "--longest", "2")
    assert result.exit_code == 2
    assert "--longest: got 2; allowed: at least 3, the shortest length" in result.stderr


def test_lengths_from_standard_input(run, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("7\n"))
    result = run("buckets", "-", "--json")
    assert json.loads(result.stdout)["proposed"] == {"buckets": [7], "waste": 0.0}


def test_wrong_input_ends_with_2(run, tmp_path):
    path = tmp_path / "lengths.txt"
    path.write_text("3\nx\n")
    result = run("buckets", path)
    assert result.exit_code == 2
    assert f"error: {path}, line 2: got 'x'; allowed: a length" in result.stderr
    missing = run("buckets", tmp_path / "none.txt")
    assert missing.exit_code == 2
    assert "cannot be read: No such file" in missing.stderr


@pytest.fixture
def journal(tmp_path):
    """A log of two models: tokens, their mask and a column; and an image of two axes."""
    path = tmp_path / "journal"
    path.mkdir()
    with RecordedScheduler(path, segment_ns=SECOND) as scheduler:
        driver = Driver(scheduler, lambda _: MILLISECOND, observe=lambda _now, _commands: None)
        driver.run(requests())
    return path


def requests():
    yield 0, DeviceConfigured("d", 1)
    for model in ("text/1", "image/1"):
        yield 0, ModelConfigured(model, ModelSettings(8, FixedWindow()))
        yield 0, InstanceUp(f"{model}#0", 1, model, "d")
    shapes = [((3,), (3,), (1,)), ((4,), (4,), (1,)), ((20,), (20,), (1,))]
    for number in range(300):
        at_ns = number * 10 * MILLISECOND
        rows = 10 if number % 3 == 2 else 1
        shape = shapes[number % 3]
        yield at_ns, RequestArrived(2 * number, "text/1", rows, 0, shape, "", at_ns)
        shape = ((number % 5 + 1, number % 7 + 1),)
        yield at_ns, RequestArrived(2 * number + 1, "image/1", 1, 0, shape, "", at_ns)


def test_the_lengths_of_an_event_log(run, journal):
    result = run("buckets", journal, "--model", "text", "--count", "2")
    assert result.exit_code == 0, result.stderr
    assert "1,200 rows, lengths 3 to 20, 17.2 on average" in result.stdout
    assert result.stdout.splitlines()[-1] == "buckets: [4, 20]"
    result = run("buckets", journal, "--model", "image/1", "--axis", "2", "--json")
    document = json.loads(result.stdout)
    assert (document["rows"], document["longest"]) == (300, 7)
    assert document["proposed"]["buckets"] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "several variable axes; choose one of --model text/1 --input 0 --axis 1; --model"),
        (("--model", "image"), "choose one of --model image/1 --input 0 --axis 1; --model image"),
        (
            ("--model", "audio"),
            "no such axis; choose from --model text/1 --input 0 --axis 1; --model",
        ),
        (("--input", "3"), "no such axis; choose from --model text/1 --input 0 --axis 1; --model"),
    ],
)
def test_which_axis_of_a_log_is_asked_for_where_there_are_several(run, journal, options, message):
    result = run("buckets", journal, *options)
    assert result.exit_code == 2
    assert f"error: {journal}: the log has " in result.stderr
    assert message in result.stderr


def test_parts_of_a_log_that_cannot_be_read_are_reported_and_the_rest_counts(run, journal):
    second = sorted(journal.iterdir())[1]
    second.write_bytes(second.read_bytes()[:-40])
    result = run("buckets", journal, "--model", "text", "--count", "2")
    assert result.exit_code == 0
    assert "fault: segment 1 (" in result.stderr
    assert result.stdout.splitlines()[-1] == "buckets: [4, 20]"


def test_a_log_of_fixed_axes_has_no_lengths(run, tmp_path):
    with RecordedScheduler(tmp_path, segment_ns=SECOND) as scheduler:
        scheduler.handle([RequestArrived(1, "m/1", 1, 0, (), "", 0)], 0)
    result = run("buckets", next(iter(tmp_path.iterdir())))
    assert result.exit_code == 2
    assert "the log has no request of a model with variable axes" in result.stderr


def test_options_about_axes_are_for_logs(run, tmp_path):
    path = tmp_path / "lengths.txt"
    path.write_text("3\n")
    result = run("buckets", path, "--axis", "1")
    assert result.exit_code == 2
    assert "--model, --input and --axis choose from an event log" in result.stderr
    assert "lengths.txt is none; leave them out" in result.stderr
