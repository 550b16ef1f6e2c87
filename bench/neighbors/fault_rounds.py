"""Neighbors that are killed, suspended, restarted and slow under load, many times."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import machine
import neighbor_faults as faults
import numpy as np
from bars import show
from model_servers import Batcher, KServe, MLServer, ModelServer, TorchServe, Triton

from batcher.testing.server import ServerProcess

NEIGHBORS: dict[str, type[ModelServer]] = {
    "triton": Triton,
    "mlserver": MLServer,
    "batcher": Batcher,
    "torchserve": TorchServe,
    "http": KServe,
}
SHARES = {"triton": 0.5, "mlserver": 0.15, "batcher": 0.15, "torchserve": 0.1, "http": 0.1}
"""Of the rounds. The executor of another batcher's model knows no slow answers."""


TENSORS = {
    "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 16]}],
    "outputs": [
        {"name": "Y", "datatype": "FP32", "shape": [-1, 16]},
        {"name": "BATCH", "datatype": "INT32", "shape": [-1, 1]},
    ],
}
"""What the model `double` takes and gives, for servers that do not say so."""


def executor(name: str, neighbor: Any) -> dict[str, Any]:
    """The executor that sends to the neighbor, and its options."""
    if name == "torchserve":
        urls = {"url": neighbor.grpc, "management_url": neighbor.grpc_management}
        return {"executor": "torchserve", "options": {**urls, **TENSORS}}
    if name == "http":
        url = f"http://{neighbor.http}"
        return {"executor": "http", "options": {"url": url, "protocol": "v1", **TENSORS}}
    return {"executor": "kserve", "options": {"url": neighbor.grpc}}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All rounds; each thing that did not hold is printed."""
    names = options.only or list(NEIGHBORS)
    share = sum(SHARES[name] for name in names)
    found = {name: _neighbor(name, round(options.rounds * SHARES[name] / share)) for name in names}
    machine.save(options.output, {"settings": {"rounds": options.rounds}, **found})
    return found


def _neighbor(name: str, count: int) -> dict[str, Any]:
    kinds = faults.KINDS[:4] if name == "batcher" else faults.KINDS
    statuses: dict[str, Counter[str]] = defaultdict(Counter)
    resumed: dict[str, list[float]] = defaultdict(list)
    latest_s, wrong = 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        make: Any = NEIGHBORS[name]
        with make(Path(folder), base_s=0.002, per_row_s=0.0002) as neighbor:
            model = {
                "name": "double",
                **executor(name, neighbor),
                "max_in_flight": 2,
                "batching": {"target_p99": "200ms"},
            }
            with ServerProcess({"models": [model]}) as front:
                for number, fault in enumerate(faults.rounds(count, kinds)):
                    played = asyncio.run(
                        faults.play(front.grpc, neighbor, fault, first=1000 * number)
                    )
                    for problem in played.wrong():
                        wrong += 1
                        print(f"{name}, round {number}, {fault}: {problem}", flush=True)
                    statuses[fault].update(played.statuses)
                    resumed[fault].append(
                        float("inf") if played.resumed_s is None else played.resumed_s
                    )
                    latest_s = max(latest_s, played.latest_s)
    checks = {f"{name}: {count} rounds with nothing wrong": not wrong}
    show(checks)
    return {
        "rounds": count,
        "ended": {fault: dict(each.most_common()) for fault, each in statuses.items()},
        "resumed_s": {
            fault: {
                "median": round(float(np.median(each)), 3),
                "max": round(max(each), 3),
            }
            for fault, each in resumed.items()
        },
        "past_deadline_s": round(latest_s, 3),
        "wrong": wrong,
        "checks": checks,
    }


def options(commands: Any) -> None:
    """The command line."""
    parser = commands.add_parser("faults", help="rounds of faults under load")
    parser.add_argument("--only", action="append", choices=list(NEIGHBORS))
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--output", type=Path, default=machine.RESULTS / "neighbors-faults.json")
    parser.set_defaults(run=run)
