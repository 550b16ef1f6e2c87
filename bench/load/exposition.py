"""What a scrape of many models costs: its size, its processor time, and for how long it holds up the event loop.

The server runs in this process, and its metrics are written as for a scrape, by the same code. Times are processor
time of the thread, of each piece the least of all rounds: others on the machine only ever add to them. The event loop
is held for one piece at most when the time of a slice is over.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from pathlib import Path
from typing import Any

import bars
import machine
import numpy as np

from batcher.app import Application, running
from batcher.config import parse_config
from batcher.process import GC_THRESHOLD
from batcher.runtime.request import InferenceRequest
from batcher.tensors import Tensor
from batcher.web.exposition import SLICE_S, pieces

ACCEPT = {"text": "", "OpenMetrics": "application/openmetrics-text; version=1.0.0"}
HOLD_BAR_MS = 1.0
"""The longest time for which a scrape may hold the event loop."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--models", type=int, default=50, help="models of the server")
    parser.add_argument("--rounds", type=int, default=30, help="scrapes in each format")
    parser.add_argument(
        "--output",
        type=Path,
        default=machine.RESULTS / "exposition.json",
        help="where the figures go",
    )


def document(models: int) -> dict[str, Any]:
    """Models on four devices, two instances each, with tenants, and Triton's names."""
    common = {
        "executor": "emulated",
        "options": {"columns": 4, "base": "0ms"},
        "instances": 2,
        "batching": {"target_p99": "50ms"},
        "queue": {"tenants": {"gold": 2}},
        "warmup": {"batch_sizes": []},
    }
    return {
        "server": {"grpc": ["127.0.0.1:0"], "http": "127.0.0.1:0"},
        "metrics": {"triton_names": True},
        "models": [
            common | {"name": f"model-{number}", "device": f"gpu{number % 4}"}
            for number in range(models)
        ],
    }


def measure(application: Application, accept: str, rounds: int) -> dict[str, float]:
    """The least of all rounds; a piece is what is written between two looks at the clock."""
    least: dict[tuple[bytes, int], float] = {}
    text: list[bytes] = []
    for _ in range(rounds):
        text = []
        place = (b"", 0)
        began_s = time.thread_time()
        for piece in pieces(application.registry, accept):
            took_s = time.thread_time() - began_s
            if piece.startswith(b"# HELP"):
                place = (piece.split(b" ", 3)[2], 0)
            least[place] = min(least.get(place, took_s), took_s)
            # An empty piece comes when a family is counted, before it is written.
            place = (place[0] if piece else place[0] + b" and the next", place[1] + 1)
            text.append(piece)
            began_s = time.thread_time()
    written = b"".join(text)
    return {
        "bytes": len(written),
        "series": sum(not line.startswith(b"#") for line in written.splitlines()),
        "cpu_ms": round(1e3 * sum(least.values()), 2),
        "longest_ms": round(1e3 * (max(least.values()) + SLICE_S), 3),
    }


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Both formats; returns what is kept."""
    config = parse_config(json.dumps(document(options.models)), "exposition", {})
    async with running(config) as application:
        # As the server's process does it: what was loaded is left alone.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        for model in config.models:
            inputs = {"X": Tensor("FP32", np.ones((1, 4), np.float32))}
            await application.batcher.infer(
                InferenceRequest(model.name, inputs, time.monotonic_ns())
            )
        found: dict[str, Any] = {
            name: measure(application, accept, options.rounds) for name, accept in ACCEPT.items()
        }
    for name, each in found.items():
        print(
            f"{name:12}{each['bytes']:10,} bytes{each['series']:8,} series"
            f"{each['cpu_ms']:8.1f} ms{each['longest_ms']:8.2f} ms at once"
        )
    worst = max(each["longest_ms"] for each in found.values())
    checks = {f"the event loop is held for {HOLD_BAR_MS:g} ms at most": worst <= HOLD_BAR_MS}
    bars.show(checks)
    found |= {"checks": checks, "settings": {"models": options.models, "rounds": options.rounds}}
    machine.save(options.output, found)
    return found
