"""Answers to `ModelMetadata`, `ModelConfig` and `ModelStatistics`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from batcher.clock import MICROSECOND
from batcher.executor import ModelMetadata
from batcher.protocol import inference, model_config
from batcher.runtime.sequences import SequenceInterface
from batcher.telemetry.statistics import Duration, ModelStatisticsSnapshot
from batcher.tensors import TensorSpec


def model_metadata_response(
    name: str, versions: Sequence[str], metadata: ModelMetadata
) -> inference.ModelMetadataResponse:
    """The answer to `ModelMetadata`; shapes have the row axis, -1, first, where there is one."""
    response = inference.ModelMetadataResponse(
        name=name, versions=versions, platform=metadata.platform
    )
    for specs, messages in (
        (metadata.inputs, response.inputs),
        (metadata.outputs, response.outputs),
    ):
        for spec in specs:
            messages.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
    return response


@dataclass(frozen=True, slots=True)
class Batching:
    """How requests become batches, as `ModelConfig` shows it."""

    preferred_sizes: Sequence[int] = ()
    max_delay_ns: int = 0
    queue_timeout_ns: int | None = None
    max_queue_requests: int = 0
    priority_levels: int = 0
    default_priority: int = 0
    allow_timeout_override: bool = True


def model_config_response(
    name: str,
    version: str,
    metadata: ModelMetadata,
    *,
    max_batch_size: int,
    batching: Batching | None,
    executor: str,
    instances: int,
    device: str,
    labels: Mapping[str, str] | None = None,
    sequences: SequenceInterface | None = None,
    batch_sizes: Sequence[int] = (),
) -> inference.ModelConfigResponse:
    """The answer to `ModelConfig`; `dims` leave the row axis out.

    `labels` are the files with the names of an output's classes.

    `batch_sizes`, the only ones, become a parameter: the protocol has no field for them.
    `batching` is None for a model whose requests are executed alone. A device named `cuda:1`,
    `gpu:1` or the like is a GPU with that number; every other device counts as a CPU.
    """
    config = model_config.ModelConfig(
        name=name,
        platform=metadata.platform,
        backend=executor,
        max_batch_size=max_batch_size,
        instance_group=[_instance_group(name, instances, device)],
    )
    if version.isdecimal():
        config.version_policy.specific.versions.append(int(version))
    for spec in metadata.inputs:
        config.input.add(
            name=spec.name,
            data_type=_data_type(spec),
            dims=spec.inner,
            optional=spec.optional,
        )
    for spec in metadata.outputs:
        config.output.add(
            name=spec.name,
            data_type=_data_type(spec),
            dims=spec.inner,
            label_filename=(labels or {}).get(spec.name, ""),
        )
    for key, value in metadata.properties.items():
        config.parameters[key].string_value = value
    if batch_sizes:
        config.parameters["batch_sizes"].string_value = ",".join(map(str, batch_sizes))
    config.model_transaction_policy.decoupled = False
    config.response_cache.enable = False
    if sequences is not None:
        # The protocol has either this or dynamic batching.
        config.sequence_batching.CopyFrom(_sequence_batching(sequences))
    elif batching is not None:
        config.dynamic_batching.CopyFrom(_dynamic_batching(batching))
    return inference.ModelConfigResponse(config=config)


def _data_type(spec: TensorSpec) -> str:
    """The name of the enum value, which the constructor of a message takes."""
    return "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"


def _instance_group(name: str, instances: int, device: str) -> model_config.ModelInstanceGroup:
    kind, _, number = device.partition(":")
    group = model_config.ModelInstanceGroup(name=name, count=instances)
    if kind.lower() in {"cuda", "gpu"}:
        group.kind = model_config.ModelInstanceGroup.KIND_GPU
        group.gpus.append(int(number) if number.isdecimal() else 0)
    else:
        group.kind = model_config.ModelInstanceGroup.KIND_CPU
    return group


def _dynamic_batching(batching: Batching) -> model_config.ModelDynamicBatching:
    message = model_config.ModelDynamicBatching(
        preferred_batch_size=batching.preferred_sizes,
        max_queue_delay_microseconds=batching.max_delay_ns // MICROSECOND,
        priority_levels=batching.priority_levels,
        default_priority_level=batching.default_priority,
    )
    policy = message.default_queue_policy
    policy.max_queue_size = batching.max_queue_requests
    policy.allow_timeout_override = batching.allow_timeout_override
    if batching.queue_timeout_ns is not None:
        policy.default_timeout_microseconds = batching.queue_timeout_ns // MICROSECOND
    return message


_KINDS: Final = {
    "start": "CONTROL_SEQUENCE_START",
    "end": "CONTROL_SEQUENCE_END",
    "ready": "CONTROL_SEQUENCE_READY",
}


def _sequence_batching(sequences: SequenceInterface) -> model_config.ModelSequenceBatching:
    """State and controls as Triton describes them; the strategy `slot` is its `direct`."""
    settings = sequences.config
    message = model_config.ModelSequenceBatching(
        max_sequence_idle_microseconds=settings.idle_timeout // MICROSECOND
    )
    if settings.strategy == "slot":
        message.direct.SetInParent()
    else:
        message.oldest.max_candidate_sequences = min(settings.max_sequences, 2**31 - 1)
    for state in sequences.states:
        described = message.state.add(
            input_name=state.input.name,
            output_name=state.output,
            data_type=_data_type(state.input),
            dims=state.input.inner,
        )
        if not state.initial.any():
            described.initial_state.add(
                name=state.input.name,
                data_type=_data_type(state.input),
                dims=state.input.inner,
                zero_data=True,
            )
    for kind, (name, no, yes) in sequences.flags.items():
        control = message.control_input.add(name=name).control.add(kind=_KINDS[kind])
        values = [tensor.array.reshape(-1)[0].item() for tensor in (no, yes)]
        if no.datatype == "BOOL":
            control.bool_false_true.extend(values)
        elif no.datatype == "INT32":
            control.int32_false_true.extend(values)
        else:
            control.fp32_false_true.extend(values)
    if sequences.id_input is not None:
        name, datatype = sequences.id_input.name, _data_type(sequences.id_input)
        message.control_input.add(name=name).control.add(
            kind="CONTROL_SEQUENCE_CORRID", data_type=datatype
        )
    return message


def statistics_response(
    models: Iterable[tuple[str, str, ModelStatisticsSnapshot]],
) -> inference.ModelStatisticsResponse:
    """The answer to `ModelStatistics`, for each (name, version, statistics)."""
    return inference.ModelStatisticsResponse(
        model_stats=[_model_statistics(*model) for model in models]
    )


def _model_statistics(
    name: str, version: str, snapshot: ModelStatisticsSnapshot
) -> inference.ModelStatistics:
    return inference.ModelStatistics(
        name=name,
        version=version,
        last_inference=snapshot.last_inference_ms,
        inference_count=snapshot.inference_count,
        execution_count=snapshot.execution_count,
        inference_stats=inference.InferStatistics(
            success=_duration(snapshot.success),
            fail=_duration(snapshot.fail),
            queue=_duration(snapshot.queue),
            compute_input=_duration(snapshot.compute_input),
            compute_infer=_duration(snapshot.compute_infer),
            compute_output=_duration(snapshot.compute_output),
            cache_hit=_duration(snapshot.cache_hit),
            cache_miss=_duration(snapshot.cache_miss),
        ),
        batch_stats=[
            inference.InferBatchStatistics(
                batch_size=batch.batch_size,
                compute_input=_duration(batch.compute_input),
                compute_infer=_duration(batch.compute_infer),
                compute_output=_duration(batch.compute_output),
            )
            for batch in snapshot.batch_stats
        ],
    )


def _duration(duration: Duration) -> inference.StatisticDuration:
    return inference.StatisticDuration(count=duration.count, ns=duration.ns)
