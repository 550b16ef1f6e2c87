"""`Y` = 2 * X after `base + per_row * rows`. A call's body is JSON, `{"instances": [row, ...]}`."""

import json
import os
import time

import torch


class Double:
    def initialize(self, context):
        self._base_s, self._per_row_s = map(float, os.environ["MODEL_SERVER_TIMES"].split())

    def handle(self, calls, context):
        inputs = [self._decoded(each) for each in calls]
        rows = sum(map(len, inputs))
        doubled = 2 * torch.cat(inputs)
        time.sleep(self._base_s + self._per_row_s * rows + slow_s())
        return [
            {"predictions": [{"Y": row, "BATCH": [rows]} for row in each.tolist()]}
            for each in doubled.split([len(each) for each in inputs])
        ]

    def _decoded(self, call):
        body = call.get("body") or call.get("data")
        if isinstance(body, (bytes, bytearray, str)):
            body = json.loads(body)
        instances = body["instances"]
        rows = [each["X"] if isinstance(each, dict) else each for each in instances]
        return torch.tensor(rows, dtype=torch.float32)


def slow_s():
    """So many seconds more, for tests that want it slow."""
    try:
        with open(os.environ["MODEL_SERVER_SLOW"]) as file:
            return float(file.read() or 0)
    except OSError:
        return 0
