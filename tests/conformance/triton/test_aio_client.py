"""An unmodified `tritonclient.grpc.aio`, in its own process and environment."""

import pytest

pytestmark = [pytest.mark.conformance, pytest.mark.slow]


@pytest.fixture(scope="module")
def seen(client_report):
    return client_report("aio")


def test_health(seen):
    assert seen["live"]
    assert seen["ready"]
    assert seen["model_ready"]


def test_descriptions(seen):
    assert seen["server_metadata"]["name"] == "batcher"
    datatypes = [described["datatype"] for described in seen["model_metadata"]["inputs"]]
    assert {"BOOL", "FP16", "INT64", "BYTES"} <= set(datatypes)
    assert seen["model_config"]["max_batch_size"] == 8
    ready = {each["name"] for each in seen["repository_index"] if each.get("state") == "READY"}
    assert ready == {"hello", "slow", "types", "sums", "totals", "whole"}


def test_statistics(seen):
    (statistics,) = seen["statistics"]
    assert statistics["name"] == "hello"
    assert int(statistics["inference_count"]) >= int(statistics["execution_count"]) > 0


def test_requests_at_the_same_time_are_batched(seen):
    together = seen["infer_together"]
    assert together["right"] == 64
    assert 1 < together["largest_batch"] <= 8


def test_every_datatype_comes_back_as_it_was_sent(seen):
    assert seen["every_type"] == []


def test_requested_outputs(seen):
    assert seen["requested_outputs"] == ["SUM"]


def test_stream_answers_in_order(seen):
    assert seen["stream"] == {"ids": [str(n) for n in range(30)], "right": 30}


def test_a_stream_goes_on_after_an_error(seen):
    first, error, last = seen["stream_with_an_error"]
    assert first is True
    assert "'missing'" in error
    assert last is True


def test_client_timeout(seen):
    assert seen["client_timeout"]["status"] == "StatusCode.DEADLINE_EXCEEDED"


def test_a_cancelled_request_does_not_affect_others(seen):
    assert seen["cancelled_request"] == [1, 1]


@pytest.mark.parametrize(
    ("check", "status"),
    [
        ("unknown_model", "NOT_FOUND"),
        ("wrong_columns", "INVALID_ARGUMENT"),
        ("load_model", "PERMISSION_DENIED"),
    ],
)
def test_errors(seen, check, status):
    assert seen[check]["status"] == f"StatusCode.{status}"
