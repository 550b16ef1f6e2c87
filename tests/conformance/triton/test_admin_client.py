"""An unmodified `tritonclient` on the admin listener: models may be unloaded and loaded there."""

import pytest

pytestmark = [pytest.mark.conformance, pytest.mark.slow]


@pytest.fixture(scope="module")
def seen(client_report, triton_server):
    stored = triton_server.path.parent / "repository" / "stored" / "1" / "model.onnx"
    return client_report("admin", triton_server.admin, stored)


def test_the_listener_says_that_it_can_change_models(seen):
    assert "model_repository" in seen["extensions"]


def test_unload(seen):
    assert seen["unload"] is False
    assert seen["index_of_an_unloaded_model"]["state"] == "UNAVAILABLE"
    assert seen["infer_when_unloaded"]["status"] == "StatusCode.UNAVAILABLE"


def test_load(seen):
    assert seen["load"] is True
    assert seen["infer_when_loaded_again"] == [1, 16]


def test_load_an_unknown_model(seen):
    assert seen["load_an_unknown_model"]["status"] == "StatusCode.NOT_FOUND"


def test_a_model_of_the_repository(seen):
    assert seen["index_before"] == {"name": "stored"}
    assert seen["load_from_the_repository"] == [-1, -1, -1, -1]


def test_a_load_with_another_configuration(seen):
    assert seen["load_with_a_configuration"] == "3"
    assert "allowed: 0 or more" in seen["load_with_a_wrong_configuration"]["message"]
    assert seen["load_with_a_wrong_configuration"]["status"] == "StatusCode.INVALID_ARGUMENT"
    assert seen["it_still_serves"] == [-1, -1, -1, -1]


def test_a_load_with_files(seen):
    assert seen["load_with_files"] == [-1, -1, -1, -1]
    assert seen["unload_what_had_files"] is False
    assert seen["unload_what_is_stored"] is False
