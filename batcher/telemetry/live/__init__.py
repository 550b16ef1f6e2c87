"""What a person on call looks at: each model's last seconds, its last five minutes, and what changed.

`Sampler.sample` is called once a second, whether someone looks or not. It compares the counters of each
model with those of `WINDOW_S` seconds ago (`window`), and adds a second to its history (`history`). `changes`
compares states instead of counters, and keeps what changed last; `problems` says what is wrong in words.
`view` makes values of all that, beside the load report. Nothing here counts anything itself: every
number is a difference of two readings of a metric.
"""

from batcher.telemetry.live.changes import Change, Changes, ModelStates, Severity, States
from batcher.telemetry.live.history import HISTORY_S, History
from batcher.telemetry.live.sampler import ModelSample, Sampler
from batcher.telemetry.live.view import LiveView
from batcher.telemetry.live.window import WINDOW_S, Window, quantile

__all__ = [
    "HISTORY_S",
    "WINDOW_S",
    "Change",
    "Changes",
    "History",
    "LiveView",
    "ModelSample",
    "ModelStates",
    "Sampler",
    "Severity",
    "States",
    "Window",
    "quantile",
]
