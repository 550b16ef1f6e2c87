"""An unmodified `tritonclient.grpc`, in its own process and environment, gets what it asks for."""

import pytest

pytestmark = [pytest.mark.conformance, pytest.mark.slow]


@pytest.fixture(scope="module")
def seen(client_report):
    return client_report("sync")


def test_health(seen):
    assert seen["live"]
    assert seen["ready"]
    assert seen["models_ready"] == {"hello": True, "types": True, "sums": True}
    assert seen["model_version_ready"]


def test_server_metadata_lists_what_works(seen):
    metadata = seen["server_metadata"]
    assert metadata["name"] == "batcher"
    assert {"binary_tensor_data", "classification", "parameters", "statistics"} <= set(
        metadata["extensions"]
    )
    assert "system_shared_memory" not in metadata["extensions"]


def test_model_metadata(seen):
    def tensor(name):
        return {"name": name, "datatype": "FP32", "shape": ["-1", "4"]}

    metadata = seen["model_metadata"]
    assert (metadata["name"], metadata["versions"]) == ("sums", ["1"])
    assert metadata["platform"]
    assert metadata["inputs"] == [tensor("A"), tensor("B")]
    assert metadata["outputs"] == [tensor("SUM"), tensor("DIFFERENCE")]


def test_model_config(seen):
    config = seen["model_config"]
    assert config["max_batch_size"] == 8
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == "1000"
    expected = [{"name": name, "data_type": "TYPE_FP32", "dims": ["4"]} for name in "AB"]
    assert config["input"] == expected


def test_repository_index(seen):
    index = {
        model["name"]: (model["version"], model["state"])
        for model in seen["repository_index"]
        if model["name"] not in {"stored", "brought"}  # the model repository's
    }
    assert index == dict.fromkeys(
        ("hello", "slow", "types", "sums", "totals", "whole"), ("1", "READY")
    )


def test_statistics(seen):
    statistics = seen["statistics"]
    assert statistics["all"] == ["hello", "slow", "sums", "totals", "types", "whole"]
    assert statistics["inferences"] == 3
    assert statistics["executions"] == 3
    full = statistics["full"]
    assert int(full["inference_stats"]["success"]["ns"]) > 0
    for part in ("queue", "compute_input", "compute_infer", "compute_output"):
        assert full["inference_stats"][part]["count"] == full["inference_count"]
    assert full["batch_stats"][0]["batch_size"] == "1"


def test_infer(seen):
    assert seen["infer"] == {
        "right": True,
        "batch_dtype": "int32",
        "model": "hello",
        "version": "1",
        "outputs": ["Y", "BATCH"],
    }


def test_rows_of_one_request_stay_together(seen):
    rows = seen["several_rows"]
    assert rows["shape"] == [5, 16]
    assert rows["batch"] == [[5]] * 5


@pytest.mark.parametrize("check", ["every_type", "empty_bytes_tensor"])
def test_every_datatype_comes_back_as_it_was_sent(seen, check):
    assert seen[check] == []


def test_typed_contents_are_taken(seen):
    assert seen["infer_typed_contents"] is True


def test_requested_outputs(seen):
    assert seen["requested_outputs"] == {"DIFFERENCE": [[4, 4, 4, 3]], "SUM": None}
    assert seen["output_order"] == ["DIFFERENCE", "SUM"]


def test_inputs_may_come_in_any_order(seen):
    assert seen["input_order"] == [[4, 4, 4, 3]]


def test_request_id_is_echoed(seen):
    assert seen["request_id"] == "a-7"


def test_priority_timeout_headers_and_parameters_are_taken(seen):
    assert seen["options"] is True


def test_compressed_messages_are_taken(seen):
    assert seen["compressed"] is True


def test_a_model_without_a_batch_axis(seen):
    assert seen["no_batch_axis"] == {
        "max_batch_size": 0,
        "dims": [["2", "-1"], [], ["2", "-1"], []],
        "shapes": [["2", "-1"], [], ["2", "-1"], []],
        "Y": [[0, 2, 4], [6, 8, 10]],
        "TOTAL": 30,
        "classes": ["10.000000:5", "8.000000:4"],
    }


def test_classification(seen):
    assert seen["classification"] == [["9.000000:1", "7.000000:3"]]


def test_async_infer(seen):
    assert seen["async_infer"] == 20


def test_stream_answers_in_order(seen):
    assert seen["stream"] == {"ids": [str(n) for n in range(30)], "right": True, "errors": []}


def test_a_stream_goes_on_after_an_error(seen):
    first, error, last = seen["stream_goes_on_after_an_error"]
    assert first is True
    assert "'missing'" in error
    assert last is True


def test_a_caller_may_leave(seen):
    assert seen["stream_cancelled"] is True
    assert seen["async_infer_cancelled"]["status"] == "StatusCode.CANCELLED"


def test_client_timeout(seen):
    assert seen["client_timeout"]["status"] == "StatusCode.DEADLINE_EXCEEDED"


@pytest.mark.parametrize("how", ["sequences", "sequences_on_a_stream"])
def test_steps_of_sequences_keep_their_state(seen, how):
    assert seen[how] == [1.0, 1.0, 3.0, 3.0, 6.0, 6.0, 10.0, 10.0]


def test_a_sequence_must_be_started(seen):
    refused = seen["sequence_without_a_start"]
    assert refused["status"] == "StatusCode.INVALID_ARGUMENT"
    assert "sequence 5 is not open" in refused["message"]
