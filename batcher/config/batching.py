"""The section `models[].batching`."""

from __future__ import annotations

from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from batcher.config.padding import NO_BATCH_AXIS
from batcher.config.policies import POLICIES, keys_of_policies, policies_reading
from batcher.config.section import (
    AT_LEAST_ONE,
    Count,
    CrossCheckError,
    KeyPath,
    Section,
    one_of,
    refusal,
)
from batcher.config.units import (
    Duration,
    DurationOrZero,
    LimitName,
    LimitValue,
    format_duration,
    format_limit,
)
from batcher.core.settings import PolicySettings

PolicyName = Annotated[
    str,
    AfterValidator(one_of(POLICIES)),
    WithJsonSchema({"type": "string", "enum": list(POLICIES)}),
]


MOST_BATCH_ROWS: Final = 65_536
"""The largest `max_batch_size`: the scheduler keeps a service time for every size up to it."""

BatchRows = Annotated[int, Field(strict=True, ge=0, le=MOST_BATCH_ROWS)]
Share = Annotated[float, Field(strict=True, gt=0, le=1, allow_inf_nan=False)]
BatchSize = Annotated[int, Field(strict=True, ge=1, le=MOST_BATCH_ROWS)]
LateShare = Annotated[float, Field(strict=True, ge=0, le=0.5, allow_inf_nan=False)]


def beyond(path: KeyPath, sizes: tuple[int, ...], most: int) -> list[tuple[KeyPath, str]]:
    """A problem for each size that no batch can have."""
    return [
        ((*path, place), refusal(size, f"1 to max_batch_size, which is {most}"))
        for place, size in enumerate(sizes)
        if size > most
    ]


def listed(sizes: tuple[int, ...]) -> str:
    """Sizes as messages name them."""
    return ", ".join(map(str, sizes))


class BatchingConfig(Section):
    """How a model's requests become batches."""

    policy: PolicyName = "adaptive"
    """`adaptive` plans batches from `target_p99` and measured service times; `fixed` waits for a
    full or preferred batch, at most `max_queue_delay`, as Triton does; `none` executes every
    request alone."""
    max_batch_size: BatchRows = 32
    """The most rows of a batch, up to 65,536. Where it is not set and the executor's backend says what
    it takes, it is that instead of the default; more than the backend takes is refused. A request with more rows is split over several
    batches. 0 means that the model has no batch axis: each request is executed alone, with its
    shapes unchanged. With `batch_sizes` it is one of them, by default the largest."""
    batch_sizes: Annotated[tuple[BatchSize, ...], *AT_LEAST_ONE] | None = None
    """The only sizes that batches are executed with, in rows, ascending; up to 65,536. A batch is filled
    up to the next of them with copies of its last row, whose answers are dropped, and the planner knows
    that its rows cost what that size costs. null means any size, or those that the executor says; sizes
    here must be among the executor's. A change loads the model again."""
    target_p99: Duration | None = None
    """When each request is due: its arrival plus this. Batches are planned so that as many as possible
    are answered by then, with the 95 % quantile of how far measured times stray as a margin. No
    percentile is measured or promised: what tells is the share of requests that were refused or late.
    Only `adaptive` plans by it, and serves a request that will miss it late, up to its `limit`. null
    means no target: a batch is what queued while the instance was busy."""
    utilization_target: Share = 0.8
    """`adaptive` only: while the target leaves time, wait for a batch so large that the device is
    busy for at most this share of the time. A lower value makes larger batches and more latency at
    low load; 1 waits least."""
    limit: LimitValue = None
    """`adaptive` only: how long after its arrival an answer to a request is of use, unless its caller's
    deadline or `queue.timeout` is earlier. A request is refused only if it cannot be answered by then:
    a duration, `deadline` (only the caller's deadline counts) or `target` (what cannot be in time is
    refused). null means 10 times `target_p99`, and at least 1s; without a target, `deadline`."""
    late_share: LateShare = 0.02
    """`adaptive` only: the share of the device that late requests may take from those that can be in
    time, while more is asked for than can be served; 0 to 0.5. Where there is room or idle time, they
    get more."""
    max_queue_delay: DurationOrZero = 0
    """`fixed` only: the longest that the oldest request waits for others to share its batch while
    an instance is free. 0 never waits: a batch is what queued while the instance was busy."""
    preferred_batch_sizes: tuple[Count, ...] = ()
    """`fixed` only: batch sizes in rows, ascending, that are executed as soon as they are
    reached. Where it is not set, they are those that the executor's backend prefers, if it says."""

    @model_validator(mode="before")
    @classmethod
    def _largest_size(cls, document: Any) -> Any:
        """Without `max_batch_size`, the largest of `batch_sizes` is that."""
        if isinstance(document, dict) and "max_batch_size" not in document:
            sizes = document.get("batch_sizes")
            if (
                isinstance(sizes, list | tuple)
                and sizes
                and all(type(each) is int for each in sizes)
            ):
                most = max(sizes)
                if 1 <= most <= MOST_BATCH_ROWS:
                    return document | {"max_batch_size": most}
        return document

    @model_validator(mode="after")
    def _keys_go_together(self) -> Self:
        self.check()
        return self

    def check(self) -> None:
        """Raise `CrossCheckError` where keys do not go together."""
        problems: list[tuple[KeyPath, str]] = []
        sizes = self.preferred_batch_sizes
        if list(sizes) != sorted(set(sizes)):
            problems.append(
                (("preferred_batch_sizes",), refusal(sizes, "ascending sizes, each once"))
            )
        problems += self._sizes_beside_most()
        if self.max_batch_size:
            problems += beyond(("preferred_batch_sizes",), sizes, self.max_batch_size)
        else:
            problems += [
                ((key,), f"{NO_BATCH_AXIS}; allowed: together with another max_batch_size")
                for key in ("max_queue_delay", "preferred_batch_sizes")
                if getattr(self, key)
            ]
        for key in sorted(keys_of_policies() - set(POLICIES[self.policy].keys)):
            if getattr(self, key) != type(self).model_fields[key].default:
                readers = " or ".join(policies_reading(key))
                text = f"no effect under policy {self.policy}; allowed: under policy {readers}"
                if key == "limit":
                    text += " (here queue.timeout ends what has waited too long)"
                problems.append(((key,), text))
        for key in ("utilization_target", "late_share"):
            changed = getattr(self, key) != type(self).model_fields[key].default
            if changed and self.policy == "adaptive" and self.target_p99 is None:
                without = "no effect without target_p99; allowed: together with it"
                problems.append(((key,), without))
        problems += self._limit_beside_target()
        CrossCheckError.raise_any(problems)

    def _sizes_beside_most(self) -> list[tuple[KeyPath, str]]:
        batch_sizes, most = self.batch_sizes, self.max_batch_size
        if batch_sizes is None:
            return []
        if list(batch_sizes) != sorted(set(batch_sizes)):
            return [(("batch_sizes",), refusal(batch_sizes, "ascending sizes, each once"))]
        if not most:
            text = f"{NO_BATCH_AXIS}; allowed: together with another max_batch_size"
            return [(("batch_sizes",), text)]
        if most not in batch_sizes:
            allowed = f"one of batch_sizes, which are {listed(batch_sizes)}"
            return [(("max_batch_size",), refusal(most, allowed))]
        return []

    def _limit_beside_target(self) -> list[tuple[KeyPath, str]]:
        limit, target_ns = self.limit, self.target_p99
        if limit is LimitName.TARGET and target_ns is None:
            return [
                (("limit",), refusal(limit, "a duration or deadline, as there is no target_p99"))
            ]
        if isinstance(limit, int) and target_ns is not None and limit < target_ns:
            allowed = f"target_p99, which is {format_duration(target_ns)}, or longer"
            return [(("limit",), refusal(format_limit(limit), allowed))]
        return []

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes that batches are executed with, up to `max_batch_size`; () for any."""
        return tuple([size for size in self.batch_sizes or () if size <= self.max_batch_size])

    @property
    def most_rows(self) -> int:
        """The most rows of a batch as the scheduler counts them: a request without a row axis is one."""
        return max(1, self.max_batch_size)

    def policy_settings(self) -> PolicySettings:
        """The policy as the scheduler takes it."""
        return POLICIES[self.policy].settings(self)

    def window(self) -> str:
        """How long a request may wait for others to share its batch, as text."""
        return POLICIES[self.policy].window(self)
