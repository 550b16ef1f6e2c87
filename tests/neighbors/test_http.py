"""Servers that are asked over HTTP: KServe (both versions of its protocol), MLServer, TorchServe's REST, Triton."""

import functools
from contextlib import ExitStack

import model_servers
import numpy as np
import pytest
from calls import Client, RefusedError
from pairs import BATCH_S, TENSORS, running, served
from played import play, rounds

pytestmark = [pytest.mark.neighbors, pytest.mark.slow]

FORMS = {
    "kserve-v1": (model_servers.KServe, {"protocol": "v1", **TENSORS}),
    "kserve-v2": (model_servers.KServe, {}),
    "kserve-v2-binary": (model_servers.KServe, {"binary": "on"}),
    "mlserver": (model_servers.MLServer, {}),
    "triton": (model_servers.Triton, {}),
    "torchserve": (
        model_servers.TorchServe,
        {
            "protocol": "v1",
            "path": "/predictions/double",
            "ready_path": "/ping",
            **TENSORS,
        },
    ),
}
"""Name -> the server, and the options to ask it by."""


@pytest.fixture(scope="module")
def behind(start, tmp_path_factory):
    """A function that starts a server, and batcher in front of it in one of the forms, once each."""
    with ExitStack() as stack:

        @functools.cache
        def neighbor(make):
            folder = tmp_path_factory.mktemp(make.__name__.lower())
            return stack.enter_context(running(make, folder, **BATCH_S))

        @functools.cache
        def behind(form):
            make, options = FORMS[form]
            server = neighbor(make)
            options = {"url": f"http://{server.http}", **options}
            return server, start(served("double", "http", options, max_in_flight=2))

        yield behind


@pytest.mark.parametrize("form", FORMS)
def test_each_request_gets_its_own_rows_of_a_batch(behind, form):
    _, front = behind(form)
    random = np.random.default_rng(7)
    asked = [random.standard_normal((1 + place % 3, 16), dtype=np.float32) for place in range(200)]
    with Client(front.grpc) as client:
        answers = client.infer_all("double", [{"X": each} for each in asked])
    for x, answer in zip(asked, answers, strict=True):
        assert np.array_equal(answer["Y"], 2 * x), "doubling a float is exact, and JSON keeps it"
    assert max(answer["BATCH"].max() for answer in answers) > 3, "they shared batches"


@pytest.mark.parametrize("form", ["kserve-v1", "mlserver"])
def test_a_row_that_json_cannot_carry_harms_no_other(behind, form):
    _, front = behind(form)
    good, bad = np.ones((1, 16), np.float32), np.full((1, 16), np.nan, np.float32)
    with Client(front.grpc) as client:
        answers = client.infer_all("double", [{"X": good}] * 5 + [{"X": bad}] + [{"X": good}] * 5)
    refused = answers.pop(5)
    assert isinstance(refused, RefusedError)
    assert "NaN" in refused.text
    assert all((answer["Y"] == 2).all() for answer in answers)


def test_bytes_of_triton(behind, start):
    triton, _ = behind("triton")
    words = [b"", "größe".encode(), b"mixed Case"]
    asked = [np.array([[first, second]], np.object_) for first in words for second in words]
    model = served("words", "http", {"url": f"http://{triton.http}"})
    model["batching"]["max_batch_size"] = 16  # REST does not say what Triton allows
    front = start(model)
    with Client(front.grpc) as client:
        answers = client.infer_all("words", [{"TEXT": each} for each in asked])
    for text, answer in zip(asked, answers, strict=True):
        assert answer["UPPER"].tolist() == [[each.upper() for each in text[0]]]


@rounds(5)
def test_faults_of_kserve(behind, number, fault):
    play(*behind("kserve-v1"), fault, number)


@rounds(4, ("kill", "suspend", "slow", "restart"))
def test_faults_of_mlserver(behind, number, fault):
    play(*behind("mlserver"), fault, number)
