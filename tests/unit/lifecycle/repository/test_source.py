"""A repository as a source: what it tells the manager, and what it says of what is not served."""

import asyncio

import pytest

from batcher.errors import InvalidRequest, ModelUnavailable, StartupError, UnknownModel
from batcher.lifecycle import KnownModel
from batcher.lifecycle.repository import source
from batcher.lifecycle.repository.served import RETRY_UNAVAILABLE_S


async def test_what_is_there_is_served_from_the_start(repository, manager, make):
    repository.write("a", 1, 2)
    repository.write("b", 1, config='backend: "python"')
    followed = make()
    await followed.start()
    assert manager.names == ["a/2"]
    assert "Triton's Python backend" in followed.reasons()["b", "1"]
    assert followed.points().broken == 1
    await followed.poll(3)
    assert manager.calls == [["a/2"]]  # nothing changed, nothing is said again


async def test_a_new_version_takes_over_when_it_is_loaded(repository, manager, make):
    repository.write("a", 1)
    followed = make()
    await followed.start()
    repository.write("a", 2)
    await followed.poll()
    assert manager.calls == [["a/1"]]  # it may still be copied
    loads = manager.held["a", "2"] = asyncio.Event()
    await followed.poll()
    assert manager.calls[-1] == ["a/2", "a/1"]  # the old one stays until the new one is loaded
    repository.write("b", 1)
    await followed.poll(2)
    assert manager.calls[-1] == ["a/2", "a/1", "b/1"]
    loads.set()
    await followed.settle()
    assert manager.calls[-1] == ["a/2", "b/1"]
    assert manager.names == ["a/2", "b/1"]


async def test_files_that_are_being_copied_are_not_loaded(repository, manager, make):
    repository.write("a", 1)
    followed = make()
    await followed.start()
    for size in range(1, 6):
        repository.file("a", 2, "x" * size)
        await followed.poll()
    assert manager.calls == [["a/1"]]
    await followed.poll()
    assert manager.names == ["a/2"]


async def test_a_broken_version_leaves_the_old_one_and_is_not_tried_again(
    repository, manager, make
):
    repository.write("a", 1)
    followed = make()
    await followed.start()
    manager.fails["a", "2"] = "damaged"
    repository.write("a", 2)
    await followed.poll(2)
    assert manager.names == ["a/1"]
    calls = len(manager.calls)
    await followed.poll(5)
    assert len(manager.calls) == calls
    assert followed.points().broken == 1
    manager.fails.clear()
    repository.file("a", 2, "mended")
    await followed.poll(2)
    assert manager.names == ["a/2"]
    assert followed.points().broken == 0


async def test_a_backend_that_is_not_up_is_tried_again(repository, manager, make):
    repository.write("a", 1)
    manager.fails["a", "1"] = "not up"
    followed = make()
    await followed.start()
    followed._served.retry(1_000.0)
    followed._served.retry(1_000.0 + RETRY_UNAVAILABLE_S - 1)
    await followed.poll()
    assert len(manager.calls) == 1
    followed._served.retry(1_000.0 + RETRY_UNAVAILABLE_S)
    await followed.poll()
    assert len(manager.calls) == 2
    manager.fails.clear()
    followed._served.retry(2_000.0)
    await followed.poll()
    assert manager.names == []  # its time begins with the failure
    followed._served.retry(3_000.0)
    await followed.poll(3)
    assert manager.names == ["a/1"]
    assert len(manager.calls) == 3
    repository.file("a", 1, "changed")
    await followed.poll(2)
    assert len(manager.calls) == 4


async def test_changed_files_of_a_version_load_it_again(repository, manager, make):
    repository.write("a", 1)
    followed = make()
    await followed.start()
    first = manager.served["a", "1"]
    manager.fails["a", "1"] = "damaged"
    repository.file("a", 1, "broken")
    await followed.poll(2)
    assert manager.served["a", "1"] is first
    manager.fails.clear()
    repository.file("a", 1, "mended")
    await followed.poll(2)
    assert manager.served["a", "1"].contents != first.contents


async def test_a_wrong_configuration_leaves_what_is_served(repository, manager, make):
    repository.write("a", 1)
    followed = make()
    await followed.start()
    repository.write("a", 2, config="max_batch_size: nonsense")
    await followed.poll(2)
    assert manager.names == ["a/1"]
    assert "Couldn't parse integer" in followed.reasons()["a", ""]
    repository.write("a")
    await followed.poll(2)
    assert manager.names == ["a/2"]
    assert followed.reasons() == {}


async def test_what_is_removed_is_unloaded(repository, manager, make):
    repository.write("a", 1, 2, config='backend: "onnxruntime" version_policy { all { } }')
    repository.write("b", 1)
    followed = make()
    await followed.start()
    (repository.path / "a" / "1").rename(repository.path.with_name("old"))
    (repository.path / "b").rename(repository.path.with_name("b"))
    await followed.poll()
    assert manager.names == ["a/1", "a/2", "b/1"]
    await followed.poll()
    assert manager.names == ["a/2"]


async def test_the_newest_version_removed_gives_way_to_the_one_before(repository, manager, make):
    repository.write("a", 1, 2)
    followed = make()
    await followed.start()
    (repository.path / "a" / "2").rename(repository.path.with_name("old"))
    await followed.poll(2)
    assert manager.names == ["a/1"]


async def test_a_removed_version_serves_until_the_one_before_is_loaded(repository, manager, make):
    repository.write("a", 1, 2)
    followed = make()
    await followed.start()
    loads = manager.held["a", "1"] = asyncio.Event()
    (repository.path / "a" / "2").rename(repository.path.with_name("old"))
    await followed.poll(2)
    assert manager.names == ["a/2"]
    loads.set()
    await followed.settle()
    assert manager.names == ["a/1"]


async def test_a_removed_version_goes_also_if_the_one_before_is_broken(repository, manager, make):
    repository.write("a", 1, 2)
    followed = make()
    await followed.start()
    manager.fails["a", "1"] = "damaged"
    (repository.path / "a" / "2").rename(repository.path.with_name("old"))
    await followed.poll(2)
    assert manager.names == []


async def test_a_directory_that_is_gone_leaves_everything(repository, manager, make):
    repository.write("a", 1)
    followed = make()
    await followed.start()
    repository.path.rename(repository.path.with_name("elsewhere"))
    await followed.poll(3)
    assert manager.names == ["a/1"]
    assert not followed.points().readable
    repository.path.with_name("elsewhere").rename(repository.path)
    repository.write("a", 2)
    await followed.poll(2)
    assert followed.points().readable
    assert manager.names == ["a/2"]


async def test_a_directory_that_hangs_leaves_everything_and_is_not_asked_again(
    repository, manager, make, monkeypatch
):
    import threading

    repository.write("a", 1)
    followed = make()
    await followed.start()
    released, scans = threading.Event(), []
    scan = followed._directory.scan

    def hangs():
        scans.append(1)
        released.wait(20)
        return scan()

    monkeypatch.setattr(followed._directory, "scan", hangs)
    monkeypatch.setattr(source, "SCAN_TIMEOUT_S", 0.05)
    await followed.poll(2)
    assert (manager.names, len(scans)) == (["a/1"], 1)
    assert not followed.points().readable
    with pytest.raises(ModelUnavailable, match="does not answer within"):
        await followed.call("a")
    released.set()
    monkeypatch.setattr(source, "SCAN_TIMEOUT_S", 20)
    await followed.poll()
    assert followed.points().readable


async def test_an_unreadable_model_stays(repository, manager, make, monkeypatch):
    repository.write("a", 1)
    followed = make()
    await followed.start()

    def fails(path):
        raise OSError(116, "Stale file handle", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("batcher.lifecycle.repository.described.stamps_below", fails)
        await followed.poll(3)
    assert manager.names == ["a/1"]
    assert "Stale file handle" in followed.reasons()["a", ""]
    await followed.poll(2)
    assert (manager.names, followed.reasons()) == (["a/1"], {})


async def test_a_name_that_the_configuration_file_has_is_not_served(
    repository, manager, make, taken
):
    repository.write("a", 1)
    repository.write("b", 1)
    taken.add("a")
    followed = make()
    await followed.start()
    assert manager.names == ["b/1"]
    assert "rename one of them" in followed.reasons()["a", ""]
    with pytest.raises(InvalidRequest, match="rename one of them"):
        await followed.call("a")


async def test_explicit_serves_what_is_named_and_called_for(repository, manager, make):
    for name in "abc":
        repository.write(name, 1)
    followed = make(control="explicit", load=["b"])
    await followed.start()
    assert manager.names == ["b/1"]
    assert followed.reasons() == {("a", ""): "", ("c", ""): ""}
    await followed.call("a")
    assert manager.names == ["a/1", "b/1"]
    repository.write("a", 2)
    await followed.poll(3)
    assert manager.names == ["a/1", "b/1"]  # only a call changes it
    await followed.call("a")
    assert manager.names == ["a/2", "b/1"]
    await followed.unload("b")
    manager.unload("b")
    assert KnownModel("b", "1", "unloaded") in followed.known()
    with pytest.raises(UnknownModel, match=r"models of .*: a, b, c"):
        await followed.call("nope")


@pytest.mark.parametrize("name", ["../a", "a/../a", "", ".", "a\0b", "/etc", "x" * 5000])
async def test_a_name_that_is_no_folder_is_unknown(repository, manager, make, name):
    repository.write("a", 1)
    followed = make()
    await followed.start()
    with pytest.raises(UnknownModel):
        await followed.call(name)
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
    await followed.poll(3)
    assert manager.names == []
    assert followed.reasons() == {("a", "2"): "unloaded"}
    assert followed.points().broken == 0
    await followed.call("a")
    assert manager.names == ["a/2"]
    repository.write("a", 3)
    await followed.poll(2)
    assert manager.names == ["a/3"]


async def test_a_load_call_that_fails_keeps_the_old_version(repository, manager, make):
    repository.write("a", 1)
    followed = make(control="explicit", load=["a"])
    await followed.start()
    repository.write("a", 2)
    manager.fails["a", "2"] = "damaged"
    await followed.call("a")
    assert manager.names == ["a/1"]
    manager.fails.clear()
    manager.failed.clear()
    await followed.call("a")
    assert manager.names == ["a/2"]


async def test_what_became_of_an_older_change_does_not_count_for_a_newer_one(
    repository, manager, make
):
    repository.write("a", 1)
    followed = make()
    await followed.start()
    loads = manager.held["a", "2"] = asyncio.Event()
    manager.fails["a", "2"] = "damaged"
    repository.write("a", 2)
    await followed.poll(2)  # the load of version 2 is under way
    repository.file("a", 2, "changed meanwhile")
    await followed.poll(2)
    del manager.held["a", "2"]
    loads.set()
    manager.fails.clear()
    await followed.settle()
    assert manager.names == ["a/2"]


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
    await followed.poll(2)
    assert manager.names == ["a/2"]


async def test_it_follows_until_cancelled_whatever_happens(repository, manager, make, monkeypatch):
    followed = make(poll_interval="100ms")
    await followed.start()
    tried = asyncio.Event()

    async def raises():
        tried.set()
        raise RuntimeError("boom")

    monkeypatch.setattr(followed, "_scan", raises)
    task = asyncio.create_task(followed.run())
    await asyncio.wait_for(tried.wait(), 5)
    tried.clear()
    await asyncio.wait_for(tried.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
