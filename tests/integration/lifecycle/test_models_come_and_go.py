"""Models are added, changed and removed while requests arrive: each ends once, and is answered."""

import asyncio
import json
import threading
from collections import Counter

import grpc
import pytest
from grpc import aio

from batcher import protocol
from batcher.app import running
from batcher.config import load_config
from batcher.protocol import ADMIN, HEALTH, admin, health, inference
from batcher.testing.messages import output_arrays

WAIT_S = 30


async def refusal(call):
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value


class Served:
    """An application in this process that follows its file."""

    def __init__(self, application, path, document):
        self.application, self.path, self.document = application, path, document

    def write(self, change):
        """Replace the file by what `change` makes of its document."""
        changed = json.loads(json.dumps(self.document))
        change(changed["models"])
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps(changed))
        fresh.replace(self.path)

    def value(self, name, **labels):
        labels = {"model": "hello", "version": "1"} | labels
        return self.application.registry.get_sample_value(name, labels)

    def reloads(self):
        results = ("succeeded", "failed", "cancelled")
        return [self.value("batcher_model_reloads_total", result=result) for result in results]

    def states(self):
        return {
            f"{model.name}/{model.version}": str(model.state)
            for model in self.application.health().models
        }


@pytest.fixture
async def served(hello, tmp_path, transport):
    server = {
        "grpc": ["127.0.0.1:0"],
        "http": None,
        "admin": ["127.0.0.1:0"],
        "config_poll_interval": "100ms",
        "transport": transport,
    }
    document = hello(server=server, base="1ms")
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(document))
    before = set(threading.enumerate())
    async with running(load_config(path), path) as application:
        yield Served(application, path, document)
        scheduler = application.runner._scheduler
    assert not scheduler.contents.models
    assert not scheduler.contents.fleet.instances
    assert application.telemetry._keys == {}
    left = [t for t in set(threading.enumerate()) - before if "#" in t.name and t.is_alive()]
    assert left == []


@pytest.fixture
async def data(served, dial):
    return await dial(served.application.grpc.addresses[0])


async def test_reloads_lose_nothing(served, data, dial, request_of, eventually):
    """Every second load is broken; every request is answered, with its own values."""
    control = await dial(served.application.grpc.admin_addresses[0])
    going, ended = True, Counter()

    async def ask(number):
        while going:
            ended["sent"] += 1
            answer = await data.ModelInfer(request_of(number), timeout=WAIT_S)
            ended["right" if output_arrays(answer)["Y"].max() == 2 * number else "wrong"] += 1

    callers = [asyncio.create_task(ask(number)) for number in range(16)]
    for turn in range(1, 11):
        if turn % 2:
            served.write(lambda models, turn=turn: models[0]["options"].update(seed=turn))
        else:
            served.write(lambda models: models[0]["options"].update(base="5 parsecs"))
        await eventually(lambda turn=turn: sum(served.reloads()) == turn)
    assert served.reloads() == [5, 5, 0]
    name = {"model_name": "hello"}
    await asyncio.gather(
        *(control.RepositoryModelLoad(inference.RepositoryModelLoadRequest(**name)) for _ in "12"),
        return_exceptions=True,
    )
    going = False
    await asyncio.gather(*callers)
    assert ended["sent"] == ended["right"] > 100
    assert served.value("batcher_requests_total", outcome="ok", reason="") == ended["right"]


async def test_models_of_the_file_are_added_changed_and_removed(
    served, data, dial, request_of, eventually
):
    probe = await dial(served.application.grpc.addresses[0], HEALTH)
    watch = probe.Watch(health.HealthCheckRequest(service="other/2"), timeout=WAIT_S)
    statuses = health.HealthCheckResponse
    assert (await watch.read()).status == statuses.SERVICE_UNKNOWN

    def add(models, **fields):
        for version in ("1", "2"):
            models.append(models[0] | {"name": "other", "version": version} | fields)

    served.write(add)
    await eventually(lambda: served.states().get("other/2") == "ready")
    while (await watch.read()).status != statuses.SERVING:
        pass
    answer = await data.ModelInfer(request_of(model="other"), timeout=WAIT_S)
    assert answer.model_version == "2"
    older = await data.ModelInfer(request_of(model="other", model_version="1"), timeout=WAIT_S)
    assert older.model_version == "1"

    served.write(lambda models: add(models, instances=2, batching={"max_batch_size": 64}))
    which = {"model": "other", "version": "2"}
    await eventually(lambda: served.value("batcher_model_generation", **which) == 2)
    await eventually(lambda: served.value("batcher_instances", state="up", **which) == 2)
    config = await data.ModelConfig(inference.ModelConfigRequest(name="other"))
    assert config.config.max_batch_size == 64

    def broken(models):
        models.append({"name": "broken", "executor": "nowhere"})
        models.append(models[0] | {"name": "fine"})

    served.write(broken)
    await eventually(lambda: served.states().get("fine/1") == "ready")
    await eventually(lambda: "other/2" not in served.states())
    assert served.states()["broken/1"] == "failed"
    assert (await data.ServerReady(inference.ServerReadyRequest())).ready
    while (await watch.read()).status != statuses.SERVICE_UNKNOWN:
        pass
    watch.cancel()
    error = await refusal(data.ModelInfer(request_of(model="other"), timeout=WAIT_S))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    error = await refusal(data.ModelInfer(request_of(model="broken"), timeout=WAIT_S))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "no executor named 'nowhere'" in error.details()
    assert not (await data.ModelReady(inference.ModelReadyRequest(name="other"))).ready
    index = await data.RepositoryIndex(inference.RepositoryIndexRequest())
    assert sorted((m.name, m.state) for m in index.models) == [
        ("broken", "UNAVAILABLE"),
        ("fine", "READY"),
        ("hello", "READY"),
    ]


async def test_what_needs_a_restart_is_refused_with_the_models_beside_it(served, dial, eventually):
    tune = await dial(served.application.grpc.admin_addresses[0], ADMIN)
    changed = json.loads(json.dumps(served.document))
    changed["server"]["drain_timeout"] = "7s"
    changed["models"][0]["instances"] = 2
    served.path.write_text(json.dumps(changed))
    error = await refusal(tune.Reload(admin.ReloadRequest()))
    assert "server.drain_timeout: needs a restart" in error.details()
    assert served.value("batcher_instances", state="up") == 1
    changed["server"] = served.document["server"]
    served.path.write_text(json.dumps(changed))
    answer = await tune.Reload(admin.ReloadRequest())
    assert [(c.path, c.old, c.new) for c in answer.changes] == [("instances", "1", "2")]
    await eventually(lambda: served.value("batcher_instances", state="up") == 2)


async def test_a_tuned_setting_outlives_a_load_by_call(served, dial, request_of, data):
    addresses = served.application.grpc.admin_addresses
    tune, control = await dial(addresses[0], ADMIN), await dial(addresses[0])
    changes = {"batching.max_batch_size": "4"}
    await tune.UpdateSettings(admin.UpdateSettingsRequest(model="hello", changes=changes))
    await control.RepositoryModelLoad(inference.RepositoryModelLoadRequest(model_name="hello"))
    config = await data.ModelConfig(protocol.inference.ModelConfigRequest(name="hello"))
    assert config.config.max_batch_size == 4
    (settings,) = (await tune.GetSettings(admin.GetSettingsRequest())).models
    assert "max_batch_size: 4" in settings.settings
