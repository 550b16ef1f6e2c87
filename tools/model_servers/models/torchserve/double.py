"""`Y` = 2 * X after `base + per_row * rows`; `BATCH` is the rows of the batch.

A call's `data` is JSON, `{"instances": [{"X": row}, ...]}`, or tensors in the format safetensors; so is
its answer. A row with a value that is no number is an error of that row. A call without `data` has one row,
`X`, as JSON.
"""

import json
import os
import time

import torch
from safetensors.torch import load, save


class Double:
    def initialize(self, context):
        self._base_s, self._per_row_s = map(float, os.environ["MODEL_SERVER_TIMES"].split())

    def handle(self, calls, context):
        if "X" in calls[0]:
            return self._rows([json.loads(call["X"]) for call in calls])
        datas = [call.get("data") or call.get("body") for call in calls]
        inputs = [self._decoded(data) for data in datas]
        rows = sum(map(len, inputs))
        time.sleep(self._base_s + self._per_row_s * rows + slow_s())
        return [
            self._encoded(2 * x, rows, binary=is_binary(data))
            for data, x in zip(datas, inputs, strict=True)
        ]

    def _rows(self, rows):
        time.sleep(self._base_s + self._per_row_s * len(rows) + slow_s())
        y = 2 * torch.tensor(rows, dtype=torch.float32)
        return [{"Y": row, "BATCH": [len(rows)]} for row in y.tolist()]

    def _decoded(self, data):
        if is_binary(data):
            return load(bytes(data))["X"]
        body = data if isinstance(data, dict) else json.loads(data)
        instances = body["instances"]
        rows = [each["X"] if isinstance(each, dict) else each for each in instances]
        return torch.tensor(rows, dtype=torch.float32)

    def _encoded(self, y, rows, *, binary):
        batch = torch.full((len(y), 1), rows, dtype=torch.int32)
        if not binary:
            return {"predictions": [{"Y": row, "BATCH": [rows]} for row in y.tolist()]}
        wrong = torch.isnan(y).any(dim=1).nonzero().flatten().tolist()
        errors = {str(row): "X has no number in some place" for row in wrong}
        metadata = {"row_errors": json.dumps(errors)} if errors else None
        return save({"Y": y.contiguous(), "BATCH": batch}, metadata)


def is_binary(data):
    """Whether a call holds safetensors: they begin with the length of a header, then the header."""
    return isinstance(data, (bytes, bytearray)) and data[8:9] == b"{"


def slow_s():
    """So many seconds more, for tests that want it slow."""
    try:
        with open(os.environ["MODEL_SERVER_SLOW"]) as file:
            return float(file.read() or 0)
    except OSError:
        return 0
