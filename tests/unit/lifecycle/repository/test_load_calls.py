"""Load calls that bring a configuration or files along."""

import pytest

from batcher.errors import InvalidRequest
from batcher.lifecycle import ChangeResult, LoadParameters, ModelChange
from batcher.lifecycle.repository.directory import Directory
from batcher.lifecycle.repository.served import Served
from batcher.triton_models import parse_text


async def test_a_configuration_in_the_call_is_used_until_the_next_call(repository, manager, make):
    repository.write("a", 1, 2)
    followed = make()
    await followed.start()
    text = '{"backend": "onnxruntime", "max_batch_size": 5, "version_policy": {"specific": {"versions": [1]}}}'
    await followed.call("a", LoadParameters(text))
    assert manager.names == ["a/1"]
    assert manager.served["a", "1"].config.batching.max_batch_size == 5
    await followed.poll(2)
    assert manager.names == ["a/1"]
    await followed.call("a")
    assert manager.names == ["a/2"]


async def test_an_override_that_fails_leaves_everything_as_it_was(repository, manager, make):
    repository.write("a", 1)
    followed = make()
    await followed.start()
    before = manager.served["a", "1"]
    manager.fails["a", "1"] = "damaged"
    await followed.call("a", LoadParameters(files={"1/model.onnx": b"broken"}))
    manager.fails.clear()
    await followed.poll(2)
    assert manager.served["a", "1"] == before
    assert followed._folders == []
    repository.write("a", 2)
    await followed.poll(2)
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
    await followed.call("new", LoadParameters('{"backend": "onnxruntime"}', files))
    folder = manager.served["new", "4"].base_dir
    assert (folder / "model.onnx").read_bytes() == b"weights"
    assert (folder / "parts" / "one").read_bytes() == b"1"
    assert folder.parent.stat().st_mode & 0o077 == 0
    assert not folder.is_relative_to(repository.path)
    await followed.poll(3)
    assert manager.names == ["new/4"]  # it has no folder in the directory, and stays
    await followed.call("new", LoadParameters(files={"5/model.onnx": b"other"}))
    assert manager.names == ["new/5"]
    assert not folder.parent.exists()
    second = manager.served["new", "5"].base_dir
    await followed.unload("new")
    manager.unload("new")
    await followed.settle()
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


async def test_closing_removes_the_files_of_calls(repository, manager, make):
    followed = make()
    await followed.start()
    await followed.call("m", LoadParameters(files={"1/model.onnx": b""}))
    folder = manager.served["m", "1"].base_dir
    await followed.close()
    assert not folder.exists()


def test_two_calls_for_one_model_each_count_for_what_they_brought(repository):
    repository.write("m", 1)
    directory = Directory(repository.path, {})
    served = Served(tuple)
    scans = []
    for rows in (3, 4):
        text = f'backend: "onnxruntime" max_batch_size: {rows}'
        scans.append(directory.overridden("m", parse_text(text), None))
        served.load(scans[-1], overridden=True)
    served.loaded("m", [ModelChange("m", "1", ChangeResult.LOADED)])
    assert list(served.in_use()) == [*scans[0].wanted, *scans[1].wanted]
    served.loaded("m", [ModelChange("m", "1", ChangeResult.FAILED, "damaged")])
    assert served.target() == scans[0].wanted
    assert tuple(served.in_use()) == scans[0].wanted


async def test_an_unload_while_a_call_loads(repository, manager, make):
    repository.write("a", 1)
    followed = make(control="explicit")
    await followed.start()
    wanted = await followed.load("a", LoadParameters())
    await followed.unload("a")
    failed = ModelChange("a", "1", ChangeResult.FAILED, "unloaded while it was loading")
    await followed.loaded("a", [failed for _ in wanted])
    await followed.settle()
    assert followed.reasons() == {("a", "1"): "unloaded"}
    await followed.call("a")
    assert manager.names == ["a/1"]
