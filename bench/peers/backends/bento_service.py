"""BentoML: a service with a batchable API. Its settings are JSON in an environment variable."""

import json
import os

import bentoml
import numpy as np
from emulated_device import COLUMNS, Device

SETTINGS = json.loads(os.environ["BATCHER_PEERS_SETTINGS"])


@bentoml.service(
    workers=SETTINGS["workers"],
    threads=SETTINGS["threads"],
    traffic={"timeout": 30},
    logging={"access": {"enabled": False}},
)
class Doubling:
    """Its service."""

    def __init__(self):
        self.device = Device()

    @bentoml.api(
        batchable=True,
        batch_dim=0,
        max_batch_size=SETTINGS["rows"],
        max_latency_ms=SETTINGS["latency_ms"],
    )
    def predict(self, x: np.ndarray) -> np.ndarray:
        """`x` is FP32 [rows, 16]."""
        return self.device.run(np.asarray(x, np.float32).reshape(-1, COLUMNS))
