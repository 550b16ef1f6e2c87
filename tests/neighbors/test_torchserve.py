"""TorchServe: a batch is one call, its workers are watched, and it goes on with what callers cancel."""

import asyncio
import json
import os
import signal
import time
from urllib.request import urlopen

import model_servers
import neighbor_faults as faults
import numpy as np
import pytest
from calls import Client, RefusedError
from neighbor_faults import RESUMED_S
from pairs import BATCH_S, TENSORS, running, served
from played import play, rounds

pytestmark = [pytest.mark.neighbors, pytest.mark.slow]


def options(server, **more):
    return {"url": server.grpc, "management_url": server.grpc_management, **TENSORS, **more}


@pytest.fixture(scope="module", params=["safetensors", "json"])
def front(request, start, torchserve):
    given = options(torchserve, encoding=request.param)
    return start(served("double", "torchserve", given, max_in_flight=2))


@pytest.fixture(scope="module")
def client(front):
    with Client(front.grpc) as client:
        yield client


def test_each_request_gets_its_own_rows_of_a_batch(client):
    random = np.random.default_rng(7)
    asked = [random.standard_normal((1 + place % 3, 16), dtype=np.float32) for place in range(200)]
    answers = client.infer_all("double", [{"X": each} for each in asked])
    for x, answer in zip(asked, answers, strict=True):
        assert np.array_equal(answer["Y"], 2 * x), "doubling a float is exact"
    assert max(answer["BATCH"].max() for answer in answers) > 3, "they shared batches"


def test_a_row_that_is_wrong_harms_no_other(client):
    """JSON cannot carry NaN; of safetensors the handler says that the row is wrong."""
    good, bad = np.ones((1, 16), np.float32), np.full((1, 16), np.nan, np.float32)
    answers = client.infer_all("double", [{"X": good}] * 5 + [{"X": bad}] + [{"X": good}] * 5)
    refused = answers.pop(5)
    assert isinstance(refused, RefusedError)
    assert "NaN" in refused.text or "no number" in refused.text
    assert all((answer["Y"] == 2).all() for answer in answers)


@pytest.fixture(scope="module")
def with_tokens(tmp_path_factory):
    """A TorchServe that asks for tokens and puts up to eight calls together."""
    batching = {"batchSize": 8, "maxBatchDelay": 1}
    folder = tmp_path_factory.mktemp("tokens")
    settings = {"batching": batching, "tokens": True, **BATCH_S}
    with running(model_servers.TorchServe, folder, **settings) as server:
        yield server


@pytest.fixture(scope="module")
def front_of_rows(start, with_tokens):
    given = options(with_tokens, send="rows", encoding="json", tokens=str(with_tokens.key_file))
    return start(served("double", "torchserve", given, target="2s"))


def test_rows_are_calls_that_it_puts_together(front_of_rows):
    random = np.random.default_rng(7)
    asked = [random.standard_normal((1 + place % 3, 16), dtype=np.float32) for place in range(40)]
    with Client(front_of_rows.grpc) as client:
        answers = client.infer_all("double", [{"X": each} for each in asked])
    for x, answer in zip(asked, answers, strict=True):
        assert np.array_equal(answer["Y"], 2 * x), "doubling a float is exact"
    assert 1 < max(answer["BATCH"].max() for answer in answers) <= 8


def test_a_restart_that_changes_the_tokens(with_tokens, front_of_rows):
    before = with_tokens.key_file.read_text()
    with_tokens.kill()
    with_tokens.start()
    back_s = with_tokens.await_ready()
    assert with_tokens.key_file.read_text() != before
    x = np.ones((1, 16), np.float32)
    with Client(front_of_rows.grpc) as client:
        while True:
            try:
                answer = client.infer("double", X=x)
                break
            except RefusedError as refused:
                assert time.monotonic() < back_s + RESUMED_S, refused  # noqa: PT017 - it is tried again
    assert (answer["Y"] == 2).all()


def kill_worker(neighbor):
    """Kill the process that executes the model; returns when TorchServe has noticed."""
    with urlopen(f"http://{neighbor.management}/models/double") as answer:
        (worker,) = json.load(answer)[0]["workers"]
    os.kill(worker["pid"], signal.SIGKILL)
    end_s = time.monotonic() + 10
    while neighbor.ready():
        assert time.monotonic() < end_s, "it goes on without its worker"


@pytest.mark.parametrize("front", ["safetensors"], indirect=True)
def test_a_worker_that_dies(torchserve, front, monkeypatch):
    monkeypatch.setitem(
        faults.FAULTS, "worker", lambda neighbor: asyncio.to_thread(kill_worker, neighbor)
    )
    play(torchserve, front, "worker", 9)


@pytest.mark.parametrize("front", ["safetensors"], indirect=True)
@rounds(4, ("kill", "suspend", "slow", "restart"))
def test_faults(torchserve, front, number, fault):
    play(torchserve, front, fault, number)
