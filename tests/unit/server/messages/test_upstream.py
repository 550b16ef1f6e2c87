"""What callers claim to have spent is checked."""

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.server.messages.upstream import SPENT_KEY, START_KEY, upstream_ns
from batcher.service import IMPOSSIBLE

NOW_MS = 1_790_000_000_000


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, None),
        ({SPENT_KEY: "12.5"}, 12_500_000),
        ({SPENT_KEY: "0"}, 0),
        ({SPENT_KEY: "3600000"}, 3600 * SECOND),
        ({SPENT_KEY: "3600001"}, IMPOSSIBLE),
        ({SPENT_KEY: "-1"}, IMPOSSIBLE),
        ({SPENT_KEY: "nan"}, IMPOSSIBLE),
        ({SPENT_KEY: "inf"}, IMPOSSIBLE),
        ({SPENT_KEY: "1e3"}, IMPOSSIBLE),
        ({SPENT_KEY: "1_000"}, IMPOSSIBLE),
        ({SPENT_KEY: " 1"}, IMPOSSIBLE),
        ({SPENT_KEY: ""}, IMPOSSIBLE),
        ({SPENT_KEY: "\u0661"}, IMPOSSIBLE),
        ({SPENT_KEY: "9" * 10_000}, IMPOSSIBLE),
        ({START_KEY: f"{NOW_MS - 20}.5"}, 19_500_000),
        ({START_KEY: f"{NOW_MS + 1_000}"}, 0),
        ({START_KEY: f"{NOW_MS + 1_001}"}, IMPOSSIBLE),
        ({START_KEY: "0"}, IMPOSSIBLE),
        ({SPENT_KEY: "7", START_KEY: "0"}, 7_000_000),
    ],
)
def test_what_cannot_be_is_told_from_what_can(own, expected):
    assert upstream_ns(own, lambda: NOW_MS * MILLISECOND) == expected
