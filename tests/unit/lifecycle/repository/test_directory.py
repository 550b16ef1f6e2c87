"""One scan of a directory."""

import os

import pytest

from batcher.lifecycle.repository import described, files
from batcher.lifecycle.repository.directory import Directory


@pytest.fixture
def directory(repository):
    return Directory(repository.path, {})


def wanted(scan):
    return [each.config.version for each in scan.wanted]


def test_what_a_directory_holds(repository, directory):
    repository.write("a", 1, 2)
    repository.write("b", 7, config='backend: "onnxruntime" version_policy { all { } }')
    (repository.path / "README.md").touch()
    (repository.path / ".hidden").mkdir()
    found = directory.scan()
    assert found.problem == ""
    assert {name: wanted(scan) for name, scan in found.models.items()} == {"a": ["2"], "b": ["7"]}
    (model,) = found.models["a"].wanted
    assert model.base_dir == repository.path / "a" / "2"
    assert found.models["a"].present == {"1", "2"}


def test_folders_that_are_no_versions_are_left_alone(repository, directory):
    for name in ("3", "0", "01", "-1", "v4", "5.tmp", "initial_state", "9" * 19):
        (repository.write("a") / name).mkdir()
    assert directory.scan_model("a").present == {"3"}


def test_nothing_is_read_again_while_nothing_changes(repository, directory, monkeypatch):
    repository.write("a", 1)
    first = directory.scan_model("a")
    monkeypatch.setattr(described, "read_config", None)
    monkeypatch.setattr(described, "mapped", None)
    assert directory.scan_model("a") is first


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.file("a", 1, "others!"),
        lambda r: r.file("a", 1, file="more.bin"),
        lambda r: os.utime(r.path / "a" / "1" / "model.onnx", ns=(1, 1)),
        lambda r: (r.path / "a" / "1" / "model.onnx").rename(r.path / "a" / "1" / "b.onnx"),
    ],
)
def test_a_changed_file_of_a_version_is_other_contents(repository, directory, change):
    repository.write("a", 1)
    before = directory.scan_model("a")
    change(repository)
    after = directory.scan_model("a")
    assert not after.same_files(before)
    assert after.wanted[0].contents != before.wanted[0].contents


def test_another_configuration_of_the_same_files(repository, directory):
    repository.write("a", 1)
    before = directory.scan_model("a").wanted[0]
    repository.write("a", config='backend: "onnxruntime" max_batch_size: 4')
    after = directory.scan_model("a").wanted[0]
    assert after.contents == before.contents
    assert (before.config.batching.max_batch_size, after.config.batching.max_batch_size) == (32, 4)


def test_other_labels_are_other_contents(repository, directory):
    text = (
        'backend: "onnxruntime" output { name: "y" data_type: 11 dims: 2 label_filename: "l.txt" }'
    )
    folder = repository.write("a", 1, config=text)
    (folder / "l.txt").write_text("cat\n")
    before = directory.scan_model("a").wanted[0]
    (folder / "l.txt").write_text("cat\ndog\n")
    assert directory.scan_model("a").wanted[0].contents != before.contents
    assert before.config.label_files() == {"y": folder / "l.txt"}


def test_links_are_followed_and_swaps_noticed(repository, directory, tmp_path):
    """As Kubernetes mounts a ConfigMap: each name leads through `..data`, which is swapped."""
    for day in ("one", "two"):
        (tmp_path / day / "1").mkdir(parents=True)
        (tmp_path / day / "1" / "model.onnx").write_text(day)
    (repository.path / "a").mkdir()
    (repository.path / "a" / "..data").symlink_to(tmp_path / "one")
    (repository.path / "a" / "1").symlink_to("..data/1")
    before = directory.scan_model("a")
    assert wanted(before) == ["1"]
    (repository.path / "a" / "..new").symlink_to(tmp_path / "two")
    (repository.path / "a" / "..new").rename(repository.path / "a" / "..data")
    assert directory.scan_model("a").wanted[0].contents != before.wanted[0].contents


def test_a_ring_of_links_ends(repository, directory):
    repository.write("a", 1)
    (repository.path / "a" / "1" / "again").symlink_to("..")
    found = directory.scan_model("a")
    assert found.wanted == ()
    assert "folders below each other" in found.problems[0][1]
    (repository.path / "b").symlink_to("b")
    repository.write("c", 1)
    found = directory.scan()
    assert (found.problem, found.models.keys()) == ("", {"a", "c"})


def test_a_version_with_too_many_files_is_not_served(repository, directory, monkeypatch):
    monkeypatch.setattr(files, "MAX_FILES", 3)
    repository.write("a", 1)
    for place in range(3):
        repository.file("a", 1, file=f"part{place}")
    found = directory.scan_model("a")
    assert (found.wanted, found.problems[0][0]) == ((), "1")
    assert "more than 3 files" in found.problems[0][1]


def test_more_models_than_are_scanned(repository, monkeypatch):
    monkeypatch.setattr("batcher.lifecycle.repository.directory.MAX_MODELS", 2)
    for name in "abc":
        repository.write(name, 1)
    found = Directory(repository.path, {}).scan().models
    assert [bool(found[name].wanted) for name in "abc"] == [True, True, False]
    assert "more than 2 models" in found["c"].problems[0][1]


@pytest.mark.parametrize(
    ("config", "overrides", "problem"),
    [
        ("max_batch_size: x", None, "config.pbtxt: line 1: Couldn't parse integer: x"),
        ('name: "b"', None, 'name (line 1): got "b"; allowed: a, the name of its folder, or none'),
        ('backend: "python"', None, "Triton's Python backend is not there"),
        ('backend: "onnxruntime"', "batchin: {}", "batcher.yaml: batchin (line 1): unknown key"),
        ('backend: "onnxruntime"', "name: b", "batcher.yaml: name (line 1): unknown key"),
        (
            'backend: "onnxruntime"',
            "queue:\n  timeout: 3",
            "queue.timeout (line 2): got 3; allowed",
        ),
        ('backend: "onnxruntime"', "[1]", "got [1]; allowed: a mapping"),
        ('backend: "onnxruntime"', "a: [", "not valid YAML"),
        (
            'backend: "onnxruntime" version_policy { specific { versions: 4 } }',
            None,
            "none of its versions is chosen by version_policy: got 4; there are: 1",
        ),
    ],
)
def test_what_is_wrong_with_a_model_is_told_and_others_are_served(
    repository, directory, config, overrides, problem
):
    repository.write("a", 1, config=config, overrides=overrides)
    repository.write("good", 1)
    found = directory.scan()
    assert found.models["a"].wanted == ()
    assert any(problem in why for _, why in found.models["a"].problems), found.models["a"].problems
    assert wanted(found.models["good"]) == ["1"]


def test_a_model_without_versions_says_so(repository, directory):
    repository.write("a")
    assert "has no folder of a version, such as 1" in directory.scan_model("a").problems[0][1]


@pytest.mark.parametrize("name", ["my model", "ünicode", "x" * 200, "-a"])
def test_a_folder_whose_name_no_request_can_have(repository, directory, name):
    (repository.path / name).mkdir()
    (found,) = directory.scan().models.values()
    assert "its name is not letters, digits" in found.problems[0][1]


def test_a_name_that_is_not_utf_8(repository, directory):
    os.mkdir(os.fsencode(repository.path) + b"/\xff")  # noqa: PTH102 - a name of bytes
    (found,) = directory.scan().models.values()
    assert found.name == "?"


def test_overrides_win_and_read_the_environment(repository, directory, monkeypatch):
    monkeypatch.setenv("ROWS", "3")
    repository.write("a", 1, overrides="batching: {max_batch_size: '${ROWS}'}\n")
    assert 'got "3"' in directory.scan_model("a").problems[0][1]  # quoted, it stays text
    repository.write("a", overrides="batching:\n  max_batch_size: ${ROWS}\n")
    assert directory.scan_model("a").wanted[0].config.batching.max_batch_size == 3


def test_defaults_are_for_every_model(repository):
    repository.write("a", 1)
    found = Directory(repository.path, {"batching": {"target_p99": "20ms"}}).scan()
    assert found.models["a"].wanted[0].config.batching.policy == "adaptive"


def test_a_directory_that_is_gone_says_so(repository, directory):
    repository.write("a", 1)
    directory.scan()
    repository.path.rename(repository.path.with_name("elsewhere"))
    assert "cannot be read: No such file or directory" in directory.scan().problem


def test_the_empty_folder_below_a_mount_that_is_gone_is_no_empty_repository(
    repository, directory, monkeypatch
):
    folder = repository.write("a", 1)
    directory.scan()
    folder.rename(repository.path.with_name("elsewhere"))
    directory._device = -1
    assert "is empty, and on another file system" in directory.scan().problem
    directory._device = repository.path.stat().st_dev
    assert directory.scan().problem == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_folder_is_no_missing_one(repository, directory):
    folder = repository.write("a", 1)
    folder.chmod(0)
    try:
        found = directory.scan_model("a")
    finally:
        folder.chmod(0o755)
    assert not found.readable
    assert "Permission denied" in found.problems[0][1]


def test_an_entry_that_cannot_be_scanned_is_not_missing(repository, directory, monkeypatch):
    class Entry:
        name = "a"

        def is_dir(self):
            raise OSError(116, "Stale file handle")

    class Entries(list):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    scandir = os.scandir
    repository.write("b", 1)

    def scan(path):
        if path == repository.path:
            return Entries([Entry(), *scandir(path)])
        if path == repository.path / "a":
            raise OSError(116, "Stale file handle", str(path))
        return scandir(path)

    monkeypatch.setattr(files.os, "scandir", scan)
    found = directory.scan()
    assert not found.models["a"].readable
    assert wanted(found.models["b"]) == ["1"]


def test_an_error_while_reading_is_no_missing_model(repository, directory, monkeypatch):
    repository.write("a", 1)

    def fails(path):
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr("batcher.lifecycle.repository.described.stamps_below", fails)
    found = directory.scan_model("a")
    assert not found.readable
    assert "Input/output error" in found.problems[0][1]


def test_ignored_and_unknown_fields_are_told_once(repository, directory):
    repository.write(
        "a",
        1,
        2,
        config='backend: "onnxruntime"\nversion_policy { all { } }\nfuture: 1\nresponse_cache { enable: true }',
    )
    assert directory.scan_model("a").ignored == (
        "future (line 3): unknown field; ignored",
        "response_cache.enable (line 4): ignored: there is no cache",
    )


def test_another_initial_value_of_a_sequence_is_other_contents(repository, directory):
    state = 'input_name: "h" output_name: "g" data_type: TYPE_FP32 dims: 1 initial_state { data_file: "h0" }'
    text = f'backend: "onnxruntime" max_batch_size: 4 sequence_batching {{ state {{ {state} }} }}'
    folder = repository.write("a", 1, config=text)
    (folder / "initial_state").mkdir()
    (folder / "initial_state" / "h0").write_bytes(b"1234")
    before = directory.scan_model("a").wanted[0]
    assert before.config.sequence.state[0].initial_file == folder / "initial_state" / "h0"
    (folder / "initial_state" / "h0").write_bytes(b"12345")
    assert directory.scan_model("a").wanted[0].contents != before.contents


def test_a_specific_version_that_is_not_there_is_noted(repository, directory):
    policy = "version_policy { specific { versions: [ 1, 5 ] } }"
    repository.write("a", 1, 2, config=f'backend: "onnxruntime"\n{policy}')
    found = directory.scan_model("a")
    assert wanted(found) == ["1"]
    assert found.ignored == ("version_policy.specific.versions (line 2): version 5 is not there",)
    repository.file("a", 5)
    assert wanted(directory.scan_model("a")) == ["5", "1"]
