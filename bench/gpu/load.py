"""Load for a server, in a process of its own: requests of several rows, a fixed number in flight.

`python load.py '{"address": ..., ...}'` prints `ready`, waits for a line of input, sends until the
seconds are over, and prints one line of JSON: how many requests were answered within them.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import grpc
import numpy as np

from batcher.executor import DTYPES
from batcher.protocol import INFERENCE, inference, methods

UNARY: Final = methods(INFERENCE)["ModelInfer"].path
OPTIONS: Final = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
]


def message(task: Mapping[str, Any]) -> bytes:
    """One request, serialized once: the server is to be measured, and not its client."""
    rng, rows = np.random.default_rng(2), task["rows"]
    request = inference.ModelInferRequest(model_name=task["model"])
    for name, kind, shape in task["inputs"]:
        values = rng.integers(0, task["below"], (rows, *shape)).astype(DTYPES[kind])
        if name == "mask":
            values[:] = 1
        request.inputs.add(name=name, datatype=kind, shape=values.shape)
        request.raw_input_contents.append(values.tobytes())
    return request.SerializeToString()


class Load:
    """Requests over some channels; the next one is sent when one is answered."""

    def __init__(self, task: Mapping[str, Any]) -> None:
        self._task = task
        self._message = message(task)
        self._answered = 0
        self._failed: Counter[str] = Counter()
        self._from = self._until = 0.0

    async def run(self) -> dict[str, Any]:
        """Send until the time is over. What ends in the first fifth is not counted."""
        task = self._task
        channels = [
            grpc.aio.insecure_channel(task["address"], options=OPTIONS)
            for _ in range(task["channels"])
        ]
        calls = [channel.unary_unary(UNARY) for channel in channels]
        reply = inference.ModelInferResponse.FromString(await calls[0](self._message))
        assert reply.outputs[0].shape[0] == task["rows"], reply.outputs[0]
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        began, seconds = time.monotonic(), float(task["seconds"])
        self._from, self._until = began + seconds / 5, began + seconds
        cpu = time.process_time()
        await asyncio.gather(
            *[self._worker(calls[place % len(calls)]) for place in range(task["in_flight"])]
        )
        cpu = (time.process_time() - cpu) / (time.monotonic() - began)
        for channel in channels:
            await channel.close()
        return {
            "rows_per_s": self._answered * task["rows"] / (seconds * 4 / 5),
            "failed": dict(self._failed),
            "cpu": cpu,
        }

    async def _worker(self, call: grpc.aio.UnaryUnaryMultiCallable) -> None:
        while time.monotonic() < self._until:
            try:
                await call(self._message)
            except grpc.aio.AioRpcError as error:
                self._failed[f"{error.code().name}: {error.details()}"] += 1
                await asyncio.sleep(0.01)
                continue
            if self._from <= time.monotonic() < self._until:
                self._answered += 1


def main() -> None:
    """Run one load."""
    print(json.dumps(asyncio.run(Load(json.loads(sys.argv[1])).run())))


if __name__ == "__main__":
    main()
