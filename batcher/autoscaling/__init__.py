"""How many replicas an autoscaler of Kubernetes asks for: the HorizontalPodAutoscaler's algorithm, and KEDA's on top.

Pure: the time is an argument in nanoseconds, what is measured is an argument, and what comes back is a number of
replicas with its reason. `Hpa.sync` decides between 1 and N, `Keda.poll` between 0 and 1. The rules are those of
`pkg/controller/podautoscaler` of Kubernetes 1.34 (`horizontal.go`, `replica_calculator.go`) and of
`pkg/scaling/executor` and `pkg/fallback` of KEDA 2.

The simulation of a fleet and the test of a real one are driven by it; the server itself never scales anything.
"""

from batcher.autoscaling.hpa import Decision, Hpa
from batcher.autoscaling.keda import Fallback, FallbackBehavior, Keda, KedaSettings
from batcher.autoscaling.metrics import (
    ExternalAverage,
    ExternalValue,
    Metric,
    PodsAverage,
    Utilization,
)
from batcher.autoscaling.pods import Measured, Phase, Pod
from batcher.autoscaling.settings import (
    HpaSettings,
    Policy,
    PolicyKind,
    ScalingRules,
    SelectPolicy,
    default_scale_down,
    default_scale_up,
)

__all__ = [
    "Decision",
    "ExternalAverage",
    "ExternalValue",
    "Fallback",
    "FallbackBehavior",
    "Hpa",
    "HpaSettings",
    "Keda",
    "KedaSettings",
    "Measured",
    "Metric",
    "Phase",
    "Pod",
    "PodsAverage",
    "Policy",
    "PolicyKind",
    "ScalingRules",
    "SelectPolicy",
    "Utilization",
    "default_scale_down",
    "default_scale_up",
]
