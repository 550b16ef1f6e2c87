"""A file that changes in every way that files change, noticed and never read by halves."""

import asyncio
import os
from pathlib import Path

import pytest

from batcher.config import load_config
from batcher.errors import BatcherError, ConfigError
from batcher.live_settings import FileFollower, FileState, FileWatch
from batcher.live_settings.file_watch import MAX_READS, read_stable
from batcher.telemetry import ChangeSource

TEXT = "models: [{name: m, executor: emulated, batching: {max_batch_size: 32}}]\n"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(TEXT)
    return path


@pytest.fixture
def watch(path):
    """A watch that knows the file."""
    watch = FileWatch(path)
    assert [watch.check(), watch.check(), watch.check()] == [
        FileState.CHANGING,
        FileState.CHANGED,
        FileState.SAME,
    ]
    return watch


def noticed(watch):
    """Whether a change is noticed: once it is settled, and once only."""
    looks = [watch.check() for _ in range(3)]
    assert looks in ([FileState.CHANGING, FileState.CHANGED, FileState.SAME], [FileState.SAME] * 3)
    return looks[0] is FileState.CHANGING


def rename_over(path, text):
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, path)  # noqa: PTH105


class TestWatch:
    def test_nothing_happens(self, watch):
        assert not noticed(watch)

    def test_a_file_is_written_in_place(self, watch, path):
        path.write_text(TEXT + "#")
        assert noticed(watch)
        assert not noticed(watch)

    def test_a_file_is_renamed_over_it_with_the_same_length_and_time(self, watch, path):
        times = path.stat()
        fresh = path.with_suffix(".new")
        fresh.write_text(TEXT)
        os.utime(fresh, ns=(times.st_atime_ns, times.st_mtime_ns))
        fresh.replace(path)
        assert noticed(watch)

    def test_a_file_that_is_removed_and_comes_back(self, watch, path):
        path.unlink()
        assert noticed(watch)
        path.write_text(TEXT)
        assert noticed(watch)

    def test_a_file_that_is_being_written(self, watch, path):
        for length in range(3):
            path.write_text("x" * length)
            assert watch.check() is FileState.CHANGING
        assert watch.check() is FileState.CHANGED

    def test_a_file_that_was_missing_at_first(self, tmp_path):
        watch = FileWatch(tmp_path / "none")
        assert noticed(watch)
        assert not noticed(watch)


class TestConfigMap:
    """`config.yaml` -> `..data/config.yaml`, `..data` -> a folder; an update renames `..data`."""

    @pytest.fixture
    def mounted(self, tmp_path):
        def mount(text, name):
            folder = tmp_path / name
            folder.mkdir()
            (folder / "config.yaml").write_text(text)
            link = tmp_path / "..data_tmp"
            link.symlink_to(name)
            os.replace(link, tmp_path / "..data")  # noqa: PTH105

        mount(TEXT, "..1")
        (tmp_path / "config.yaml").symlink_to(Path("..data") / "config.yaml")
        return mount

    def test_the_swap_is_noticed(self, mounted, tmp_path):
        watch = FileWatch(tmp_path / "config.yaml")
        assert noticed(watch)
        mounted(TEXT.replace("32", "16"), "..2")
        assert noticed(watch)
        assert load_config(tmp_path / "config.yaml").models[0].batching.max_batch_size == 16

    def test_paths_in_the_file_start_where_they_did(self, mounted, tmp_path):
        before = load_config(tmp_path / "config.yaml")
        mounted(TEXT, "..2")
        assert load_config(tmp_path / "config.yaml") == before


class TestReadSettled:
    def test_a_file_that_rests_is_read_once(self, path):
        pauses = []
        assert read_stable(path, pauses.append).models[0].name == "m"
        assert pauses == []

    def test_half_a_file_is_read_again(self, path, monkeypatch):
        """`max_batch_size: 3` is as valid as `32`, and not what was meant."""
        half, pauses = TEXT[: TEXT.index("2}}")] + "}}]\n", []
        path.write_text(half)
        read = load_config

        def read_while_it_is_written(path):
            config = read(path)
            if not pauses:
                path.write_text(TEXT)
            return config

        monkeypatch.setattr(
            "batcher.live_settings.file_watch.load_config", read_while_it_is_written
        )
        assert read_stable(path, pauses.append).models[0].batching.max_batch_size == 32
        assert len(pauses) == 1

    def test_errors_are_raised_once_the_file_is_stable(self, path):
        path.write_text("models: [")
        with pytest.raises(ConfigError, match="not valid YAML"):
            read_stable(path)

    def test_a_file_that_never_rests_is_given_up(self, path, monkeypatch):
        reads = []

        def read(path):
            reads.append(path)
            path.write_text(TEXT + "#" * len(reads))
            return load_config(path)

        monkeypatch.setattr("batcher.live_settings.file_watch.load_config", read)
        with pytest.raises(ConfigError, match="changed during each of 10 reads"):
            read_stable(path, lambda _: None)
        assert len(reads) == MAX_READS


class TestFollower:
    """With an interval of 0 only signals count; 1 ms makes looks quick."""

    @pytest.fixture
    async def follow(self, path):
        tasks, reloads = [], asyncio.Queue()
        errors = []

        async def reload(source):
            await reloads.put((source, path.read_text() if path.exists() else None))
            if errors:
                raise errors.pop()

        async def follow(interval_ns, hangup=None):
            follower = FileFollower(path, interval_ns, reload, hangup)
            tasks.append(asyncio.create_task(follower.run()))
            return reloads

        follow.errors = errors
        yield follow
        for task in tasks:
            assert not task.done()
            task.cancel()

    async def test_a_file_is_read_when_it_has_changed(self, follow, path):
        reloads = await follow(1_000_000)
        assert await reloads.get() == (ChangeSource.FILE, TEXT)
        rename_over(path, TEXT + "#")
        assert await reloads.get() == (ChangeSource.FILE, TEXT + "#")

    async def test_a_signal_reloads_at_once(self, follow):
        hangup = asyncio.Event()
        hangup.set()
        reloads = await follow(0, hangup)
        assert await reloads.get() == (ChangeSource.SIGNAL, TEXT)
        hangup.set()
        assert await reloads.get() == (ChangeSource.SIGNAL, TEXT)

    @pytest.mark.parametrize("error", [BatcherError("logged elsewhere"), ZeroDivisionError()])
    async def test_what_goes_wrong_does_not_end_it(self, follow, caplog, error):
        hangup = asyncio.Event()
        follow.errors.append(error)
        reloads = await follow(0, hangup)
        for _ in range(2):
            hangup.set()
            await reloads.get()
        logged = "could not be reloaded" in caplog.text
        assert logged is not isinstance(error, BatcherError)
