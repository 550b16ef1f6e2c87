"""What an unmodified `tritonclient` is told when it asks for what it cannot have."""

import pytest

pytestmark = [pytest.mark.conformance, pytest.mark.slow]

EXPECTED = {
    "unknown_model": ("NOT_FOUND", "missing"),
    "unknown_version": ("NOT_FOUND", "99"),
    "unknown_model_metadata": ("NOT_FOUND", "missing"),
    "unknown_model_config": ("NOT_FOUND", "missing"),
    "unknown_model_statistics": ("NOT_FOUND", "missing"),
    "unknown_input": ("INVALID_ARGUMENT", "'Z'"),
    "missing_input": ("INVALID_ARGUMENT", "'B'"),
    "repeated_input": ("INVALID_ARGUMENT", "'X'"),
    "wrong_dtype": ("INVALID_ARGUMENT", "INT32"),
    "wrong_columns": ("INVALID_ARGUMENT", "[1, 15]"),
    "wrong_rank": ("INVALID_ARGUMENT", "[16]"),
    "no_rows": ("INVALID_ARGUMENT", "zero rows"),
    "too_many_rows": ("INVALID_ARGUMENT", "257 rows"),
    "unequal_rows": ("INVALID_ARGUMENT", "rows"),
    "unknown_output": ("INVALID_ARGUMENT", "'W'"),
    "reserved_parameter": ("INVALID_ARGUMENT", "triton_secret"),
    "short_raw_contents": ("INVALID_ARGUMENT", "got 60"),
    "mixed_contents": ("INVALID_ARGUMENT", "raw_input_contents"),
    "message_over_the_limit": ("RESOURCE_EXHAUSTED", "67108864"),
    "load_model": ("PERMISSION_DENIED", "server.admin"),
    "unload_model": ("PERMISSION_DENIED", "server.admin"),
    "shared_memory_input": ("UNIMPLEMENTED", "shared memory"),
    "shared_memory_output": ("UNIMPLEMENTED", "shared memory"),
    "register_system_shared_memory": ("UNIMPLEMENTED", ""),
    "system_shared_memory_status": ("UNIMPLEMENTED", ""),
    "register_cuda_shared_memory": ("UNIMPLEMENTED", ""),
    "trace_settings": ("UNIMPLEMENTED", ""),
    "log_settings": ("UNIMPLEMENTED", ""),
}
NAMED_MODEL = ("unknown_version", "unknown_input", "wrong_dtype", "no_rows", "too_many_rows")


@pytest.fixture(scope="module")
def seen(client_report):
    return client_report("errors")


@pytest.mark.parametrize("check", EXPECTED)
def test_status_and_message(seen, check):
    code, part = EXPECTED[check]
    assert seen[check]["status"] == f"StatusCode.{code}", seen[check]
    assert part in seen[check]["message"]
    assert "Traceback" not in seen[check]["message"]


@pytest.mark.parametrize("check", NAMED_MODEL)
def test_a_message_names_the_model(seen, check):
    assert "hello" in seen[check]["message"]


def test_the_server_goes_on_serving(seen):
    assert seen["still_serving"] is True
