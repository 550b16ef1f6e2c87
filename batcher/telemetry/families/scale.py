"""What is offered over what can be served: what an autoscaler reads."""

from __future__ import annotations

from batcher.telemetry.families.family import MODEL, Family

DESIRED_RATIO = Family(
    "batcher_desired_ratio",
    "gauge",
    "ratio",
    (),
    "Work offered in the last seconds, refused and expired work included, over what this server can serve "
    "inside its targets: the highest batcher_device_load_ratio. So many times as many servers would be just "
    "enough. Absent while no load is known, and while work is offered whose cost is not known, unless a known "
    "load is above 1.",
)
DEVICE_LOAD = Family(
    "batcher_device_load_ratio",
    "gauge",
    "ratio",
    ("device",),
    "Work offered in the last seconds to all models on the device, over what it can serve inside their targets. "
    "Absent while that is not known: before batch times are, and in the first second. Where no instance of a model "
    "takes batches, the device counts as if all did.",
)
MODEL_LOAD = Family(
    "batcher_model_load_ratio",
    "gauge",
    "ratio",
    (*MODEL, "device"),
    "The model's part of batcher_device_load_ratio.",
)
DEVICE_HEADROOM = Family(
    "batcher_device_headroom_ratio",
    "gauge",
    "ratio",
    ("device",),
    "What the device can serve inside the targets over what is offered: 1 over batcher_device_load_ratio, "
    "+Inf while nothing is offered.",
)

DEVICE_BUSY = Family(
    "batcher_device_busy_seconds",
    "counter",
    "seconds",
    ("device",),
    "Time during which at least one batch of any model was running on the device, or handed over to run there. "
    "A running batch counts up to the scrape: the rate is the duty cycle.",
)
DEVICE_FILL = Family(
    "batcher_device_batch_fill_ratio",
    "gauge",
    "ratio",
    ("device",),
    "Rows of the batches that the device has executed in about the last ten seconds, over what they could have "
    "held. Absent without any in the last minute.",
)

FAMILIES = (DESIRED_RATIO, DEVICE_LOAD, MODEL_LOAD, DEVICE_HEADROOM, DEVICE_BUSY, DEVICE_FILL)
