"""Sends requests at moments that were fixed in advance, and writes down when, and how each ended.

A process of its own, with grpcio's client: `python generator.py PLAN LOG`. It says `ready` once its
connections are up, reads the start (nanoseconds of the monotonic clock) from a line of its standard
input, and ends when every request has ended. The plan is JSON: `address`, `connections`, and
`requests`, each `[id, at_ns, model, rows, deed, deadline_s, cancel_s, columns, priority]`; the last four may
be null or missing. With
`stream` each connection has one call of ModelStreamInfer, and requests are its messages.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from batcher.protocol import INFERENCE, inference, methods

COLUMNS = 4
PATH = methods(INFERENCE)["ModelInfer"].path
STREAM = methods(INFERENCE)["ModelStreamInfer"].path
WIDE = 3
"""The deed of a request that does not fit the model."""
LAG_STEP_NS = 5_000_000
LONGEST_S = 90.0
"""After this a request without an answer is given up, and counts as never answered."""


def message(
    number: int,
    model: str,
    rows: int,
    deed: int,
    columns: int | None = None,
    priority: int | None = None,
) -> bytes:
    """A serialized request whose every row holds its number."""
    columns = columns or COLUMNS + (deed == WIDE)
    values = np.zeros((rows, columns), "<f4")
    values[:, 0], values[:, 1] = number, deed
    request = inference.ModelInferRequest(
        model_name=model, id=str(number), raw_input_contents=[values.tobytes()]
    )
    request.inputs.add(name="X", datatype="FP32", shape=[rows, columns])
    if priority is not None:
        request.parameters["priority"].int64_param = priority
    return request.SerializeToString()


class Log:
    """Counts what is open; each line is one request that has ended."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", buffering=1)
        self._guard = threading.Condition()
        self._open = 0

    def began(self) -> None:
        """One more is open."""
        with self._guard:
            self._open += 1

    def ended(self, number: int, due_ns: int, sent_ns: int, call: grpc.Future) -> None:
        """Write a call down."""
        done_ns = time.monotonic_ns()
        code, text = call.code().name, call.details() or ""
        right = code != "OK" or _right(call.result(), number)
        self.note(number, due_ns, sent_ns, done_ns, code if right else "WRONG", text[:300])

    def note(self, *line: Any) -> None:
        """Write down a request that has ended."""
        with self._guard:
            self._file.write(json.dumps(line) + "\n")
            self._open -= 1
            self._guard.notify_all()

    def finish(self) -> None:
        """Return when nothing is open."""
        with self._guard:
            self._guard.wait_for(lambda: not self._open, LONGEST_S + 10)


def _right(reply: bytes, number: int) -> bool:
    answer = inference.ModelInferResponse.FromString(reply)
    got = np.frombuffer(answer.raw_output_contents[0], "<f4")
    return answer.id == str(number) and got[0] == 2.0 * number


class Lags:
    """Writes down when this process did not run although it wanted to, as requests must have waited then."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", buffering=1)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._over.set()
        self._thread.join()
        self._file.close()

    def _watch(self) -> None:
        while not self._over.is_set():
            before_ns = time.monotonic_ns()
            time.sleep(LAG_STEP_NS / 1e9)
            late_ns = time.monotonic_ns() - before_ns - LAG_STEP_NS
            if late_ns > LAG_STEP_NS:
                self._file.write(json.dumps([before_ns, late_ns]) + "\n")


class Stream:
    """One call of ModelStreamInfer; the answers are read on a thread of their own."""

    def __init__(self, channel: grpc.Channel, log: Log) -> None:
        self._log = log
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._open: dict[str, tuple[int, int, int]] = {}
        self._call = channel.stream_stream(STREAM)(iter(self._queue.get, None))
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def send(self, number: int, due_ns: int, request: bytes) -> None:
        """Send one message."""
        self._open[str(number)] = number, due_ns, time.monotonic_ns()
        self._queue.put(request)

    def close(self) -> None:
        """End it; what is open is answered first."""
        self._queue.put(None)
        self._reader.join(10)

    def _read(self) -> None:
        for reply in self._call:
            done_ns = time.monotonic_ns()
            answer = inference.ModelStreamInferResponse.FromString(reply)
            number, due_ns, sent_ns = self._open.pop(answer.infer_response.id)
            text = answer.error_message
            right = text or _right(answer.infer_response.SerializeToString(), number)
            code = "ERROR" if text else "OK" if right else "WRONG"
            self._log.note(number, due_ns, sent_ns, done_ns, code, text[:300])


def main() -> None:
    """Send them all."""
    plan: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    channels = [
        # Without a difference in their arguments channels would share one connection.
        grpc.insecure_channel(plan["address"], options=[("batcher.number", number)])
        for number in range(plan["connections"])
    ]
    for channel in channels:
        grpc.channel_ready_future(channel).result(timeout=60)
    log = Log(Path(sys.argv[2]))
    made = [(each, message(each[0], *each[2:5], *each[7:])) for each in plan["requests"]]
    streams = [Stream(channel, log) for channel in channels if plan.get("stream")]
    print("ready", flush=True)
    start_ns = int(sys.stdin.readline())
    lags = Lags(Path(f"{sys.argv[2]}.lags"))
    send(made, start_ns, channels, streams, log)
    log.finish()
    for each in (lags, *streams, *channels):
        each.close()


def send(
    made: list[tuple[list[Any], bytes]],
    start_ns: int,
    channels: list[grpc.Channel],
    streams: list[Stream],
    log: Log,
) -> None:
    """Send each at its moment; connections take turns."""
    calls = [channel.unary_unary(PATH) for channel in channels]
    for place, ((number, at_ns, _, _, _, deadline_s, cancel_s, *_), request) in enumerate(made):
        due_ns = start_ns + at_ns
        time.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
        log.began()
        if streams:
            streams[place % len(streams)].send(number, due_ns, request)
            continue
        sent_ns = time.monotonic_ns()
        call = calls[place % len(calls)].future(request, timeout=deadline_s or LONGEST_S)
        call.add_done_callback(partial(log.ended, number, due_ns, sent_ns))
        if cancel_s is not None:
            threading.Timer(cancel_s, call.cancel).start()


if __name__ == "__main__":
    main()
