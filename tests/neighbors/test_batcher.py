"""Another batcher as the neighbor: over TCP and over a Unix socket."""

import numpy as np
import pytest
from calls import Client, RefusedError
from pairs import served

from batcher.protocol import inference

pytestmark = [pytest.mark.neighbors, pytest.mark.slow]

BACK = {
    "name": "double",
    "executor": "emulated",
    "options": {"base": "2ms", "per_row": "200us"},
    "batching": {"max_batch_size": 24, "target_p99": "100ms"},
}


@pytest.fixture(scope="module", params=["tcp", "unix"])
def address(request, start, tmp_path_factory):
    if request.param == "tcp":
        return start(BACK).grpc
    return start(BACK, grpc=[f"unix:{tmp_path_factory.mktemp('socket')}/back.sock"]).grpc


@pytest.fixture(scope="module")
def client(start, address):
    with Client(start(served("double", "kserve", {"url": address})).grpc) as client:
        yield client


def test_each_request_gets_its_own_rows_of_a_batch(client):
    random = np.random.default_rng(7)
    asked = [random.standard_normal((1 + place % 3, 16), dtype=np.float32) for place in range(200)]
    answers = client.infer_all("double", [{"X": each} for each in asked])
    for x, answer in zip(asked, answers, strict=True):
        assert np.array_equal(answer["Y"], 2 * x), "doubling a float is exact"
    assert max(answer["BATCH"].max() for answer in answers) > 3, "they shared batches"


def test_batches_are_as_large_as_there(client):
    config = client.stub.ModelConfig(inference.ModelConfigRequest(name="double")).config
    assert config.max_batch_size == 24


def test_refusals_of_the_other_are_passed_on(start):
    """It has no room: RESOURCE_EXHAUSTED with a hint, and no batch is divided for it."""
    back = start(
        BACK
        | {
            "options": {"base": "300ms"},
            "batching": {"max_batch_size": 1, "policy": "fixed"},
            "queue": {"max_requests": 1},
            "warmup": {"batch_sizes": []},
        }
    )
    front = start(served("double", "kserve", {"url": back.grpc}, target="5s", max_in_flight=6))
    asked = [{"X": np.full((1, 16), place, np.float32)} for place in range(6)]
    with Client(front.grpc) as client:
        answers = client.infer_all("double", asked)
    refused = [each for each in answers if isinstance(each, RefusedError)]
    assert refused, "six at once, where one runs and one waits"
    assert {each.status for each in refused} == {"RESOURCE_EXHAUSTED"}
    for place, answer in enumerate(answers):
        if not isinstance(answer, RefusedError):
            assert (answer["Y"] == 2 * place).all()
