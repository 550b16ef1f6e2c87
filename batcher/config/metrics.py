"""The section `metrics`: what `/metrics` has beside its own families."""

from __future__ import annotations

from pydantic import StrictBool

from batcher.config.section import Section


class MetricsConfig(Section):
    """What `/metrics` exports."""

    triton_names: StrictBool = False
    """Whether the same counts are exported under Triton's names, too, for its dashboards and tools:
    `nv_inference_*`, `nv_gpu_*`, `nv_cpu_*`."""
