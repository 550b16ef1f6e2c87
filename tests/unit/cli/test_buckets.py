import io
import json


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
    assert "2 longer ones would be refused and do not count" in result.stdout
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


def test_what_is_wrong_ends_with_2(run, tmp_path):
    path = tmp_path / "lengths.txt"
    path.write_text("3\nx\n")
    result = run("buckets", path)
    assert result.exit_code == 2
    assert f"error: {path}, line 2: got 'x'; allowed: a length" in result.stderr
    missing = run("buckets", tmp_path / "none.txt")
    assert missing.exit_code == 2
    assert "cannot be read: No such file" in missing.stderr
