"""A repository as a source: what it tells the manager, and what it says of what is not served."""

import asyncio

import pytest

from batcher.config import ModelRepositoryConfig
from batcher.errors import InvalidRequest, ModelUnavailable, StartupError, UnknownModel
from batcher.lifecycle import ChangeResult, KnownModel, LoadParameters, ModelChange
from batcher.lifecycle.repository import RepositorySource, source

NOTHING = LoadParameters()


async def settle(followed=None):
    """Let what is under way go on, and end unless the manager waits for a gate."""
    for _ in range(20):
        await asyncio.sleep(0)
    while followed is not None and followed._tasks and not followed._manager.loading:
        await asyncio.wait(followed._tasks)


@pytest.fixture
def taken():
    return set()


@pytest.fixture
async def make(repository, manager, taken, monkeypatch):
    monkeypatch.setattr(source, "SETTLING_S", 0)
    made = []

    def call(**keys):
        config = ModelRepositoryConfig.model_validate({"path": str(repository.path)} | keys)
        made.append(RepositorySource(config, manager, lambda: taken))
        return made[-1]

    yield call
    for each in made:
        await each.close()


async def poll(followed, times=1):
    """Look that many times, as `run` does."""
    for _ in range(times):
        followed._take(await followed._look())
        followed._say()
        followed._apply()
        await settle(followed)


async def load(followed, manager, name, parameters=NOTHING):
    """A load call, as the manager carries it out."""
    wanted = await followed.load(name, parameters)
    changes = [await manager.load(each) for each in wanted]
    await followed.loaded(name, changes)
    await settle(followed)
    return changes


def reasons(followed):
    return {(each.name, each.version): each.reason for each in followed.known()}


async def test_what_is_there_is_served_from_the_start(repository, manager, make):
    repository.write("a", 1, 2)
    repository.write("b", 1, config='backend: "python"')
    followed = make()
    await followed.start()
    assert manager.names == ["a/2"]
    assert "Triton's Python backend" in reasons(followed)["b", "1"]
    assert followed.points().broken == 1
    await poll(followed, 3)
    assert manager.calls == [["a/2"]]  # nothing changed, nothing is said again


async def test_a_new_version_takes_over_when_it_is_loaded(repository, manager, make):
    repository.write("a", 1)
    followed = make()
    await followed.start()
    repository.write("a", 2)
    await poll(followed)
    assert manager.calls == [["a/1"]]  # it may still be copied
    gate = manager.gates["a", "2"] = asyncio.Event()
    await poll(followed)
    assert manager.calls[-1] == ["a/2", "a/1"]  # the old one stays until the new one is loaded
    repository.write("b", 1)
    await poll(followed, 2)
    assert manager.calls[-1] == ["a/2", "a/1", "b/1"]
    gate.set()
    await settle(followed)
    assert manager.calls[-1] == ["a/2", "b/1"]
    assert manager.names == ["a/2", "b/1"]


async def test_files_that_are_being_copied_are_not_loaded(repository, manager, make):
    repository.write("a", 1)
    followed = make()
    await followed.start()
    for size in range(1, 6):
        repository.file("a", 2, "x" * size)
        await poll(followed)
    assert manager.calls == [["a/1"]]
    await poll(followed)
    assert manager.names == ["a/2"]


async def test_a_broken_version_leaves_the_old_one_and_is_not_tried_again(
    repository, manager, make
):
    repository.write("a", 1)
    followed = make()
    await followed.start()
    manager.fails["a", "2"] = "damaged"
    repository.write("a", 2)
    await poll(followed, 2)
    assert manager.names == ["a/1"]
    calls = len(manager.calls)
    await poll(followed, 5)
    assert len(manager.calls) == calls
    assert followed.points().broken == 1
    manager.fails.clear()
    repository.file("a", 2, "mended")
    await poll(followed, 2)
    assert manager.names == ["a/2"]
    assert followed.points().broken == 0


async def test_changed_files_of_a_version_load_it_again(repository, manager, make):
    repository.write("a", 1)
    followed = make()
    await followed.start()
    first = manager.served["a", "1"]
    manager.fails["a", "1"] = "damaged"
    repository.file("a", 1, "broken")
    await poll(followed, 2)
    assert manager.served["a", "1"] is first
    manager.fails.clear()
    repository.file("a", 1, "mended")
    await poll(followed, 2)
    assert manager.served["a", "1"].contents != first.contents


async def test_a_wrong_configuration_leaves_what_is_served(repository, manager, make):
    repository.write("a", 1)
    followed = make()
    await followed.start()
    repository.write("a", 2, config="max_batch_size: nonsense")
    await poll(followed, 2)
    assert manager.names == ["a/1"]
    assert "Couldn't parse integer" in reasons(followed)["a", ""]
    repository.write("a")
    await poll(followed, 2)
    assert manager.names == ["a/2"]
    assert reasons(followed) == {}


async def test_what_is_removed_is_unloaded(repository, manager, make):
    repository.write("a", 1, 2, config='backend: "onnxruntime" version_policy { all { } }')
    repository.write("b", 1)
    followed = make()
    await followed.start()
    (repository.path / "a" / "1").rename(repository.path.with_name("old"))
    (repository.path / "b").rename(repository.path.with_name("b"))
    await poll(followed)
    assert manager.names == ["a/1", "a/2", "b/1"]
    await poll(followed)
    assert manager.names == ["a/2"]


async def test_the_newest_version_removed_gives_way_to_the_one_before(repository, manager, make):
    repository.write("a", 1, 2)
    followed = make()
    await followed.start()
    (repository.path / "a" / "2").rename(repository.path.with_name("old"))
    await poll(followed, 2)
    assert manager.names == ["a/1"]


async def test_a_removed_version_serves_until_the_one_before_is_loaded(repository, manager, make):
    repository.write("a", 1, 2)
    followed = make()
    await followed.start()
    gate = manager.gates["a", "1"] = asyncio.Event()
    (repository.path / "a" / "2").rename(repository.path.with_name("old"))
    await poll(followed, 2)
    assert manager.names == ["a/2"]
    gate.set()
    await settle(followed)
    assert manager.names == ["a/1"]


async def test_a_removed_version_goes_also_if_the_one_before_is_broken(repository, manager, make):
    repository.write("a", 1, 2)
    followed = make()
    await followed.start()
    manager.fails["a", "1"] = "damaged"
    (repository.path / "a" / "2").rename(repository.path.with_name("old"))
    await poll(followed, 2)
    assert manager.names == []


async def test_a_directory_that_is_gone_leaves_everything(repository, manager, make):
    repository.write("a", 1)
    followed = make()
    await followed.start()
    repository.path.rename(repository.path.with_name("elsewhere"))
    await poll(followed, 3)
    assert manager.names == ["a/1"]
    assert not followed.points().readable
    repository.path.with_name("elsewhere").rename(repository.path)
    repository.write("a", 2)
    await poll(followed, 2)
    assert followed.points().readable
    assert manager.names == ["a/2"]


async def test_a_directory_that_hangs_leaves_everything_and_is_not_asked_again(
    repository, manager, make, monkeypatch
):
    import threading

    repository.write("a", 1)
    followed = make()
    await followed.start()
    released, looks = threading.Event(), []
    look = followed._directory.look

    def hangs():
        looks.append(1)
        released.wait(20)
        return look()

    monkeypatch.setattr(followed._directory, "look", hangs)
    monkeypatch.setattr(source, "LOOK_TIMEOUT_S", 0.05)
    await poll(followed, 2)
    assert (manager.names, len(looks)) == (["a/1"], 1)
    assert not followed.points().readable
    with pytest.raises(ModelUnavailable, match="does not answer within"):
        await followed.load("a", NOTHING)
    released.set()
    monkeypatch.setattr(source, "LOOK_TIMEOUT_S", 20)
    await poll(followed)
    assert followed.points().readable


async def test_an_unreadable_model_stays(repository, manager, make, monkeypatch):
    repository.write("a", 1)
    followed = make()
    await followed.start()

    def fails(path):
        raise OSError(116, "Stale file handle", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("batcher.lifecycle.repository.described.stamps_below", fails)
        await poll(followed, 3)
    assert manager.names == ["a/1"]
    assert "Stale file handle" in reasons(followed)["a", ""]
    await poll(followed, 2)
    assert (manager.names, reasons(followed)) == (["a/1"], {})


async def test_a_name_that_the_configuration_file_has_is_not_served(
    repository, manager, make, taken
):
    repository.write("a", 1)
    repository.write("b", 1)
    taken.add("a")
    followed = make()
    await followed.start()
    assert manager.names == ["b/1"]
    assert "rename one of them" in reasons(followed)["a", ""]
    with pytest.raises(InvalidRequest, match="rename one of them"):
        await followed.load("a", NOTHING)


async def test_explicit_serves_what_is_named_and_called_for(repository, manager, make):
    for name in "abc":
        repository.write(name, 1)
    followed = make(control="explicit", load=["b"])
    await followed.start()
    assert manager.names == ["b/1"]
    assert reasons(followed) == {("a", ""): "", ("c", ""): ""}
    await load(followed, manager, "a")
    assert manager.names == ["a/1", "b/1"]
    repository.write("a", 2)
    await poll(followed, 3)
    assert manager.names == ["a/1", "b/1"]  # only a call changes it
    await load(followed, manager, "a")
    assert manager.names == ["a/2", "b/1"]
    await followed.unload("b")
    manager.unload("b")
    assert KnownModel("b", "1", "unloaded") in followed.known()
    with pytest.raises(UnknownModel, match=r"models of .*: a, b, c"):
        await followed.load("nope", NOTHING)


@pytest.mark.parametrize("name", ["../a", "a/../a", "", ".", "a\0b", "/etc", "x" * 5000])
async def test_a_name_that_is_no_folder_is_unknown(repository, manager, make, name):
    repository.write("a", 1)
    followed = make()
    await followed.start()
    with pytest.raises(UnknownModel):
        await followed.load(name, NOTHING)
    with pytest.raises(UnknownModel):
        await followed.unload(name)


async def test_a_start_without_its_directory_or_models_fails(repository, manager, make, tmp_path):
    with pytest.raises(StartupError, match=r"model_repository\.path: .* cannot be read"):
        await make(path=str(tmp_path / "nope")).start()
    repository.write("a", 1)
    with pytest.raises(StartupError, match=r"load\[0\]: got b; allowed: a model of .*: a"):
        await make(control="explicit", load=["b"]).start()


async def test_unloaded_by_a_call_stays_so_until_a_call_loads_it(repository, manager, make):
    repository.write("a", 1)
    followed = make()
    await followed.start()
    await followed.unload("a")
    manager.unload("a")
    repository.write("a", 2)
    await poll(followed, 3)
    assert manager.names == []
    assert reasons(followed) == {("a", "2"): "unloaded"}
    assert followed.points().broken == 0
    await load(followed, manager, "a")
    assert manager.names == ["a/2"]
    repository.write("a", 3)
    await poll(followed, 2)
    assert manager.names == ["a/3"]


async def test_a_load_call_that_fails_keeps_the_old_version(repository, manager, make):
    repository.write("a", 1)
    followed = make(control="explicit", load=["a"])
    await followed.start()
    repository.write("a", 2)
    manager.fails["a", "2"] = "damaged"
    await load(followed, manager, "a")
    assert manager.names == ["a/1"]
    manager.fails.clear()
    manager.failed.clear()
    await load(followed, manager, "a")
    assert manager.names == ["a/2"]


async def test_a_configuration_in_the_call_is_used_until_the_next_call(repository, manager, make):
    repository.write("a", 1, 2)
    followed = make()
    await followed.start()
    text = '{"backend": "onnxruntime", "max_batch_size": 5, "version_policy": {"specific": {"versions": [1]}}}'
    await load(followed, manager, "a", LoadParameters(text))
    assert manager.names == ["a/1"]
    assert manager.served["a", "1"].config.batching.max_batch_size == 5
    await poll(followed, 2)
    assert manager.names == ["a/1"]
    await load(followed, manager, "a")
    assert manager.names == ["a/2"]


async def test_an_override_that_fails_leaves_everything_as_it_was(repository, manager, make):
    repository.write("a", 1)
    followed = make()
    await followed.start()
    before = manager.served["a", "1"]
    manager.fails["a", "1"] = "damaged"
    await load(followed, manager, "a", LoadParameters(files={"1/model.onnx": b"broken"}))
    manager.fails.clear()
    await poll(followed, 2)
    assert manager.served["a", "1"] == before
    assert followed._folders == []
    repository.write("a", 2)
    await poll(followed, 2)
    assert manager.names == ["a/2"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "parameter config: not JSON"),
        ('{"max_batch_size": -1, "backend": "onnxruntime"}', "got -1; allowed: 0 or more"),
        ('{"name": "b"}', 'got "b"; allowed: a, the name of its folder'),
        ('{"backend": "python"}', "Triton's Python backend is not there"),
    ],
)
async def test_a_wrong_configuration_in_a_call_says_so(repository, manager, make, text, problem):
    repository.write("a", 1)
    followed = make()
    await followed.start()
    with pytest.raises(InvalidRequest, match="a: ") as caught:
        await followed.load("a", LoadParameters(text))
    assert problem in str(caught.value)
    assert manager.names == ["a/1"]


async def test_files_in_the_call_are_private_and_removed_after_the_unload(
    repository, manager, make
):
    followed = make()
    await followed.start()
    files = {"4/model.onnx": b"weights", "4/parts/one": b"1"}
    await load(followed, manager, "new", LoadParameters('{"backend": "onnxruntime"}', files))
    folder = manager.served["new", "4"].base_dir
    assert (folder / "model.onnx").read_bytes() == b"weights"
    assert (folder / "parts" / "one").read_bytes() == b"1"
    assert folder.parent.stat().st_mode & 0o077 == 0
    assert not folder.is_relative_to(repository.path)
    await poll(followed, 3)
    assert manager.names == ["new/4"]  # it has no folder in the directory, and stays
    await load(followed, manager, "new", LoadParameters(files={"5/model.onnx": b"other"}))
    assert manager.names == ["new/5"]
    assert not folder.parent.exists()
    second = manager.served["new", "5"].base_dir
    await followed.unload("new")
    manager.unload("new")
    assert not second.parent.exists()


@pytest.mark.parametrize(
    "path",
    [
        "model.onnx",
        "../1/model.onnx",
        "1/../../x",
        "1/..",
        "1/",
        "/1/x",
        "1//x",
        "1/./x",
        "0/x",
        "x/model.onnx",
        "1/a\0b",
        "1/" + "a/" * 40 + "x",
        "1/" + "x" * 300,
        "1/\ud800",
        "",
    ],
)
async def test_no_file_of_a_call_is_written_elsewhere(repository, manager, make, path):
    repository.write("a", 1)
    followed = make()
    await followed.start()
    with pytest.raises(InvalidRequest, match="allowed: <version>/<name>"):
        await followed.load("a", LoadParameters(files={path: b"x"}))
    assert followed._folders == []


async def test_files_of_a_call_that_are_in_each_other_s_way(repository, manager, make):
    followed = make()
    await followed.start()
    files = {"1/a": b"x", "1/a/b": b"x"}
    with pytest.raises(InvalidRequest, match="one file of the call is the folder of another"):
        await followed.load("a", LoadParameters(files=files))


async def test_what_became_of_an_older_change_does_not_count_for_a_newer_one(
    repository, manager, make
):
    repository.write("a", 1)
    followed = make()
    await followed.start()
    gate = manager.gates["a", "2"] = asyncio.Event()
    manager.fails["a", "2"] = "damaged"
    repository.write("a", 2)
    await poll(followed, 2)  # the load of version 2 is under way
    repository.file("a", 2, "changed meanwhile")
    await poll(followed, 2)
    del manager.gates["a", "2"]
    gate.set()
    manager.fails.clear()
    await settle(followed)
    assert manager.names == ["a/2"]


async def test_closing_removes_the_files_of_calls(repository, manager, make):
    followed = make()
    await followed.start()
    await load(followed, manager, "m", LoadParameters(files={"1/model.onnx": b""}))
    folder = manager.served["m", "1"].base_dir
    await followed.close()
    assert not folder.exists()


async def test_an_error_of_the_manager_ends_nothing(repository, manager, make, caplog):
    repository.write("a", 1)
    followed = make()

    async def raises(*_):
        raise RuntimeError("boom")

    followed._manager = type("Broken", (), {"serve": raises, "loading": ()})()
    await followed.start()
    assert "could not be changed" in caplog.text
    followed._manager = manager
    repository.write("a", 2)
    await poll(followed, 2)
    assert manager.names == ["a/2"]


async def test_it_follows_until_cancelled_whatever_happens(repository, manager, make, monkeypatch):
    followed = make(poll_interval="100ms")
    await followed.start()
    tried = asyncio.Event()

    async def raises():
        tried.set()
        raise RuntimeError("boom")

    monkeypatch.setattr(followed, "_look", raises)
    task = asyncio.create_task(followed.run())
    await asyncio.wait_for(tried.wait(), 5)
    tried.clear()
    await asyncio.wait_for(tried.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_change_of_another_model_is_nothing_to_a_load():
    from batcher.lifecycle.repository.served import Served

    served = Served(tuple)
    served.loaded("a", [ModelChange("b", "1", ChangeResult.LOADED)])
    assert served.target() == ()
