"""What a `ModelConfig` message says, checked, in values that the rest of the server understands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from batcher.clock import MICROSECOND, SECOND
from batcher.config.section import KeyPath, refusal
from batcher.errors import ConfigError
from batcher.protocol import model_config as m
from batcher.triton_models.reading import TritonConfig


@dataclass(frozen=True, slots=True)
class TritonTensor:
    """An input or output as callers see it."""

    name: str
    datatype: str
    """In the words of the protocol: `FP32`, `BYTES`."""
    dims: tuple[int, ...]
    """Without the row axis where `max_batch_size` is above 0; -1 is any length."""
    reshape: tuple[int, ...] | None = None
    """The shape that the model itself has instead of `dims`; None if it is the same."""
    optional: bool = False
    ragged: bool = False
    labels: str = ""
    """The file in the model's folder with the names of an output's classes; empty if there is none."""


@dataclass(frozen=True, slots=True)
class TritonQueue:
    """How long a request waits and how many may. Times in nanoseconds."""

    timeout_ns: int | None = None
    delay_on_timeout: bool = False
    """A request that waited too long is executed later instead of refused."""
    allow_timeout_override: bool = False
    max_requests: int | None = None


@dataclass(frozen=True, slots=True)
class TritonBatching:
    """`dynamic_batching`."""

    preferred_sizes: tuple[int, ...] = ()
    max_delay_ns: int = 0
    preserve_ordering: bool = False
    priority_levels: int = 0
    """0: requests have no priorities."""
    default_priority: int = 0
    queue: TritonQueue = TritonQueue()
    by_priority: tuple[tuple[int, TritonQueue], ...] = ()


@dataclass(frozen=True, slots=True)
class TritonControl:
    """An input of the model that is told where in its sequence a row stands."""

    input: str
    kind: Literal["start", "ready", "end", "id"]
    datatype: str
    """Of the input: `INT32`, `FP32` or `BOOL`, for the id any integer or `BYTES`."""
    no: float = 0
    yes: float = 1
    """The two values of the input; not used for the id."""


@dataclass(frozen=True, slots=True)
class TritonState:
    """An output that becomes an input of the sequence's next step."""

    input: str
    output: str
    datatype: str
    dims: tuple[int, ...]
    """Without the row axis."""
    initial_dims: tuple[int, ...] | None = None
    """The shape of the initial value; None means zeros of `dims`."""
    initial_file: str = ""
    """The file in the folder `initial_state` with the initial value's bytes; empty means zeros."""


@dataclass(frozen=True, slots=True)
class TritonSequences:
    """`sequence_batching`. Times in nanoseconds."""

    strategy: Literal["direct", "oldest"] = "direct"
    max_idle_ns: int = SECOND
    controls: tuple[TritonControl, ...] = ()
    states: tuple[TritonState, ...] = ()
    max_candidates: int = 0
    """`oldest` only: sequences that are served at once; 0 means no bound."""
    preferred_sizes: tuple[int, ...] = ()
    max_delay_ns: int = 0
    iterative: bool = False


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which versions of a model are served: the `latest` n, the `specific` ones, or `all`."""

    kind: Literal["latest", "specific", "all"] = "latest"
    latest: int = 1
    specific: tuple[int, ...] = ()

    def chosen(self, there: frozenset[int]) -> list[int]:
        """The versions to serve of those that are there, newest first."""
        newest_first = sorted(there, reverse=True)
        if self.kind == "all":
            return newest_first
        if self.kind == "specific":
            return [version for version in newest_first if version in self.specific]
        return newest_first[: self.latest]


@dataclass(frozen=True, slots=True)
class TritonInstances:
    """One entry of `instance_group`."""

    kind: Literal["auto", "gpu", "cpu", "model"]
    count: int = 1
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TritonModel:
    """A model in Triton's words. What is not here is in `TritonConfig.message`."""

    name: str
    backend: str
    """`backend`, else the backend that `platform` stands for; empty if neither is given."""
    platform: str
    filename: str
    """`default_model_filename`; empty if it is not given."""
    max_batch_size: int
    inputs: tuple[TritonTensor, ...]
    outputs: tuple[TritonTensor, ...]
    instances: tuple[TritonInstances, ...]
    versions: VersionPolicy
    batching: TritonBatching | None
    """None: every request is executed alone, or in sequences."""
    sequences: TritonSequences | None
    steps: tuple[str, ...]
    """The models that an ensemble consists of; empty for another model."""
    parameters: dict[str, str]
    decoupled: bool
    batch_inputs: tuple[str, ...] = ()
    """Inputs that a server would make of the whole batch."""


PLATFORMS: Final = {
    "onnxruntime_onnx": "onnxruntime",
    "tensorrt_plan": "tensorrt",
    "tensorflow_graphdef": "tensorflow",
    "tensorflow_savedmodel": "tensorflow",
    "pytorch_libtorch": "pytorch",
    "ensemble": "ensemble",
}
"""Values of `platform` -> the backend that runs such models."""

_KINDS: Final[dict[int, Literal["auto", "gpu", "cpu", "model"]]] = {
    m.ModelInstanceGroup.KIND_AUTO: "auto",
    m.ModelInstanceGroup.KIND_GPU: "gpu",
    m.ModelInstanceGroup.KIND_CPU: "cpu",
    m.ModelInstanceGroup.KIND_MODEL: "model",
}
_CONTROLS: Final[dict[int, Literal["start", "ready", "end", "id"]]] = {
    m.ModelSequenceBatching.Control.CONTROL_SEQUENCE_START: "start",
    m.ModelSequenceBatching.Control.CONTROL_SEQUENCE_READY: "ready",
    m.ModelSequenceBatching.Control.CONTROL_SEQUENCE_END: "end",
    m.ModelSequenceBatching.Control.CONTROL_SEQUENCE_CORRID: "id",
}


def model_of(config: TritonConfig) -> TritonModel:
    """What the message says. Raises `ConfigError` with every value that is not allowed."""
    reader = _Reader(config)
    model = reader.model()
    if reader.problems:
        placed = [config.placed(path, text) for path, text in reader.problems]
        raise ConfigError(placed, source=config.source)
    return model


class _Reader:
    """Reads one message and notes every problem with it."""

    def __init__(self, config: TritonConfig) -> None:
        self._message = config.message
        self.problems: list[tuple[KeyPath, str]] = []

    def model(self) -> TritonModel:
        message = self._message
        if message.max_batch_size < 0:
            self._refuse(("max_batch_size",), message.max_batch_size, "0 or more")
        choice = message.WhichOneof("scheduling_choice")
        return TritonModel(
            name=message.name,
            backend=message.backend or PLATFORMS.get(message.platform, message.platform),
            platform=message.platform,
            filename=message.default_model_filename,
            max_batch_size=max(0, message.max_batch_size),
            inputs=self._inputs(),
            outputs=self._outputs(),
            instances=self._instances(),
            versions=self._versions(),
            batching=self._batching() if choice == "dynamic_batching" else None,
            sequences=self._sequences() if choice == "sequence_batching" else None,
            steps=tuple(step.model_name for step in message.ensemble_scheduling.step),
            parameters={key: value.string_value for key, value in message.parameters.items()},
            decoupled=message.model_transaction_policy.decoupled,
            batch_inputs=tuple(name for each in message.batch_input for name in each.target_name),
        )

    def _inputs(self) -> tuple[TritonTensor, ...]:
        return tuple(
            TritonTensor(
                *self._tensor(("input", place), each),
                optional=each.optional,
                ragged=each.allow_ragged_batch,
            )
            for place, each in enumerate(self._message.input)
        )

    def _outputs(self) -> tuple[TritonTensor, ...]:
        return tuple(
            TritonTensor(*self._tensor(("output", place), each), labels=each.label_filename)
            for place, each in enumerate(self._message.output)
        )

    def _tensor(
        self, path: KeyPath, each: m.ModelInput | m.ModelOutput
    ) -> tuple[str, str, tuple[int, ...], tuple[int, ...] | None]:
        """Name, datatype, dims, reshape."""
        if not each.name:
            self.problems.append(((*path, "name"), "missing; needed: the name of the tensor"))
        if each.is_shape_tensor:
            allowed = "false: values that are shapes are not supported"
            self._refuse((*path, "is_shape_tensor"), True, allowed)
        if each.is_non_linear_format_io:
            allowed = "false: only row-major tensors are supported"
            self._refuse((*path, "is_non_linear_format_io"), True, allowed)
        reshape = tuple(each.reshape.shape) if each.HasField("reshape") else None
        dims = self._dims((*path, "dims"), tuple(each.dims))
        if reshape is not None:
            reshape = self._dims((*path, "reshape", "shape"), reshape)
        return (
            each.name,
            self._datatype((*path, "data_type"), each.data_type),
            dims,
            None if reshape == dims else reshape,
        )

    def _dims(self, path: KeyPath, dims: tuple[int, ...]) -> tuple[int, ...]:
        for place, length in enumerate(dims):
            if length < -1:
                self._refuse((*path, place), length, "-1 (any length), or a length from 0")
        return dims

    def _datatype(self, path: KeyPath, number: int) -> str:
        name = m.DataType.Name(number) if number in m.DataType.values() else str(number)
        if number == m.TYPE_STRING:
            return "BYTES"
        if number == m.TYPE_INVALID or not name.startswith("TYPE_"):
            allowed = [each for each in m.DataType.keys() if each != "TYPE_INVALID"]  # noqa: SIM118 - no mapping
            self._refuse(path, name, ", ".join(allowed))
        return name.removeprefix("TYPE_")

    def _instances(self) -> tuple[TritonInstances, ...]:
        groups = []
        for place, group in enumerate(self._message.instance_group):
            path: KeyPath = ("instance_group", place)
            if group.count < 0:
                self._refuse((*path, "count"), group.count, "0 (the default, 1) or more")
            if group.kind not in _KINDS:
                names = ", ".join(m.ModelInstanceGroup.Kind.keys())
                self._refuse((*path, "kind"), group.kind, names)
            for index, number in enumerate(group.gpus):
                if number < 0:
                    self._refuse((*path, "gpus", index), number, "the number of a GPU, from 0")
            kind = _KINDS.get(group.kind, "auto")
            groups.append(TritonInstances(kind, group.count or 1, tuple(group.gpus)))
        return tuple(groups)

    def _versions(self) -> VersionPolicy:
        policy = self._message.version_policy
        match policy.WhichOneof("policy_choice"):
            case "all":
                return VersionPolicy("all")
            case "specific":
                path: KeyPath = ("version_policy", "specific", "versions")
                for place, version in enumerate(policy.specific.versions):
                    if version < 1:
                        self._refuse((*path, place), version, "a version, from 1")
                if not policy.specific.versions:
                    self.problems.append((path, "missing; needed: at least one version"))
                return VersionPolicy("specific", specific=tuple(policy.specific.versions))
            case "latest":
                # 0 is what a message has that says nothing of it, and Triton takes it as 1.
                return VersionPolicy("latest", policy.latest.num_versions or 1)
        return VersionPolicy()

    def _batching(self) -> TritonBatching:
        dynamic, path = self._message.dynamic_batching, ("dynamic_batching",)
        levels, default = dynamic.priority_levels, dynamic.default_priority_level
        if levels and not 1 <= default <= levels:
            allowed = f"1 to priority_levels, which is {levels}"
            self._refuse((*path, "default_priority_level"), default, allowed)
        for level in dynamic.priority_queue_policy:
            if not 1 <= level <= levels:
                allowed = f"levels 1 to priority_levels, which is {levels}"
                self._refuse((*path, "priority_queue_policy"), level, allowed)
        return TritonBatching(
            preferred_sizes=self._preferred(
                (*path, "preferred_batch_size"), tuple(dynamic.preferred_batch_size)
            ),
            max_delay_ns=dynamic.max_queue_delay_microseconds * MICROSECOND,
            preserve_ordering=dynamic.preserve_ordering,
            priority_levels=levels,
            default_priority=default,
            queue=self._queue((*path, "default_queue_policy"), dynamic.default_queue_policy),
            by_priority=tuple(
                (level, self._queue((*path, "priority_queue_policy"), policy))
                for level, policy in sorted(dynamic.priority_queue_policy.items())
            ),
        )

    def _preferred(self, path: KeyPath, sizes: tuple[int, ...]) -> tuple[int, ...]:
        most = self._message.max_batch_size
        for place, size in enumerate(sizes):
            if not 1 <= size <= max(1, most):
                self._refuse((*path, place), size, f"1 to max_batch_size, which is {most}")
        return tuple(sorted(set(sizes)))

    def _queue(self, path: KeyPath, policy: m.ModelQueuePolicy) -> TritonQueue:
        if policy.timeout_action not in m.ModelQueuePolicy.TimeoutAction.values():
            self._refuse((*path, "timeout_action"), policy.timeout_action, "REJECT, DELAY")
        timeout_ns = policy.default_timeout_microseconds * MICROSECOND
        return TritonQueue(
            timeout_ns=timeout_ns or None,
            delay_on_timeout=policy.timeout_action == m.ModelQueuePolicy.DELAY,
            allow_timeout_override=policy.allow_timeout_override,
            max_requests=policy.max_queue_size or None,
        )

    def _sequences(self) -> TritonSequences:
        sequences, path = self._message.sequence_batching, ("sequence_batching",)
        oldest = sequences.WhichOneof("strategy_choice") == "oldest"
        strategy = sequences.oldest if oldest else sequences.direct
        candidates = sequences.oldest.max_candidate_sequences
        if candidates < 0:
            self._refuse((*path, "oldest", "max_candidate_sequences"), candidates, "0 or more")
        idle_ns = sequences.max_sequence_idle_microseconds * MICROSECOND
        return TritonSequences(
            strategy="oldest" if oldest else "direct",
            max_idle_ns=idle_ns or TritonSequences().max_idle_ns,
            controls=self._controls(path, sequences),
            states=self._states(path, sequences),
            max_candidates=max(0, candidates),
            preferred_sizes=self._preferred(
                (*path, "oldest", "preferred_batch_size"),
                tuple(sequences.oldest.preferred_batch_size),
            ),
            max_delay_ns=strategy.max_queue_delay_microseconds * MICROSECOND,
            iterative=sequences.iterative_sequence,
        )

    def _controls(
        self, path: KeyPath, sequences: m.ModelSequenceBatching
    ) -> tuple[TritonControl, ...]:
        found = []
        for place, each in enumerate(sequences.control_input):
            here = (*path, "control_input", place)
            if not each.name:
                self.problems.append(((*here, "name"), "missing; needed: the name of the input"))
            if len(each.control) != 1:
                self._refuse((*here, "control"), len(each.control), "one control for each input")
            found += [
                self._control((*here, "control", 0), each.name, control)
                for control in each.control[:1]
            ]
        return tuple(found)

    def _control(
        self, path: KeyPath, name: str, control: m.ModelSequenceBatching.Control
    ) -> TritonControl:
        kind = _CONTROLS.get(control.kind)
        if kind is None:
            names = ", ".join(m.ModelSequenceBatching.Control.Kind.keys())
            self._refuse((*path, "kind"), control.kind, names)
            return TritonControl(name, "start", "INT32")
        if kind == "id":
            return TritonControl(
                name, kind, self._datatype((*path, "data_type"), control.data_type)
            )
        given = {
            datatype: tuple(values)
            for datatype, values in (
                ("INT32", control.int32_false_true),
                ("FP32", control.fp32_false_true),
                ("BOOL", control.bool_false_true),
            )
            if values
        }
        datatype, values = next(iter(given.items()), ("INT32", ()))
        if len(given) != 1 or len(values) != 2:
            needed = "two values, for no and yes, in one of"
            fields = "int32_false_true, fp32_false_true and bool_false_true"
            self.problems.append((path, f"needed: {needed} {fields}"))
            return TritonControl(name, kind, datatype)
        return TritonControl(name, kind, datatype, float(values[0]), float(values[1]))

    def _states(self, path: KeyPath, sequences: m.ModelSequenceBatching) -> tuple[TritonState, ...]:
        found = []
        for place, each in enumerate(sequences.state):
            here = (*path, "state", place)
            for key in ("input_name", "output_name"):
                if not getattr(each, key):
                    self.problems.append(((*here, key), "missing; needed: the name of the tensor"))
            if len(each.initial_state) > 1:
                self._refuse((*here, "initial_state"), len(each.initial_state), "at most one")
            datatype = self._datatype((*here, "data_type"), each.data_type)
            initial = each.initial_state[0] if each.initial_state else None
            if initial is not None and initial.data_type not in {m.TYPE_INVALID, each.data_type}:
                got = self._datatype((*here, "initial_state", 0, "data_type"), initial.data_type)
                allowed = f"the state's own, which is {datatype}"
                self._refuse((*here, "initial_state", 0, "data_type"), got, allowed)
            found.append(
                TritonState(
                    each.input_name,
                    each.output_name,
                    datatype,
                    self._dims((*here, "dims"), tuple(each.dims)),
                    None if initial is None else tuple(initial.dims),
                    "" if initial is None else initial.data_file,
                )
            )
        return tuple(found)

    def _refuse(self, path: KeyPath, value: object, allowed: str) -> None:
        self.problems.append((path, refusal(value, allowed)))
