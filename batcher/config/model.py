"""The sections below `models`: what is served, on what, and how it is batched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, StrictBool, WithJsonSchema, model_validator

from batcher.config.padding import (
    NO_BATCH_AXIS,
    InputConfig,
    OutputConfig,
    PaddingConfig,
    TensorName,
    TensorValues,
    padding_problems,
    row_problems,
)
from batcher.config.policies import POLICIES, keys_of_policies, policies_reading
from batcher.config.section import (
    Count,
    CrossCheckError,
    DeviceName,
    KeyPath,
    Name,
    Section,
    Version,
    one_of,
    refusal,
)
from batcher.config.units import Duration, DurationOrZero, Size
from batcher.core.settings import ModelSettings, PolicySettings, QueueLimits

PolicyName = Annotated[
    str,
    AfterValidator(one_of(POLICIES)),
    WithJsonSchema({"type": "string", "enum": list(POLICIES)}),
]


MOST_BATCH_ROWS: Final = 65_536
"""The largest `max_batch_size`: a time is kept for every size up to it."""

BatchRows = Annotated[int, Field(strict=True, ge=0, le=MOST_BATCH_ROWS)]
Share = Annotated[float, Field(strict=True, gt=0, le=1, allow_inf_nan=False)]
Weight = Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)]
Levels = Annotated[int, Field(strict=True, ge=1, le=16)]
WhenLateName = Literal["refuse", "serve"]


def _beyond(path: KeyPath, sizes: tuple[int, ...], most: int) -> list[tuple[KeyPath, str]]:
    """A problem for each size that no batch can have."""
    return [
        ((*path, place), refusal(size, f"1 to max_batch_size, which is {most}"))
        for place, size in enumerate(sizes)
        if size > most
    ]


class BatchingConfig(Section):
    """How a model's requests become batches."""

    policy: PolicyName = "adaptive"
    """`adaptive` derives its windows from `target_p99` and from what batches take; `fixed` waits
    for a full or preferred batch, at most `max_queue_delay`; `none` executes every request alone."""
    max_batch_size: BatchRows = 32
    """The most rows in one batch, 65,536 at most. A request with more rows is split over several. 0
    means that the model has no batch axis: it gets one request at a time, shapes as they are."""
    target_p99: Duration | None = None
    """The latency goal, from arrival to reply. A goal, not a deadline: only `adaptive` plans by it,
    and `when_late` says what becomes of a request that must miss it. null means that the model has
    none: then a batch is whatever queued while the instance was busy."""
    utilization_target: Share = 0.8
    """`adaptive` only: with time to spare, wait for the smallest batch that keeps the device no
    busier than this, so that busy time follows the load. 1 waits least."""
    when_late: WhenLateName = "refuse"
    """`adaptive` only: a request that can no longer meet the target, but whose caller still waits,
    is refused at once (`refuse`), or served when that delays no request that can be in time
    (`serve`)."""
    max_queue_delay: DurationOrZero = 0
    """`fixed` only: the longest that the oldest request waits for company while an instance is
    free. 0 means never wait: a batch is whatever queued while the instance was busy."""
    preferred_batch_sizes: tuple[Count, ...] = ()
    """`fixed` only: sizes (rows, ascending) that are executed at once, without waiting for
    more."""

    @model_validator(mode="after")
    def _keys_go_together(self) -> Self:
        problems: list[tuple[KeyPath, str]] = []
        sizes = self.preferred_batch_sizes
        if list(sizes) != sorted(set(sizes)):
            problems.append(
                (("preferred_batch_sizes",), refusal(sizes, "ascending sizes, each once"))
            )
        if self.max_batch_size:
            problems += _beyond(("preferred_batch_sizes",), sizes, self.max_batch_size)
        else:
            problems += [
                ((key,), f"{NO_BATCH_AXIS}; allowed: together with another max_batch_size")
                for key in ("max_queue_delay", "preferred_batch_sizes")
                if getattr(self, key)
            ]
        for key in sorted(keys_of_policies() - set(POLICIES[self.policy].keys)):
            if getattr(self, key) != type(self).model_fields[key].default:
                readers = " or ".join(policies_reading(key))
                problems.append(
                    (
                        (key,),
                        f"the policy {self.policy} does not read it; allowed: policy {readers}",
                    )
                )
        for key in ("utilization_target", "when_late"):
            changed = getattr(self, key) != type(self).model_fields[key].default
            if changed and self.policy == "adaptive" and self.target_p99 is None:
                without = "without target_p99 nothing reads it; allowed: together with target_p99"
                problems.append(((key,), without))
        CrossCheckError.raise_any(problems)
        return self

    @property
    def most_rows(self) -> int:
        """The most rows in one batch, as the scheduler counts: a request without rows is one."""
        return max(1, self.max_batch_size)

    def policy_settings(self) -> PolicySettings:
        """The policy as the scheduler takes it."""
        return POLICIES[self.policy].settings(self)

    def window(self) -> str:
        """How long a request may wait for company, in words for a person."""
        return POLICIES[self.policy].window(self)


class QueueConfig(Section):
    """How much may wait, and who goes first. Beyond a bound, what is worth least is refused."""

    max_requests: Count = 1024
    """The most requests that wait."""
    max_groups: Count = 256
    """The most batch groups that wait: requests that may share a batch, by shape and by what else
    separates them, are one. Beyond it the request that has waited longest in a group of its own is
    refused."""
    max_batches_per_request: Count = 32
    """The most rows of one request, in batches of `max_batch_size` rows. A request that fits no
    single batch is split, and others go between its batches. 1 means that none is split."""
    max_rows: Count | None = None
    """The most rows that wait; null means no bound."""
    max_bytes: Size | None = None
    """The most input bytes that wait; null means no bound."""
    timeout: Duration | None = None
    """The longest a request waits before it is refused as expired; null means that the caller's
    own deadline alone decides. What has begun by then is answered, however long that takes."""
    allow_timeout_override: StrictBool = True
    """Whether a request may shorten its `timeout` with the request parameter `timeout`
    (microseconds). Any caller can; false ignores the parameter."""
    priority_levels: Levels = 3
    """How many levels there are; 1 is the most urgent, and a request that names a higher number
    has the last."""
    default_priority: Levels | None = None
    """The level of a request that names none; null means the middle one."""
    promote_after: Duration = 1_000_000_000
    """A waiting request gains a priority level each time that it has waited this long, so that none
    starves."""
    tenants: dict[Name, Weight] = Field(default_factory=dict)
    """Tenants and their weights. A tenant over its share is served from what the others leave.
    `default` stands for all that are not named; with {} all requests are of one tenant."""

    @model_validator(mode="after")
    def _levels_go_together(self) -> Self:
        if self.default_priority is not None and self.default_priority > self.priority_levels:
            allowed = f"1 to priority_levels, which is {self.priority_levels}"
            CrossCheckError.raise_any(
                [(("default_priority",), refusal(self.default_priority, allowed))]
            )
        return self

    def limits(self) -> QueueLimits:
        """The bounds as the scheduler takes them."""
        return QueueLimits(
            max_requests=self.max_requests,
            max_groups=self.max_groups,
            max_batches_per_request=self.max_batches_per_request,
            max_rows=self.max_rows,
            max_bytes=self.max_bytes,
            timeout_ns=self.timeout,
            allow_timeout_override=self.allow_timeout_override,
            priority_levels=self.priority_levels,
            default_priority=self.default_priority or (self.priority_levels + 1) // 2,
            promote_after_ns=self.promote_after,
            tenants=tuple(self.tenants.items()),
        )


class WarmupConfig(Section):
    """The batches that an instance executes before it is announced as ready."""

    batch_sizes: tuple[Count, ...] | None = None
    """Rows of each warm-up batch, in this order; null means 1, 2, 4, ... and `max_batch_size`;
    [] means no warm-up."""
    length: Count = 16
    """The length used for every variable axis that is not padded. Of a padded one each bucket is
    warmed up."""
    inputs: dict[TensorName, TensorValues] = Field(default_factory=dict)
    """Values for inputs that zeros or empty texts do not suit: one for all elements, or a list with
    those of a row, from the start again where the row is longer. Optional inputs named here are
    warmed up as well."""

    @model_validator(mode="after")
    def _keys_go_together(self) -> Self:
        if self.batch_sizes == ():
            CrossCheckError.raise_any(
                [
                    (
                        (key,),
                        "nothing is warmed up; allowed: together with batch_sizes other than []",
                    )
                    for key in ("length", "inputs")
                    if getattr(self, key)
                    != type(self).model_fields[key].get_default(call_default_factory=True)
                ]
            )
        return self


class HealthConfig(Section):
    """When a loaded model stops counting as ready, and how it does so again."""

    interval: Duration = 5_000_000_000
    """How often `healthy()` of an executor is called, while no batch runs; and how often an
    instance that is not well is tried again."""
    timeout: Duration = 1_000_000_000
    """How long `healthy()` may take. Beyond that the instance counts as not well."""
    failure_threshold: Count | None = 5
    """Batches of an instance that fail in a row, for reasons that are not the caller's, and a canary
    batch after them, before it counts as not well. null never counts them."""


class ModelConfig(Section):
    """One model: its executor, where it runs, how it is batched and queued."""

    name: Name
    """What callers ask for."""
    version: Version = "1"
    """A positive integer, in quotes. (name, version) is unique."""
    executor: Name
    """Which executor runs it: an entry point of the group `batcher.executors`. `emulated` comes
    with batcher, others come with their plugin."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The executor's own settings, checked by the executor when it loads. Relative paths start at
    the folder of the configuration file."""
    instances: Count = 1
    """How many copies of the model are loaded; each runs on its own thread."""
    device: DeviceName = "cpu"
    """Models that name the same device share it: see `devices`. The name is also handed to the
    executor."""
    isolation: Literal["thread"] = "thread"
    """Where an instance runs: on its own thread of the server."""
    max_in_flight: Count = 1
    """Batches that one instance takes at once. More than 1 needs an executor that says
    that it can (`Capabilities.max_in_flight`): else the model does not load."""
    execute_timeout: Duration = 30_000_000_000
    """How long one batch may execute. Then its requests fail, and the instance is abandoned and
    replaced."""
    load_retry_timeout: DurationOrZero = 300_000_000_000
    """How long a load is tried again while its executor says that a backend is not up yet. 0 tries
    once."""
    on_nan: Literal["serve", "fail"] = "serve"
    """What becomes of a request with NaN in a floating-point output: it is answered like any other
    (`serve`), or fails alone, as one with a wrong input (`fail`)."""
    batching: BatchingConfig = BatchingConfig()
    """How requests become batches."""
    padding: tuple[PaddingConfig, ...] = ()
    """Variable axes that are padded, so that requests of different lengths share batches."""
    inputs: tuple[InputConfig, ...] = ()
    """Which inputs have rows, where the model itself does not say so."""
    outputs: tuple[OutputConfig, ...] = ()
    """Which outputs follow padded axes, and which have rows, where the model itself does not say
    so."""
    queue: QueueConfig = QueueConfig()
    """How much may wait."""
    warmup: WarmupConfig = WarmupConfig()
    """What runs before the model is announced as ready."""
    health: HealthConfig = HealthConfig()
    """When a loaded model stops counting as ready."""

    @model_validator(mode="after")
    def _keys_go_together(self) -> Self:
        most = self.batching.max_batch_size
        sizes = self.warmup.batch_sizes or ()
        problems = _beyond(("warmup", "batch_sizes"), sizes, self.batching.most_rows)
        problems += padding_problems(self.padding, self.outputs)
        problems += row_problems(self.inputs, self.padding, self.outputs, most)
        if not most and self.queue.max_batches_per_request != QueueConfig().max_batches_per_request:
            allowed = f"{NO_BATCH_AXIS}; allowed: together with another max_batch_size"
            problems.append((("queue", "max_batches_per_request"), allowed))
        CrossCheckError.raise_any(problems)
        return self

    def document(self) -> dict[str, Any]:
        """The section as the file would have it, every key written out."""
        return self.model_dump(mode="json", exclude={"options"}) | {"options": self.options}

    def warmup_sizes(self) -> tuple[int, ...]:
        """Rows of each warm-up batch: as configured, else powers of two and `max_batch_size`."""
        if self.warmup.batch_sizes is not None:
            return self.warmup.batch_sizes
        most = self.batching.most_rows
        powers = (1 << exponent for exponent in range(most.bit_length()))
        return tuple(sorted({*powers, most}))

    def label_files(self) -> dict[str, Path]:
        """Output -> the file with the names of its classes, where it has one."""
        return {each.output: each.labels for each in self.outputs if each.labels is not None}

    def scheduler_settings(self) -> ModelSettings:
        """What the scheduler reads of this model. Times in nanoseconds."""
        queue = self.queue.limits()
        if not self.batching.max_batch_size:
            queue = replace(queue, max_batches_per_request=1)
        return ModelSettings(
            max_batch_size=self.batching.most_rows,
            policy=self.batching.policy_settings(),
            queue=queue,
            target_ns=self.batching.target_p99,
        )
