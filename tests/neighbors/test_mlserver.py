"""MLServer: its gRPC has no ModelConfig, so the configuration says how large batches may be."""

import numpy as np
import pytest
from calls import Client, RefusedError
from pairs import served

pytestmark = [pytest.mark.neighbors, pytest.mark.slow]


@pytest.fixture(scope="module")
def client(start, mlserver):
    with Client(start(served("double", "kserve", {"url": mlserver.grpc})).grpc) as client:
        yield client


def test_each_request_gets_its_own_rows_of_a_batch(client):
    random = np.random.default_rng(7)
    asked = [random.standard_normal((1 + place % 3, 16), dtype=np.float32) for place in range(200)]
    answers = client.infer_all("double", [{"X": each} for each in asked])
    for x, answer in zip(asked, answers, strict=True):
        assert np.array_equal(answer["Y"], 2 * x), "doubling a float is exact"
    assert max(answer["BATCH"].max() for answer in answers) > 3, "they shared batches"


def test_a_row_that_the_model_refuses_harms_no_other(client):
    good, bad = np.ones((1, 16), np.float32), np.full((1, 16), np.nan, np.float32)
    asked = [{"X": good}] * 5 + [{"X": bad}] + [{"X": good}] * 5
    answers = client.infer_all("double", asked)
    refused = answers.pop(5)
    assert isinstance(refused, RefusedError)
    assert "no number" in refused.text
    assert all((answer["Y"] == 2).all() for answer in answers)
