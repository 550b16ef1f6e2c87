"""An unmodified `tritonclient` on the admin listener: models may be unloaded and loaded there."""

import pytest

pytestmark = [pytest.mark.conformance, pytest.mark.slow]


@pytest.fixture(scope="module")
def seen(client_report, triton_server):
    return client_report("admin", triton_server.admin)


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
