"""What callers say beside their messages."""

from types import SimpleNamespace

import pytest

from batcher.errors import InvalidRequest
from batcher.server.messages.parameters import MAX_PRIORITY, MAX_TENANT, MAX_WAIT_NS
from batcher.server.services.inference import _deadline, _priority, _tenant


@pytest.mark.parametrize(
    ("remaining_s", "deadline_ns"),
    [
        (None, None),
        (-0.5, 500_000_000),
        (1.5, 2_500_000_000),
        (99_999_999 * 3600.0, 1_000_000_000 + MAX_WAIT_NS),
        (float("inf"), 1_000_000_000 + MAX_WAIT_NS),
    ],
)
def test_a_deadline_is_within_a_year(remaining_s, deadline_ns):
    context = SimpleNamespace(time_remaining=lambda: remaining_s)

    assert _deadline(context, 1_000_000_000) == deadline_ns


def test_a_huge_priority_is_the_last():
    assert _priority({"x-batcher-priority": "9" * 20}) == MAX_PRIORITY


def test_what_a_refusal_says_of_metadata_holds_none_of_its_values():
    """The encoding of a refusal is cached for requests that get the same one."""
    with pytest.raises(InvalidRequest, match="x-batcher-priority") as caught:
        _priority({"x-batcher-priority": "a secret"})
    assert "secret" not in str(caught.value)


def test_a_long_tenant_is_refused():
    assert len(_tenant({"x-batcher-tenant": "t" * MAX_TENANT})) == MAX_TENANT
    with pytest.raises(
        InvalidRequest, match="x-batcher-tenant may have at most 256 characters, got 257"
    ):
        _tenant({"x-batcher-tenant": "t" * (MAX_TENANT + 1)})
