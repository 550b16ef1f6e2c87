"""A rule: one payment in, one decision out. The function takes one row, the server batches all the same."""

from typing import Annotated, NamedTuple

from batcher.executors.python import Parameter, RowError


class Decision(NamedTuple):
    """The two outputs of the model."""

    action: str
    reason: str


def decide(country: str, amount: float, limit: Annotated[float, Parameter()] = 1000.0) -> Decision:
    """Approve a payment, or have a person look at it.

    `limit` is a request parameter: only requests with equal values of it share a batch.
    """
    if amount < 0:
        raise RowError("amount is negative")
    if country not in {"CH", "DE", "FR", "US"}:
        return Decision("review", f"no rule for {country}")
    if amount > limit:
        return Decision("review", f"above {limit:g}")
    return Decision("approve", "")
