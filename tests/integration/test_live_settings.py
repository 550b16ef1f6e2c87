"""Settings of a real server that change under load: by its file, by a signal, by an admin call."""

import asyncio
import json
import os
import signal
from pathlib import Path

import grpc
import pytest
from grpc import aio

from batcher import protocol
from batcher.app import running
from batcher.config import load_config
from batcher.core.policies import make_policy
from batcher.protocol import ADMIN, INFERENCE, admin
from batcher.testing.messages import output_arrays

WAIT_S = 20
INVALID = grpc.StatusCode.INVALID_ARGUMENT


async def refusal(call):
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value


def update(changes, model="hello", **fields):
    return admin.UpdateSettingsRequest(model=model, changes=changes, **fields)


def with_budget(served):
    return served.document["models"][0] | {"budget": {"queue": "10ms"}}


@pytest.fixture
def document(hello):
    server = {
        "grpc": ["127.0.0.1:0"],
        "http": "127.0.0.1:0",
        "admin": ["127.0.0.1:0"],
        "config_poll_interval": "100ms",
    }
    return hello(server=server, batching={"target_p99": "50ms"})


class Served:
    """An application in this process, and its file."""

    def __init__(self, application, path, document):
        self.application, self.path, self.document = application, path, document

    @property
    def settings(self):
        return next(iter(self.application.models)).settings

    @property
    def core(self):
        """What the scheduler itself goes by."""
        key = self.application.models.find("hello").key
        return self.application.runner._scheduler.models[key].settings

    def text(self, **batching):
        """The file with other values below `batching`."""
        changed = json.loads(json.dumps(self.document))
        changed["models"][0]["batching"] |= batching
        return json.dumps(changed)

    def replace_file(self, text):
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.path)

    def count(self, source, result):
        return self.application.registry.get_sample_value(
            "batcher_settings_changes_total", {"source": source, "result": result}
        )


@pytest.fixture
async def served(document, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(document))
    async with running(load_config(path), path) as application:
        yield Served(application, path, document)


@pytest.fixture
async def tune(served, dial):
    return await dial(served.application.grpc.admin_addresses[0], ADMIN)


@pytest.fixture
async def data(served, dial):
    return await dial(served.application.grpc.addresses[0], INFERENCE)


class TestByCall:
    async def test_everything_that_follows_from_settings_changes_with_them(
        self, served, tune, data, request_of
    ):
        answer = await tune.UpdateSettings(
            update({"batching.max_batch_size": "2", "batching.target_p99": "40ms"})
        )
        assert answer.generation == 2
        assert [(c.model, c.version, c.path, c.old, c.new) for c in answer.changes] == [
            ("hello", "1", "batching.max_batch_size", "32", "2"),
            ("hello", "1", "batching.target_p99", "50ms", "40ms"),
        ]
        assert served.core == served.settings
        assert (served.core.max_batch_size, served.core.target_ns) == (2, 40_000_000)
        error = await refusal(data.ModelInfer(request_of(rows=65), timeout=WAIT_S))
        assert (error.code(), "at most 64" in error.details()) == (INVALID, True)
        config = await data.ModelConfig(protocol.inference.ModelConfigRequest(name="hello"))
        assert config.config.max_batch_size == 2

    async def test_what_is_in_force_can_be_read_and_given_back(self, tune):
        await tune.UpdateSettings(update({"queue.tenants": "{gold: 4}"}))
        answer = await tune.GetSettings(admin.GetSettingsRequest(model="hello"))
        (model,) = answer.models
        assert (answer.generation, model.model, model.version) == (2, "hello", "1")
        assert "tenants:\n    gold: 4.0" in model.settings
        sections = protocol_yaml(model.settings)
        again = await tune.UpdateSettings(update(sections))
        assert (again.generation, list(again.changes)) == (2, [])

    async def test_tenants_that_are_named_now_are_counted_from_now_on(
        self, served, tune, data, request_of
    ):
        def counts():
            return {
                sample.labels["tenant"]: sample.value
                for metric in served.application.registry.collect()
                if metric.name == "batcher_tenant_requests"
                for sample in metric.samples
                if sample.labels["outcome"] == "ok"
            }

        async def ask(tenant):
            metadata = (("x-batcher-tenant", tenant),)
            await data.ModelInfer(request_of(), metadata=metadata, timeout=WAIT_S)

        await ask("gold")
        assert counts() == {}
        await tune.UpdateSettings(update({"queue.tenants": "{gold: 4}"}))
        for tenant in ("gold", "silver", "gold"):
            await ask(tenant)
        assert counts() == {"gold": 2, "other": 1}
        await tune.UpdateSettings(update({"queue.tenants": "{gold: 4, silver: 1}"}))
        await ask("silver")
        assert counts() == {"gold": 2, "silver": 1, "other": 1}
        error = await refusal(tune.UpdateSettings(update({"queue.tenants": "{other: 4}"})))
        assert (error.code(), "another name" in error.details()) == (INVALID, True)

    async def test_a_budget_counts_from_now_on_and_loads_nothing(
        self, served, tune, data, request_of, eventually
    ):
        def over(hop):
            return served.application.registry.get_sample_value(
                "batcher_budget_exceeded_total", {"model": "hello", "version": "1", "hop": hop}
            )

        await data.ModelInfer(request_of(), timeout=WAIT_S)
        assert over("execute") is None
        answer = await tune.UpdateSettings(update({"budget": "{execute: 1us, reply: 1ms}"}))
        assert "budget" in {change.path.split(".")[0] for change in answer.changes}
        await data.ModelInfer(request_of(), timeout=WAIT_S)
        await eventually(lambda: over("execute") == 1)
        with pytest.raises(aio.AioRpcError, match=r"at most batching\.target_p99, which is 50ms"):
            await tune.UpdateSettings(update({"budget.queue": "60ms"}))
        served.replace_file(json.dumps(served.document | {"models": [with_budget(served)]}))
        await eventually(lambda: over("execute") is None)
        assert over("queue") == 0
        assert served.application.models.find("hello").generation == 1

    async def test_validating_changes_nothing(self, served, tune):
        answer = await tune.UpdateSettings(update({"queue.max_rows": "7"}, validate_only=True))
        assert (answer.generation, answer.changes[0].new) == (1, "7")
        assert served.settings.queue.max_rows is None

    @pytest.mark.parametrize(
        ("changes", "text"),
        [
            ({"batching.target_p99": "4"}, "batching.target_p99: got 4; allowed: a number with a"),
            (
                {"batching.max_batch_size": "64"},
                "got 64; allowed: at most 32, the size that its instances",
            ),
            ({"instances": "2"}, "instances: needs the model to be loaded again"),
        ],
    )
    async def test_what_is_wrong_is_refused_by_its_path(self, served, tune, changes, text):
        before = served.settings
        error = await refusal(tune.UpdateSettings(update(changes)))
        assert (error.code(), text in error.details()) == (INVALID, True)
        assert served.settings is before
        assert served.count("rpc", "rejected") == 1

    async def test_an_unknown_model_is_not_found(self, tune):
        error = await refusal(tune.UpdateSettings(update({"queue.max_rows": "1"}, model="x")))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        error = await refusal(tune.GetSettings(admin.GetSettingsRequest(model="x")))
        assert error.code() is grpc.StatusCode.NOT_FOUND

    async def test_a_policy_that_cannot_be_made_leaves_the_old_settings(self, served, tune):
        scheduler, before = served.application.runner._scheduler, served.settings

        def broken(settings):
            raise ZeroDivisionError("a mistake in a policy")

        model = scheduler.models["hello/1"]
        model._make_policy = broken
        error = await refusal(tune.UpdateSettings(update({"batching.target_p99": "40ms"})))
        assert error.code() is grpc.StatusCode.INTERNAL
        assert "ZeroDivisionError: a mistake in a policy" in error.details()
        assert served.settings == served.core == before
        assert served.count("rpc", "failed") == 1
        model._make_policy = make_policy
        assert (await tune.UpdateSettings(update({"queue.max_rows": "9"}))).generation == 2

    async def test_a_data_listener_does_not_know_the_service(self, served, dial):
        stub = await dial(served.application.grpc.addresses[0], ADMIN)
        error = await refusal(stub.GetSettings(admin.GetSettingsRequest()))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED

    async def test_a_model_that_is_not_loaded_is_loaded_with_what_was_set(
        self, served, tune, dial, data, request_of
    ):
        control = await dial(served.application.grpc.admin_addresses[0], INFERENCE)
        name = {"model_name": "hello"}
        await control.RepositoryModelUnload(protocol.inference.RepositoryModelUnloadRequest(**name))
        await tune.UpdateSettings(update({"batching.max_batch_size": "2"}))
        await control.RepositoryModelLoad(protocol.inference.RepositoryModelLoadRequest(**name))
        assert served.core.max_batch_size == 2
        assert (await data.ModelInfer(request_of(rows=3), timeout=WAIT_S)).model_name == "hello"
        most_rows = 2 * served.core.queue.max_batches_per_request
        error = await refusal(data.ModelInfer(request_of(rows=most_rows + 1), timeout=WAIT_S))
        assert error.code() is INVALID


async def test_a_request_is_late_by_the_target_it_was_admitted_with(
    hello, fakes, tmp_path, dial, request_of
):
    server = {"grpc": ["127.0.0.1:0"], "http": None}
    document = hello(server=server, executor="fake", options={}, batching={"target_p99": "1h"})
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(document))
    async with running(load_config(path), path) as application:
        hang = fakes[0].hang_next()
        data = await dial(application.grpc.addresses[0], INFERENCE)
        call = asyncio.ensure_future(data.ModelInfer(request_of(), timeout=WAIT_S))
        await asyncio.to_thread(hang.wait_entered)
        await application.live_settings.update("hello", "", {"batching.target_p99": "1us"})
        hang.release()
        await call
        labels = {"model": "hello", "version": "1"}
        value = application.registry.get_sample_value
        assert value("batcher_latency_target_missed_total", labels) == 0


def protocol_yaml(text):
    """Section -> its text, as values for a call."""
    sections, name = {}, ""
    for line in text.splitlines():
        if not line.startswith(" "):
            name, _, value = line.partition(":")
            sections[name] = value
        else:
            sections[name] += f"{line}\n"
    return sections


class TestByFile:
    async def test_a_file_renamed_over_it_is_noticed(self, served, eventually):
        served.replace_file(served.text(target_p99="40ms"))
        await eventually(lambda: served.settings.target_ns == 40_000_000)
        assert served.core == served.settings
        assert served.count("file", "applied") == 1

    async def test_a_config_map_is_noticed(self, served, eventually):
        folder = served.path.parent

        def mount(text, name):
            (folder / name).mkdir()
            (folder / name / "config.yaml").write_text(text)
            (folder / "..data_tmp").symlink_to(name)
            os.replace(folder / "..data_tmp", folder / "..data")  # noqa: PTH105

        mount(served.text(), "..1")
        (folder / "link").symlink_to(Path("..data") / "config.yaml")
        (folder / "link").replace(served.path)
        for turn, target_ms in enumerate((40, 30, 20), start=2):
            mount(served.text(target_p99=f"{target_ms}ms"), f"..{turn}")
            await eventually(lambda ms=target_ms: served.settings.target_ns == ms * 1_000_000)

    async def test_a_wrong_file_is_logged_once_and_changes_nothing(
        self, served, eventually, caplog
    ):
        before = served.settings
        served.replace_file(served.text(target_p99="40"))
        await eventually(lambda: served.count("file", "rejected") == 1)
        served.replace_file(served.text(utilization_target=0.7))
        await eventually(lambda: served.count("file", "applied") == 1)
        assert served.settings.target_ns == before.target_ns
        assert caplog.text.count("models[0].batching.target_p99 (line 1): got") == 1

    async def test_what_needs_a_restart_holds_up_the_rest(self, served, eventually, caplog):
        before = served.settings
        text = served.text(target_p99="40ms").replace(
            '"server": {', '"server": {"max_message": "9MiB", '
        )
        assert "9MiB" in text
        served.replace_file(text)
        await eventually(lambda: served.count("file", "rejected") == 1)
        assert served.settings is before
        assert "server.max_message: needs a restart" in caplog.text

    async def test_a_call_has_it_read(self, served, tune):
        served.replace_file(served.text(target_p99="40ms"))
        answer = await tune.Reload(admin.ReloadRequest())
        assert [change.new for change in answer.changes] == ["40ms"]
        served.replace_file("models: [")
        error = await refusal(tune.Reload(admin.ReloadRequest()))
        assert (error.code(), "not valid YAML" in error.details()) == (INVALID, True)


async def test_under_load_no_request_is_lost_or_refused(served, tune, data, request_of):
    """Requests all the time, while settings change by file and call, every third of them wrong."""
    going, answered = True, []

    async def ask():
        while going:
            answer = await data.ModelInfer(request_of(3.0), timeout=WAIT_S)
            assert (output_arrays(answer)["Y"] == 6.0).all()
            answered.append(answer)

    callers = [asyncio.create_task(ask()) for _ in range(16)]
    valid = ({"batching.target_p99": "400ms"}, {"batching.max_batch_size": "8"})
    for turn in range(60):
        if turn % 3 == 2:
            error = await refusal(tune.UpdateSettings(update({"queue.max_requests": "0"})))
            assert error.code() is INVALID
        elif turn % 2:
            await tune.UpdateSettings(update(valid[turn % 4 // 2]))
        else:
            served.replace_file(served.text(target_p99=f"{300 + turn}ms"))
            await tune.Reload(admin.ReloadRequest())
        before = len(answered)
        while len(answered) < before + 16:
            await asyncio.sleep(0)
            assert not any(caller.done() for caller in callers)
    going = False
    await asyncio.gather(*callers)
    assert served.count("rpc", "rejected") == 20
    assert served.count("rpc", "applied") + served.count("rpc", "unchanged") == 40


async def test_a_signal_has_the_file_read(document, serve, scrape, eventually):
    server = serve(document | {"server": {"config_poll_interval": "0"}})
    changed = json.loads(server.path.read_text())
    changed["models"][0]["batching"]["target_p99"] = "40ms"
    server.path.write_text(json.dumps(changed))
    server.process.send_signal(signal.SIGHUP)

    async def applied():
        metrics = await scrape(server.http)
        labels = {"source": "signal", "result": "applied"}
        return metrics.sum("batcher_settings_changes_total", **labels) == 1

    await eventually(applied)
    assert "hello/1 batching.target_p99: 50ms -> 40ms (signal, generation 2)" in server.log()
    assert server.process.poll() is None
