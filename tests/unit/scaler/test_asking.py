import grpc
import pytest

from batcher.scaler.asking import RefusedError, read_question
from batcher.scaler.metrics import METRICS

FLEETS = {"ranker": ("ranker", "reranker"), "translator": ()}


def asked(**metadata):
    return read_question({"fleet": "ranker", "metric": "desired_ratio"} | metadata, FLEETS)


def refusal(metadata, fleets=FLEETS):
    with pytest.raises(RefusedError) as raised:
        read_question(metadata, fleets)
    return raised.value.code, str(raised.value)


def test_what_is_asked():
    question = asked(target="0.5", model="reranker", scalerAddress="scaler:9001", enableTLS="true")
    assert question.fleet == "ranker"
    assert question.metric is METRICS["desired_ratio"]
    assert question.model == "reranker"
    assert question.target == 0.5


def test_what_may_be_left_out():
    question = read_question({}, {"ranker": ()})
    assert (question.fleet, question.metric.name) == ("ranker", "desired_ratio")
    assert question.target == 0.8


def test_a_key_whose_value_kedas_environment_gives():
    assert asked(targetFromEnv="0.7").target == 0.7
    assert asked(targetFromEnv="0.7", target="0.9").target == 0.9
    assert asked(scalerAddressFromEnv="x").target == 0.8


def test_an_unknown_fleet_is_refused_with_those_there_are():
    code, text = refusal({"fleet": "rankr"})
    assert code is grpc.StatusCode.NOT_FOUND
    assert 'got "rankr"' in text
    assert "did you mean ranker?" in text
    assert "translator" in text


def test_of_several_fleets_one_is_named():
    code, text = refusal({"metric": "desired_ratio"})
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "ranker, translator" in text


def test_an_unknown_metric_is_refused_with_those_there_are():
    code, text = refusal({"fleet": "ranker", "metric": "desired_ration"})
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "did you mean desired_ratio?" in text


def test_an_unknown_model_is_refused_where_the_models_are_configured():
    code, _ = refusal({"fleet": "ranker", "model": "other"})
    assert code is grpc.StatusCode.NOT_FOUND
    assert read_question({"fleet": "translator", "model": "any"}, FLEETS).model == "any"


@pytest.mark.parametrize(
    "target", ["", "0", "-1", "nan", "inf", "1e400", "0.0009", "a lot", "1_0", "0,8", "1" * 400]
)
def test_a_target_that_no_hpa_can_use_is_refused(target):
    code, text = refusal({"fleet": "ranker", "target": target})
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "target" in text
    assert "0.001" in text


def test_a_metric_without_a_usual_target_needs_one():
    code, text = refusal({"fleet": "ranker", "metric": "queue_requests"})
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "target: missing" in text


@pytest.mark.parametrize("key", ["targt", "replicas", "address", "fleets"])
def test_a_key_without_effect_is_refused(key):
    code, text = refusal({"fleet": "ranker", key: "x"})
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert key in text


def test_a_refusal_is_one_short_line_whatever_was_asked():
    _, text = refusal({"fleet": "x\n\x1b" * 10_000})
    assert text.isprintable()
    assert len(text) < 300
