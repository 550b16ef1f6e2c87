"""What a child says of a batch that raised."""

import pytest

from batcher.executor import ExecutionError, OutOfMemory
from batcher.executors.isolated.outcomes import failed


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (MemoryError("full"), "memory"),
        (OutOfMemory("full"), "memory"),
        (ExecutionError("full", cause="memory"), "memory"),
        (ExecutionError("full", cause="device"), "device"),
        (ValueError("full"), "unknown"),
    ],
)
def test_a_lack_of_memory_is_told_from_other_errors(error, cause):
    _, batch_id, times, said, text, retry_after_ns = failed(7, [1, 2], error)
    assert (batch_id, times[:2], said, retry_after_ns) == (7, [1, 2], cause, None)
    assert "full" in text
