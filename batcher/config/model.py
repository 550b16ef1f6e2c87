"""The section `models[]` and the sections in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StrictBool, model_validator

from batcher.config.batching import BatchingConfig, beyond
from batcher.config.budget import BudgetConfig, budget_problems
from batcher.config.fitting import ExecutorBatches, fitting
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
from batcher.config.section import (
    Count,
    CrossCheckError,
    DeviceName,
    Name,
    Section,
    Version,
    refusal,
)
from batcher.config.sequence import SequenceConfig, sequence_problems
from batcher.config.units import (
    Duration,
    DurationOrNull,
    DurationOrZero,
    Size,
    format_duration,
)
from batcher.core.settings import ModelSettings, QueueLimits

Weight = Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)]
Levels = Annotated[int, Field(strict=True, ge=1, le=16)]


class QueueConfig(Section):
    """How much may wait, and in which order. Beyond a limit, the least urgent requests are refused."""

    max_requests: Count = 1024
    """The most requests that wait. Beyond it requests are refused, of the lowest priority first."""
    max_groups: Count = 256
    """The most batch groups that wait. Requests are in one batch group if they may share a batch:
    of equal shape, parameters and unbatched inputs. Beyond it the request of the oldest group
    that holds just one is refused."""
    max_batches_per_request: Count = 32
    """The most batches that one request may be split over: a request may have this many times
    `max_batch_size` rows. Batches of other requests go in between. 1 means that no request is
    split."""
    max_rows: Count | None = None
    """The most rows that wait; null means no limit."""
    max_bytes: Size | None = None
    """The most input bytes that wait; null means no limit."""
    timeout: Duration | None = None
    """The longest that a request waits before it ends as expired; null means that only the caller's
    deadline ends it. A request whose execution has begun is answered."""
    allow_timeout_override: StrictBool = True
    """Whether a request may shorten `timeout` with its parameter `timeout` (microseconds), as with
    Triton. false ignores the parameter."""
    priority_levels: Levels = 3
    """The number of priority levels. Level 1 is the most urgent; a request that names a higher
    number than there are gets the last."""
    default_priority: Levels | None = None
    """The priority level of a request that names none; null means the middle one."""
    promote_after: Duration = 1_000_000_000
    """A waiting request moves up one priority level each time that it has waited this long, so that
    no level starves."""
    tenants: dict[Name, Weight] = Field(default_factory=dict)
    """Weights of tenants. While others wait, a tenant gets the device in proportion to its weight.
    `default` stands for all tenants that are not named; with {} all requests are of one tenant. No tenant
    can be named `other`, which is what metrics call those that are not named."""

    @model_validator(mode="after")
    def _levels_go_together(self) -> Self:
        if "other" in self.tenants:
            CrossCheckError.raise_any(
                [
                    (
                        ("tenants", "other"),
                        refusal(
                            "other",
                            "another name: metrics call so all tenants that are not named; `default` is their weight",
                        ),
                    )
                ]
            )
        if self.default_priority is not None and self.default_priority > self.priority_levels:
            allowed = f"1 to priority_levels, which is {self.priority_levels}"
            CrossCheckError.raise_any(
                [(("default_priority",), refusal(self.default_priority, allowed))]
            )
        return self

    def limits(self) -> QueueLimits:
        """The limits as the scheduler takes them."""
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
    """Rows of each warm-up batch, in this order. null means `batching.batch_sizes` or, without them,
    1, 2, 4, ... and `max_batch_size`; [] means no warm-up."""
    length: Count = 16
    """The length of variable axes that are not padded. Padded axes are warmed up with every
    bucket."""
    inputs: dict[TensorName, TensorValues] = Field(default_factory=dict)
    """Values for inputs that cannot be zeros or empty text: one value for all elements, or a list
    for the elements of a row, repeated if the row is longer. Optional inputs are warmed up only if
    they are named here."""

    @model_validator(mode="after")
    def _keys_go_together(self) -> Self:
        if self.batch_sizes == ():
            CrossCheckError.raise_any(
                [
                    (
                        (key,),
                        "no effect, as batch_sizes is []; allowed: together with other batch_sizes",
                    )
                    for key in ("length", "inputs")
                    if getattr(self, key)
                    != type(self).model_fields[key].get_default(call_default_factory=True)
                ]
            )
        return self


class HealthConfig(Section):
    """When a loaded model stops being ready, and when it is ready again."""

    interval: Duration = 5_000_000_000
    """How often `healthy()` of an executor is called while no batch runs, and how often an
    unhealthy instance is tested again. A child process (`isolation: process`) is asked in any case, and
    replaced if it has not answered after this and `timeout` together."""
    timeout: Duration = 1_000_000_000
    """How long `healthy()` may take before the instance counts as unhealthy."""
    failure_threshold: Count | None = 5
    """An instance counts as unhealthy after this many batches failed in a row, and a test batch
    as well. Failures that the caller caused do not count. null never counts."""
    restart_after: Count | None = 3
    """With `isolation: process`, an instance is replaced when it was unhealthy at this many checks in a row
    and no batch succeeded meanwhile: a broken GPU context goes with its process alone. What runs may end
    before that. Replacements count for `restart.limit`. null: it stays as it is, until it is well again."""


class RestartConfig(Section):
    """How an instance is loaded again that was lost: its process ended, or it hung."""

    backoff: Duration = 500_000_000
    """The first loss is followed by a load at once. After the next ones, and after loads that fail, comes
    a pause of about this, which doubles each time. Half of each pause is drawn at random, so that
    instances which were lost together are not loaded together."""
    max_backoff: Duration = 30_000_000_000
    """The longest pause. An instance that served for longer than this is loaded again at once."""
    limit: Count | None = 10
    """After this many loads within `window`, which must have room for so many with the pauses between them,
    the instance stays down until its model is loaded again; null means that there is no limit. A backend that
    is not up is waited for without a limit."""
    window: Duration = 600_000_000_000
    """The time in which loads count for `limit`."""

    @model_validator(mode="after")
    def _keys_go_together(self) -> Self:
        if self.max_backoff < self.backoff:
            allowed = f"backoff, which is {format_duration(self.backoff)}, or longer"
            problem = refusal(format_duration(self.max_backoff), allowed)
            CrossCheckError.raise_any([(("max_backoff",), problem)])
        most = self._most_loads()
        if self.limit is not None and self.limit > most:
            allowed = (
                f"null, or at most {most}: more do not fit in window, with the pauses between them"
            )
            CrossCheckError.raise_any([(("limit",), refusal(self.limit, allowed))])
        return self

    def _most_loads(self) -> int:
        """How many loads `window` can hold: the first is made at once, and pauses are at least half as long as said."""
        left, loads, pause = 2 * self.window, 1, self.backoff
        while pause < self.max_backoff and pause <= left:
            left, loads, pause = left - pause, loads + 1, 2 * pause
        return loads if pause < self.max_backoff else loads + left // self.max_backoff


class ModelConfig(Section):
    """One model: its executor, where it runs, how it is batched and queued."""

    name: Name
    """The name in requests."""
    version: Version = "1"
    """A positive integer, in quotes. Name and version together are unique."""
    executor: Name
    """The executor that runs the model: an entry point of the group `batcher.executors`. `emulated`
    and `python` come with batcher, and so do those that send batches on to another server; others come
    with a plugin."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Settings of the executor, which checks them. Relative paths start at the folder of the
    configuration file."""
    instances: Count = 1
    """Copies of the model that are loaded; each runs on a thread or in a process of its own: `isolation`."""
    device: DeviceName = "cpu"
    """The device that the model runs on, which is passed to the executor. Models with the same
    device take turns on it: see `devices`."""
    max_in_flight: Count = 1
    """Batches that one instance takes at once. More than 1 needs an executor that can take them
    (`Capabilities.max_in_flight`); otherwise the model does not load."""
    isolation: Literal["inline", "thread", "process"] = "thread"
    """Where a blocking executor runs. `thread`: on a thread of the server for each instance. `process`: in
    a child process for each instance, so that a crash of the runtime costs only the batches in it.
    `inline`: on the event loop, for code that takes microseconds; everything else waits meanwhile, and
    `execute_timeout` cannot end it. Executors written as coroutines run on the event loop, of the server or
    of the child."""
    pipelining: bool = True
    """Whether one batch is copied to the device while the one before it computes, where the executor can
    do that. It takes memory of the device for two batches."""
    execute_timeout: Duration = 30_000_000_000
    """How long one batch may execute. After it the requests of the batch fail, and the instance is
    replaced."""
    max_abandoned_threads: Count = 3
    """A thread that hangs cannot be ended, and keeps its memory: it is abandoned, and the instance is loaded
    again on another one. While more than this many of the model's still hang, that is not done."""
    idempotent: StrictBool = False
    """Whether a request may be executed twice without harm. Then the requests of a batch whose instance is
    lost (its process ended, or it hung) are executed once more, while their callers wait; false: they end
    with UNAVAILABLE."""
    load_timeout: DurationOrNull = 1_800_000_000_000
    """How long one attempt to load an instance may take, its warm-up included; first compilations and
    downloads take long. After it the attempt is given up and the load has failed: a child process is
    killed, a thread is abandoned. Waiting for a turn on the device does not count. null means no limit."""
    load_retry_timeout: DurationOrZero = 300_000_000_000
    """How long loading is retried while the executor reports that a backend is not up yet. 0 tries
    once. Each try may take `load_timeout`; one that is given up for that is not retried."""
    reload: Literal["beside", "one_by_one"] = "beside"
    """How a model that is served is loaded again. `beside`: the new instances are loaded beside the old
    ones, which needs room for both on the device; where the executor reports that there is not enough,
    it goes on with `one_by_one`. `one_by_one`: each instance is closed before its successor is loaded;
    with a single one, requests are refused until that is done."""
    drain_timeout: Duration = 30_000_000_000
    """How long instances that are replaced or unloaded may take to answer what they have accepted. What
    is unanswered then is refused."""
    on_nan: Literal["serve", "fail"] = "serve"
    """A request with NaN in a floating-point output is answered like any other (`serve`), or fails
    as one with a wrong input (`fail`)."""
    batching: BatchingConfig = BatchingConfig()
    """How requests become batches."""
    budget: BudgetConfig | None = None
    """How the latency target is split over the hops of a request, for metrics and traces; null: only late
    answers are counted by hop."""
    padding: tuple[PaddingConfig, ...] = ()
    """Variable axes that are padded, so that requests of different lengths share batches."""
    inputs: tuple[InputConfig, ...] = ()
    """Which inputs have a row axis, if the model itself does not say so."""
    outputs: tuple[OutputConfig, ...] = ()
    """Which output axes follow padded input axes, which outputs have a row axis, and the labels of
    classes."""
    sequence: SequenceConfig | None = None
    """Requests are steps of sequences, whose state is kept between them; null means that each request
    stands alone."""
    queue: QueueConfig = QueueConfig()
    """How much may wait, for how long, and in which order."""
    warmup: WarmupConfig = WarmupConfig()
    """Batches that run before the model is ready."""
    health: HealthConfig = HealthConfig()
    """When a loaded model stops being ready."""
    restart: RestartConfig = RestartConfig()
    """How instances are loaded again that were lost."""

    @model_validator(mode="after")
    def _keys_go_together(self) -> Self:
        self.check()
        return self

    def check(self) -> None:
        """Raise `CrossCheckError` where keys do not go together."""
        most = self.batching.max_batch_size
        sizes = self.warmup.batch_sizes or ()
        problems = beyond(("warmup", "batch_sizes"), sizes, self.batching.most_rows)
        problems += budget_problems(self.budget, self.batching.target_p99)
        problems += padding_problems(self.padding, self.outputs)
        problems += sequence_problems(
            self.sequence, self.instances, {each.input for each in self.padding}
        )
        problems += row_problems(self.inputs, self.padding, self.outputs, most)
        if not most and self.queue.max_batches_per_request != QueueConfig().max_batches_per_request:
            allowed = f"{NO_BATCH_AXIS}; allowed: together with another max_batch_size"
            problems.append((("queue", "max_batches_per_request"), allowed))
        usual = (None, HealthConfig().restart_after)
        if self.isolation != "process" and self.health.restart_after not in usual:
            text = (
                f"no effect with isolation: {self.isolation}, where no new process would begin;"
                " allowed: with isolation: process"
            )
            problems.append((("health", "restart_after"), text))
        if self.idempotent and self.sequence is not None:
            text = (
                "no effect, as steps of sequences are not executed twice; allowed: without sequence"
            )
            problems.append((("idempotent",), text))
        usual = type(self).model_fields["max_abandoned_threads"].default
        if self.isolation == "process" and self.max_abandoned_threads != usual:
            text = "no effect, as a child process that hangs is killed; allowed: without isolation: process"
            problems.append((("max_abandoned_threads",), text))
        CrossCheckError.raise_any(problems)

    def fitted(self, executor: ExecutorBatches) -> Self:
        """The section for the batches that the loaded executor takes.

        What the section sets itself stays. Raises `ValueError` if that is more than the executor takes,
        or where other keys do not go together with what it takes.
        """
        batching = self.batching
        changes = fitting(batching, executor)
        if all(getattr(batching, key) == value for key, value in changes.items()):
            return self
        fitted = self.model_copy(update={"batching": batching.model_copy(update=changes)})
        try:
            fitted.batching.check()
            fitted.check()
        except CrossCheckError as error:
            raise ValueError(
                "the executor's backend takes batches of at most"
                f" {fitted.batching.max_batch_size} rows: {error}"
            ) from error
        return fitted

    def document(self) -> dict[str, Any]:
        """The section as the file would have it, every key written out."""
        return self.model_dump(mode="json", exclude={"options"}) | {"options": self.options}

    def warmup_sizes(self) -> tuple[int, ...]:
        """Rows of each warm-up batch: as configured, else `batch_sizes`, else powers of two and `max_batch_size`."""
        if self.warmup.batch_sizes is not None:
            return self.warmup.batch_sizes
        if self.batching.sizes:
            return self.batching.sizes
        most = self.batching.most_rows
        powers = (1 << exponent for exponent in range(most.bit_length()))
        return tuple(sorted({*powers, most}))

    def label_files(self) -> dict[str, Path]:
        """Output -> the file with the names of its classes, where it has one."""
        return {each.output: each.labels for each in self.outputs if each.labels is not None}

    def scheduler_settings(self) -> ModelSettings:
        """The settings that the scheduler reads. Times in nanoseconds."""
        queue = self.queue.limits()
        if not self.batching.max_batch_size:
            queue = replace(queue, max_batches_per_request=1)
        return ModelSettings(
            max_batch_size=self.batching.most_rows,
            policy=self.batching.policy_settings(),
            queue=queue,
            target_ns=self.batching.target_p99,
            batch_sizes=self.batching.sizes,
            idempotent=self.idempotent,
        )
