"""Helpers for tests of `batcher` and of plugins.

For the author of a plugin: `ExecutorContract`, the test suite to subclass (it needs pytest, which is
imported when the name is first used), and `ServerProcess` in `batcher.testing.server`, a real server.

For tests of `batcher` itself: `FakeExecutor`, `FakeDevice`, `ManualClock`, and in the other modules Hypothesis
strategies, schedulers that record or prefetch, and inference messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batcher.testing.clock import ManualClock
from batcher.testing.fake_device import FakeDevice
from batcher.testing.fakes import Call, FakeExecutor, Hang, nan_on, raise_on

if TYPE_CHECKING:
    from batcher.testing.contract import ExecutorContract

__all__ = [
    "Call",
    "ExecutorContract",
    "FakeDevice",
    "FakeExecutor",
    "Hang",
    "ManualClock",
    "nan_on",
    "raise_on",
]


def __getattr__(name: str) -> Any:
    if name != "ExecutorContract":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import pytest  # noqa: PLC0415 - see the module's docstring

    # Before the import: failed assertions of the suite then show their values, as in a test file.
    pytest.register_assert_rewrite(
        *(f"batcher.testing.contract{part}" for part in ("", "_driver", "_hooks", "_optional"))
    )
    from batcher.testing.contract import ExecutorContract  # noqa: PLC0415 - as above

    return ExecutorContract
