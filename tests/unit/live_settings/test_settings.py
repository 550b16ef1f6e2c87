"""Changes of settings: validated, applied to all models or none, logged and counted."""

import asyncio
import threading
from dataclasses import replace

import pytest

from batcher.config import load_config
from batcher.errors import (
    ChangeFailed,
    ConfigError,
    InvalidRequest,
    ModelLoadError,
    UnknownModel,
)
from batcher.journal import InForce
from batcher.live_settings import LiveSettings, settings
from batcher.live_settings.settings import MAX_CHANGE_BYTES
from batcher.runtime.interface.padding_rules import AxisRule, read_padding_rules
from batcher.telemetry import ChangeResult, ChangeSource, SettingsTelemetry

FILE, SIGNAL, RPC = ChangeSource
TEXT = """
models:
  - name: a
    executor: emulated
    batching: {target_p99: 50ms}
  - name: b
    executor: emulated
  - name: b
    version: "2"
    executor: emulated
"""


class Model:
    """A served model that takes what it is given, or raises."""

    def __init__(self, config):
        self.name, self.version = config.name, config.version
        self.settings = config.scheduler_settings()
        self.rules = read_padding_rules(config, "models[0].")
        self.largest_batch = config.batching.max_batch_size
        self.raises = []

    def fitted(self, config):
        return config

    def check_padding(self, rules):
        if any(rule.buckets == (13,) for rule in rules.axes):
            raise ModelLoadError(f"{rules.path}padding[0].buckets: not on a Friday")

    def configure(self, settings, rules):
        if self.raises:
            raise self.raises.pop()
        self.settings, self.rules = settings, rules


class Models:
    """What is served: the file's models, and what they were asked to follow."""

    def __init__(self, config):
        self.models = [Model(model) for model in config.models]
        self.in_force = list(config.models)
        self.followed = []

    def configurations(self):
        return self.in_force

    of_file = configurations

    def configurable(self, name, version):
        found = (m for m in self.models if (m.name, m.version) == (name, version))
        return next(found, None)

    def configured(self, config):
        place = [(m.name, m.version) for m in self.in_force].index((config.name, config.version))
        self.in_force[place] = config

    def follow(self, config):
        self.followed.append(config)


class World:
    def __init__(self, path):
        self.path = path
        self.write(TEXT)
        config = load_config(path)
        self.served = Models(config)
        self.models = self.served.models
        self.telemetry = SettingsTelemetry(epoch=lambda: 7.0)
        self.live_settings = LiveSettings(config, self.served, self.telemetry, path)

    def write(self, text):
        self.path.write_text(text, encoding="utf-8")

    def rewrite(self, old, new):
        text = self.path.read_text(encoding="utf-8")
        assert old in text
        self.write(text.replace(old, new, 1))

    @property
    def counts(self):
        return {key: count for key, count in self.telemetry.changes.items() if count}

    @property
    def settings(self):
        return [model.settings for model in self.models]


@pytest.fixture
def world(tmp_path, caplog):
    caplog.set_level("INFO")
    return World(tmp_path / "config.yaml")


def texts(applied):
    return [str(change) for change in applied.changes]


class TestUpdate:
    async def test_a_change_is_applied_logged_and_counted(self, world, caplog):
        applied = await world.live_settings.update("a", "", {"batching.target_p99": "40ms"})
        assert texts(applied) == ["a/1 batching.target_p99: 50ms -> 40ms"]
        assert applied.generation == world.live_settings.generation == 2
        assert world.models[0].settings.target_ns == 40_000_000
        assert world.counts == {("rpc", "applied"): 1}
        assert "a/1 batching.target_p99: 50ms -> 40ms (rpc, generation 2)" in caplog.text
        assert world.live_settings.values("a")[0][2]["batching"]["target_p99"] == "40ms"

    async def test_changes_build_on_each_other(self, world):
        await world.live_settings.update("a", "1", {"batching.target_p99": "40ms"})
        await world.live_settings.update("a", "1", {"queue.max_requests": "5"})
        settings = world.models[0].settings
        assert (settings.target_ns, settings.queue.max_requests) == (40_000_000, 5)

    async def test_padding_changes_with_its_outputs_or_not_at_all(self, world):
        rule = "[{input: x, axis: 1, buckets: [4, 8]}]"
        applied = await world.live_settings.update(
            "a", "", {"padding": rule, "outputs": "[{output: y, axis: 1, like: null}]"}
        )
        assert [text.split(":")[0] for text in texts(applied)] == ["a/1 padding", "a/1 outputs"]
        (axis,) = world.models[0].rules.axes
        assert axis == AxisRule("x", 1, None, (4, 8))
        with pytest.raises(InvalidRequest, match=r"^.*padding\[0\]\.buckets: not on a Friday"):
            await world.live_settings.update("a", "", {"padding[0].buckets": "[13]"})
        assert world.models[0].rules.axes == (axis,)

    async def test_validating_changes_and_counts_nothing(self, world):
        before = world.settings
        applied = await world.live_settings.update(
            "a", "", {"queue.max_rows": "9"}, validate_only=True
        )
        assert texts(applied) == ["a/1 queue.max_rows: null -> 9"]
        with pytest.raises(InvalidRequest):
            await world.live_settings.update("a", "", {"queue.max_rows": "0"}, validate_only=True)
        assert (world.settings, world.counts, world.live_settings.generation) == (before, {}, 1)

    async def test_the_values_of_now_are_no_change(self, world):
        applied = await world.live_settings.update("a", "", {"batching.target_p99": "0.05s"})
        assert (texts(applied), applied.generation) == ([], 1)
        assert world.counts == {("rpc", "unchanged"): 1}

    @pytest.mark.parametrize(
        ("name", "version", "changes", "kind", "text"),
        [
            ("a", "", {"batching.target_p99": "4"}, InvalidRequest, "batching.target_p99: got 4"),
            (
                "a",
                "",
                {"batching.max_batch_size": "33"},
                InvalidRequest,
                "got 33; allowed: at most 32",
            ),
            (
                "a",
                "",
                {"batching.max_batch_size": "0"},
                InvalidRequest,
                "a change from or to 0 (a model without a batch axis) loads the model again",
            ),
            ("a", "", {}, InvalidRequest, "changes: got none"),
            ("", "", {"queue.max_rows": "1"}, InvalidRequest, "model: the request names no model"),
            ("b", "", {"queue.max_rows": "1"}, InvalidRequest, "version: b has several"),
            (
                "x",
                "",
                {"queue.max_rows": "1"},
                UnknownModel,
                "model: got x; allowed: a version 1",
            ),
            ("a", "2", {"queue.max_rows": "1"}, UnknownModel, "got a version 2"),
        ],
    )
    async def test_what_is_wrong_changes_nothing(
        self, world, caplog, name, version, changes, kind, text
    ):
        before = world.settings
        with pytest.raises(kind) as caught:
            await world.live_settings.update(name, version, changes)
        assert text in str(caught.value)
        assert "\n" not in str(caught.value)
        assert text in caplog.text
        assert (world.settings, world.counts) == (before, {("rpc", "rejected"): 1})

    async def test_a_smaller_maximum_may_grow_again_up_to_what_was_loaded(self, world):
        for rows in ("16", "32"):
            await world.live_settings.update("a", "", {"batching.max_batch_size": rows})
        assert world.models[0].settings.max_batch_size == 32

    async def test_what_is_too_large_is_refused_by_its_size(self, world):
        comment = "#" * (MAX_CHANGE_BYTES - len("queue.max_rows" + "9 "))
        await world.live_settings.update("a", "", {"queue.max_rows": f"9 {comment}"})
        with pytest.raises(InvalidRequest, match=r"got 16385 bytes .* allowed: at most 16384"):
            await world.live_settings.update("a", "", {"queue.max_rows": f"8 {comment}#"})
        assert world.models[0].settings.queue.max_rows == 9
        assert world.counts == {("rpc", "applied"): 1, ("rpc", "rejected"): 1}

    async def test_changes_are_parsed_on_a_thread_and_applied_in_order(self, world, monkeypatch):
        read, go_on = settings.with_changes, threading.Event()

        def slowly(model, changes):
            assert go_on.wait(20)
            return read(model, changes)

        monkeypatch.setattr(settings, "with_changes", slowly)
        world.rewrite("50ms", "45ms")
        asked = [
            asyncio.ensure_future(
                world.live_settings.update("a", "", {"batching.target_p99": "40ms"})
            ),
            asyncio.ensure_future(world.live_settings.reload(RPC)),
            asyncio.ensure_future(
                world.live_settings.update("a", "", {"batching.target_p99": "30ms"})
            ),
        ]
        # Parsing on a thread does not block the loop, which sets the event.
        asyncio.get_running_loop().call_soon(go_on.set)
        assert [texts(await each)[0].split(" ", 1)[1] for each in asked] == [
            "batching.target_p99: 50ms -> 40ms",
            "batching.target_p99: 40ms -> 45ms",
            "batching.target_p99: 45ms -> 30ms",
        ]

    @pytest.mark.parametrize(
        "error", [ChangeFailed("a: no policy"), ZeroDivisionError("a: no policy")]
    )
    async def test_a_change_that_fails_leaves_the_old_settings(self, world, caplog, error):
        before = world.settings
        world.models[0].raises = [error]
        with pytest.raises(ChangeFailed, match="a: no policy"):
            await world.live_settings.update("a", "", {"queue.max_rows": "9"})
        assert world.settings == before
        assert world.counts == {("rpc", "failed"): 1}
        assert "a: no policy" in caplog.text
        assert (await world.live_settings.update("a", "", {"queue.max_rows": "9"})).generation == 2


class TestReload:
    async def test_the_file_is_put_in_force(self, world, caplog):
        world.rewrite("50ms", "40ms")
        applied = await world.live_settings.reload(SIGNAL)
        assert texts(applied) == ["a/1 batching.target_p99: 50ms -> 40ms"]
        assert world.models[0].settings.target_ns == 40_000_000
        assert world.counts == {("signal", "applied"): 1}
        assert "(signal, generation 2)" in caplog.text

    async def test_all_models_change_or_none(self, world):
        before = world.settings
        world.rewrite("50ms", "40ms")
        world.write(world.path.read_text() + "    queue: {max_rows: 3}\n")
        world.models[2].raises = [ChangeFailed("b: no policy")]
        with pytest.raises(ChangeFailed):
            await world.live_settings.reload(FILE)
        assert world.settings == before
        assert world.counts == {("file", "failed"): 1}
        assert (await world.live_settings.reload(FILE)).generation == 2

    async def test_a_previous_setting_that_cannot_be_restored_is_logged(self, world, caplog):
        world.rewrite("50ms", "40ms")
        world.write(world.path.read_text() + "    queue: {max_rows: 3}\n")
        taken = world.models[0].configure
        world.models[0].configure = lambda settings, _: (
            setattr(world.models[0], "raises", [ZeroDivisionError()]) or taken_once(settings)
        )

        def taken_once(settings):
            world.models[0].configure = taken

        world.models[2].raises = [ChangeFailed("b: no policy")]
        with pytest.raises(ChangeFailed, match="b: no policy"):
            await world.live_settings.reload(FILE)
        assert "a: its previous settings could not be restored" in caplog.text

    @pytest.mark.parametrize(
        ("old", "new", "problem"),
        [
            ("50ms", "50", "models[0].batching.target_p99 (line 5): got 50"),
            ("executor: emulated", "{", "not valid YAML"),
            ("models:", "server: {http: null}\nmodels:", "server.http: needs a restart"),
        ],
    )
    async def test_a_file_that_is_wrong_changes_nothing(self, world, caplog, old, new, problem):
        before = world.settings
        world.rewrite("target_p99: 50ms", "target_p99: 50ms, utilization_target: 0.5")
        world.rewrite(old, new)
        with pytest.raises(ConfigError) as caught:
            await world.live_settings.reload(FILE)
        assert problem in str(caught.value)
        assert problem in caplog.text
        assert (world.settings, world.counts) == (before, {("file", "rejected"): 1})

    @pytest.mark.parametrize(
        ("old", "new", "changes"),
        [
            (
                "target_p99",
                "max_batch_size: 64, target_p99",
                ["a/1 batching.max_batch_size: 32 -> 64"],
            ),
            (
                "target_p99: 50ms",
                "max_batch_size: 0",
                [
                    "a/1 batching.max_batch_size: 32 -> 0",
                    "a/1 batching.target_p99: 50ms -> null",
                ],
            ),
            ("emulated", "emulated\n    instances: 2", ["a/1 instances: 1 -> 2"]),
            ("emulated", "fake", ["a/1 executor: emulated -> fake"]),
            ('version: "2"', 'version: "3"', ["b/3: absent -> served", "b/2: served -> absent"]),
        ],
    )
    async def test_what_is_loaded_again_is_left_to_what_serves_models(
        self, world, old, new, changes
    ):
        before = world.settings
        world.rewrite(old, new)
        world.write(world.path.read_text() + "    queue: {max_rows: 3}\n")
        applied = await world.live_settings.reload(FILE)
        assert [text for text in texts(applied) if "max_rows" not in text] == changes
        assert world.settings[:2] == before[:2]
        (followed,) = world.served.followed
        assert followed == load_config(world.path)
        if '"3"' not in new:
            assert world.settings[2].queue.max_rows == 3

    async def test_labels_are_not_changed_by_a_call(self, world):
        with pytest.raises(InvalidRequest, match="a change of labels loads the model again"):
            await world.live_settings.update("a", "", {"outputs": "[{output: y, labels: l.txt}]"})

    async def test_a_file_that_is_gone_changes_nothing(self, world):
        world.path.unlink()
        with pytest.raises(ConfigError, match="No such file"):
            await world.live_settings.reload(SIGNAL)
        assert world.counts == {("signal", "rejected"): 1}

    async def test_without_a_file_there_is_nothing_to_read(self, world):
        without = LiveSettings(world.live_settings.config, world.served, world.telemetry)
        with pytest.raises(ConfigError, match="started without one"):
            await without.reload(RPC)

    async def test_two_at_once_take_turns(self, world):
        world.rewrite("50ms", "40ms")
        first, second = await asyncio.gather(
            world.live_settings.reload(RPC), world.live_settings.reload(RPC)
        )
        assert (len(first.changes), len(second.changes)) == (1, 0)


class TestTheFirstPollOfTheFile:
    async def test_counts_as_no_attempt_where_the_file_is_as_it_was(self, world):
        world.live_settings.read_again = True
        await world.live_settings.reload(FILE)
        assert not world.counts
        await world.live_settings.reload(FILE)
        assert world.counts == {(FILE, "unchanged"): 1}

    async def test_counts_where_the_file_has_changed_since_the_start(self, world):
        world.live_settings.read_again = True
        world.rewrite("50ms", "40ms")
        await world.live_settings.reload(FILE)
        await world.live_settings.reload(FILE)
        assert world.counts == {(FILE, "applied"): 1, (FILE, "unchanged"): 1}


class TestAfterAnAdminCall:
    @pytest.fixture
    async def called(self, world):
        await world.live_settings.update("a", "", {"batching.target_p99": "40ms"})
        return world

    async def test_a_watched_file_with_equal_settings_undoes_nothing(self, called):
        called.write(TEXT + "# another comment\n")
        assert (await called.live_settings.reload(FILE)).changes == ()
        assert called.models[0].settings.target_ns == 40_000_000
        assert called.counts[FILE, "unchanged"] == 1

    @pytest.mark.parametrize("source", [SIGNAL, RPC])
    async def test_a_reload_that_was_asked_for_undoes_it(self, called, caplog, source):
        assert texts(await called.live_settings.reload(source)) == [
            "a/1 batching.target_p99: 40ms -> 50ms"
        ]
        assert f"40ms -> 50ms ({source}, undoes an admin call, generation 3)" in caplog.text

    async def test_a_changed_file_replaces_all_changes_by_calls(self, called, caplog):
        called.write(TEXT + "    queue: {max_rows: 3}\n")
        assert len((await called.live_settings.reload(FILE)).changes) == 2
        assert called.models[0].settings.target_ns == 50_000_000
        assert "40ms -> 50ms (file, undoes an admin call" in caplog.text
        assert "queue.max_rows: null -> 3 (file, generation 3)" in caplog.text


class TestSettings:
    def test_of_all_models_in_the_order_of_the_file(self, world):
        assert [each[:2] for each in world.live_settings.values()] == [
            ("a", "1"),
            ("b", "1"),
            ("b", "2"),
        ]

    def test_of_one(self, world):
        assert [each[:2] for each in world.live_settings.values("b", "2")] == [("b", "2")]
        with pytest.raises(UnknownModel):
            world.live_settings.values("c")


async def test_what_is_in_force_is_the_file_that_was_applied_and_what_calls_changed_since(world):
    assert world.live_settings.in_force() == InForce(TEXT)
    await world.live_settings.update("b", "2", {"queue.max_rows": "9"})
    world.rewrite("50ms", "'${TARGET:-40ms}'")
    assert world.live_settings.in_force() == InForce(TEXT, ("b/2 queue.max_rows: 9",))
    await world.live_settings.reload(SIGNAL)
    text = TEXT.replace("50ms", "'${TARGET:-40ms}'")
    assert world.live_settings.in_force() == InForce(text)
    await world.live_settings.update("a", "", {"batching.target_p99": "30ms"})
    world.rewrite("'${TARGET:-40ms}'", "nothing")
    with pytest.raises(ConfigError):
        await world.live_settings.reload(FILE)
    assert world.live_settings.in_force() == InForce(text, ("a/1 batching.target_p99: 30ms",))


def test_the_time_and_the_generation_move_with_what_is_applied():
    now = [1.0]
    telemetry = SettingsTelemetry(epoch=lambda: now[0])
    now[0] = 5.0
    telemetry.count(RPC, ChangeResult.REJECTED)
    assert (telemetry.generation, telemetry.changed_at_s) == (1, 1.0)
    telemetry.count(RPC, ChangeResult.APPLIED)
    assert (telemetry.generation, telemetry.changed_at_s) == (2, 5.0)


async def test_settings_that_the_scheduler_reads_alike_are_a_change_all_the_same(world):
    before = replace(world.models[0].settings)
    assert (
        await world.live_settings.update("a", "", {"queue.default_priority": "2"})
    ).generation == 2
    assert world.models[0].settings == before
