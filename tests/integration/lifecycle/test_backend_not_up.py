"""A backend that is not up yet when the server starts: others are served, and its load is repeated."""

import asyncio
import json
from pathlib import Path

import pytest

from batcher.app import Application
from batcher.config import parse_config
from batcher.errors import BackendUnavailable
from batcher.protocol import inference
from batcher.runtime.models import model as models

WAIT_S = 20


@pytest.fixture
def application(hello, fakes):
    """A function to an application that is not started: `hello` has its backend, `remote` does not."""

    def make(**remote):
        server = {"grpc": ["127.0.0.1:0"], "admin": ["127.0.0.1:0"], "http": None}
        document = hello(server=server)
        document["models"].append(
            document["models"][0] | {"name": "remote", "executor": "fake", "options": {}} | remote
        )
        fakes.options["load_error"] = BackendUnavailable("remote: no server listens")
        return Application(parse_config(json.dumps(document), "test", {}))

    return make


async def test_others_are_served_meanwhile(
    application, fakes, dial, request_of, eventually, monkeypatch
):
    monkeypatch.setattr(models, "FIRST_RETRY_S", 0.01)
    application = application()
    starting = asyncio.create_task(application.start())
    await eventually(lambda: len(fakes) > 2)
    hello, remote = application.health().models
    assert (hello.ready, remote.ready, remote.state) == (True, False, "loading")
    assert remote.reason == "remote: no server listens; trying again"
    assert application.health().reason == "not ready: remote"
    assert not starting.done()
    stub = await dial(application.grpc.addresses[0])
    assert (await stub.ModelInfer(request_of(), timeout=WAIT_S)).model_name == "hello"

    del fakes.options["load_error"]
    await starting
    assert application.health().ready
    answer = await stub.ModelInfer(request_of(model="remote"), timeout=WAIT_S)
    assert answer.model_name == "remote"
    await application.close()


async def test_the_start_fails_when_the_time_is_over(application, fakes):
    application = application(load_retry_timeout=0)
    with pytest.raises(BackendUnavailable, match="no server listens"):
        await application.start()
    assert len(fakes) == 1
    await application.close()


async def test_a_start_that_waits_can_be_ended(application, fakes, eventually):
    application = application()
    starting = asyncio.create_task(application.start())
    await eventually(lambda: fakes)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await application.close()


async def test_a_model_that_is_unloaded_meanwhile_is_started_without(
    application, fakes, dial, request_of, eventually
):
    application = application()
    starting = asyncio.create_task(application.start())
    await eventually(lambda: fakes)
    admin = await dial(application.grpc.admin_addresses[0])
    request = inference.RepositoryModelUnloadRequest(model_name="remote")
    await admin.RepositoryModelUnload(request, timeout=WAIT_S)
    await starting
    hello, remote = application.health().models
    assert (hello.ready, remote.ready, remote.state) == (True, False, "unloaded")
    assert application.health().ready
    assert (await admin.ModelInfer(request_of(), timeout=WAIT_S)).model_name == "hello"
    await application.close()


def test_the_page_says_how_often_it_is_tried_again():
    page = (Path(__file__).parents[3] / "docs" / "health.md").read_text("utf-8")
    assert f"| after {models.FIRST_RETRY_S:g} s, then every {models.LONGEST_RETRY_S:g} s |" in page
    assert models.LONGEST_RETRY_S == 2 * models.FIRST_RETRY_S
