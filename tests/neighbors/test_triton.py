"""Triton: its model repository is served with three lines of configuration for each model."""

import threading

import numpy as np
import pytest
from calls import Client, RefusedError
from model_servers import Triton
from pairs import running, served

from batcher.protocol import inference
from batcher.testing.server import ServerFailedError, ServerProcess

pytestmark = [pytest.mark.neighbors, pytest.mark.slow]


@pytest.fixture(scope="module")
def front(start, triton):
    double, words, integers = (
        served(name, "kserve", {"url": triton.grpc}) for name in ("double", "words", "integers")
    )
    words["batching"] = {"policy": "fixed"}  # the policy that has preferred sizes
    return start(double, words, integers)


@pytest.fixture(scope="module")
def client(front):
    with Client(front.grpc) as client:
        yield client


@pytest.fixture(scope="module")
def direct(triton):
    with Client(triton.grpc) as client:
        yield client


@pytest.mark.parametrize("name", ["double", "words", "integers"])
def test_tensors_are_what_triton_says(client, direct, name):
    request = inference.ModelMetadataRequest(name=name)
    ours, theirs = (each.stub.ModelMetadata(request) for each in (client, direct))
    for tensors in ("inputs", "outputs"):
        said = [
            [(each.name, each.datatype, list(each.shape)) for each in getattr(metadata, tensors)]
            for metadata in (ours, theirs)
        ]
        assert said[0] == said[1]


@pytest.mark.parametrize(
    ("name", "rows", "preferred"), [("double", 32, []), ("words", 16, [4, 8]), ("integers", 8, [])]
)
def test_batch_sizes_are_those_of_its_configuration(client, name, rows, preferred):
    config = client.stub.ModelConfig(inference.ModelConfigRequest(name=name)).config
    assert config.max_batch_size == rows
    assert list(config.dynamic_batching.preferred_batch_size) == preferred


def test_each_request_gets_its_own_rows_of_a_batch(client):
    random = np.random.default_rng(7)
    asked = [random.standard_normal((1 + place % 3, 16), dtype=np.float32) for place in range(300)]
    answers = client.infer_all("double", [{"X": each} for each in asked])
    for x, answer in zip(asked, answers, strict=True):
        assert np.array_equal(answer["Y"], 2 * x), "doubling a float is exact"
    assert max(answer["BATCH"].max() for answer in answers) > 3, "they shared batches"


def test_special_values_of_floats_pass_unchanged(client):
    x = np.array([[np.nan, np.inf, -np.inf, -0.0, 1e-45, 1e38] + 10 * [0]], np.float32)
    y = client.infer("double", X=x)["Y"]
    assert np.array_equal(y, 2 * x, equal_nan=True)
    assert np.signbit(y[0, 3])


def test_bytes(client):
    words = [b"", b"a", "größe".encode(), b"\x00\xff\x00", b"x" * 1000, b"mixed Case"]
    asked = [np.array([[first, second]], np.object_) for first in words for second in words]
    answers = client.infer_all("words", [{"TEXT": each} for each in asked])
    for text, answer in zip(asked, answers, strict=True):
        assert answer["UPPER"].tolist() == [[each.upper() for each in text[0]]]
        assert answer["LENGTH"].tolist() == [[len(each) for each in text[0]]]


def test_integers_of_any_length(client):
    asked = [
        np.arange(place, place + 1 + place % 4, dtype=np.int64)[None] + 2**60 for place in range(64)
    ]
    answers = client.infer_all("integers", [{"TOKENS": each} for each in asked])
    for tokens, answer in zip(asked, answers, strict=True):
        total = int(tokens.astype(object).sum())
        assert int(answer["TOTAL"][0, 0]) == (total + 2**63) % 2**64 - 2**63


def test_a_row_that_triton_refuses_harms_no_other(client):
    good, bad = np.array([[1, 2, 3]], np.int64), np.array([[1, -2, 3]], np.int64)
    answers = client.infer_all(
        "integers", [{"TOKENS": good}] * 5 + [{"TOKENS": bad}] + [{"TOKENS": good}] * 5
    )
    refused = answers.pop(5)
    assert isinstance(refused, RefusedError)
    assert refused.status == "INTERNAL"
    assert "a token is negative" in refused.text
    assert all(answer["TOTAL"].tolist() == [[6]] for answer in answers)


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({"Z": np.zeros((1, 16), np.float32)}, "'X' is missing"),
        ({"X": np.zeros((1, 17), np.float32)}, "17"),
        ({"X": np.zeros((1, 16), np.int64)}, "INT64"),
    ],
    ids=["name", "shape", "datatype"],
)
def test_a_wrong_request_does_not_reach_triton(client, tensors, text):
    with pytest.raises(RefusedError, match=text) as refused:
        client.infer("double", **tensors)
    assert refused.value.status == "INVALID_ARGUMENT"


def test_more_rows_than_triton_takes(start, triton):
    """The batch size of the configuration may only be smaller."""
    model = served("double", "kserve", {"url": triton.grpc})
    model["batching"]["max_batch_size"] = 64
    with pytest.raises(ServerFailedError, match=r"64(.|\n)*32"):
        start(model)


def test_a_request_of_several_batches(client):
    x = np.random.default_rng(3).standard_normal((100, 16), dtype=np.float32)
    answer = client.infer("double", X=x)
    assert np.array_equal(answer["Y"], 2 * x)
    assert answer["BATCH"].max() == 32


def test_a_model_that_triton_does_not_have(start, triton):
    model = served("other", "kserve", {"url": triton.grpc}, load_retry_timeout="0s")
    with pytest.raises(ServerFailedError, match="other"):
        start(model)


def test_large_tensors(start, triton):
    """Of several megabytes: they go through shared memory."""
    front = start(served("integers", "kserve", {"url": triton.grpc}, target="2s"))
    tokens = np.arange(4 * 300_000, dtype=np.int64).reshape(4, 300_000)
    with Client(front.grpc) as client:
        answers = client.infer_all("integers", [{"TOKENS": row[None]} for row in tokens])
    assert [int(each["TOTAL"][0, 0]) for each in answers] == tokens.sum(axis=1).tolist()


def test_batcher_may_start_before_triton(tmp_path):
    with running(Triton, tmp_path, models={"double": ""}, started=False) as triton:
        later = threading.Timer(0.5, triton.start)
        later.start()
        config = {"models": [served("double", "kserve", {"url": triton.grpc})]}
        with ServerProcess(config) as front, Client(front.grpc) as client:
            later.join()
            y = client.infer("double", X=np.ones((1, 16), np.float32))["Y"]
            assert (y == 2).all()
