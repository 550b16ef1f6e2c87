"""Measures the executor without a server, in a process of its own: profiles, and ideal batches in a loop.

`python measure.py '{"what": "profile", ...}'` prints one line of JSON. A process of its own gives the
device's memory back when it ends.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from batcher.executor import DTYPES, Array, Batch, LoadContext
from batcher.plugins import find_executor

SETTLE_RUNS: Final = 5
"""Batches before measuring, in which libraries choose their kernels."""
LEAST_RUNS: Final = 5


class Loaded:
    """An executor with a model, and batches of random values for it."""

    def __init__(self, task: Mapping[str, Any]) -> None:
        self._inputs = [(name, DTYPES[kind], tuple(shape)) for name, kind, shape in task["inputs"]]
        self._below = int(task["below"])
        self._rng = np.random.default_rng(1)
        self.executor: Any = find_executor(task["executor"])()
        most = max(task["sizes"])
        sizes = tuple(task["sizes"]) if task["fixed_sizes"] else ()
        began = time.monotonic()
        self.executor.load(
            LoadContext(
                "bench", "1", 0, task["device"], most, task["options"], Path(), batch_sizes=sizes
            )
        )
        self.load_s = time.monotonic() - began

    @property
    def pipelines(self) -> bool:
        """Whether batches can be submitted and collected."""
        return hasattr(self.executor, "submit")

    def batch(self, rows: int, *, pinned: bool = True) -> Batch:
        """A batch of random values, in the executor's own memory if it gives any."""
        arrays = {}
        for name, dtype, shape in self._inputs:
            values = self._rng.integers(0, self._below, (rows, *shape)).astype(dtype)
            if name == "mask":
                values[:] = 1
            arrays[name] = self._place(name, values) if pinned else values
        return Batch(arrays, rows)

    def _place(self, name: str, values: Array) -> Array:
        if not hasattr(self.executor, "allocate"):
            return values
        array: Array = self.executor.allocate(name, values.shape, values.dtype)
        array[:] = values
        return array


def profile(task: Mapping[str, Any]) -> dict[str, Any]:
    """Milliseconds of a batch of each size, copies included: the median, and the 95th percentile."""
    loaded = Loaded(task)
    sizes = {}
    for rows in task["sizes"]:
        batch = loaded.batch(rows)
        run = loaded.executor.execute
        for _ in range(SETTLE_RUNS):
            run(batch)
        took = _timed(lambda run=run, batch=batch: run(batch), float(task["seconds"]))
        cuts = statistics.quantiles(took, n=20, method="inclusive")
        sizes[str(rows)] = {
            "p50_ms": statistics.median(took) * 1e3,
            "p95_ms": cuts[-1] * 1e3,
            "runs": len(took),
        }
    return {"load_s": loaded.load_s, "sizes": sizes}


def _timed(run: Callable[[], object], seconds: float) -> list[float]:
    took: list[float] = []
    end = time.perf_counter() + seconds
    while len(took) < LEAST_RUNS or time.perf_counter() < end:
        began = time.perf_counter()
        run()
        took.append(time.perf_counter() - began)
    return took


def loop(task: Mapping[str, Any]) -> dict[str, Any]:
    """Rows a second of the largest batch, one after the other without a pause.

    `plain` executes batches in ordinary memory, `pinned` in the executor's; `pipelined` copies the
    next batch while one computes, as the server does.
    """
    loaded, rows = Loaded(task), max(task["sizes"])
    found = {"plain": _rate(loaded, [loaded.batch(rows, pinned=False)], task)}
    if loaded.pipelines:
        batches = [loaded.batch(rows), loaded.batch(rows)]
        found["pinned"] = _rate(loaded, batches, task)
        found["pipelined"] = _rate(loaded, batches, task, pipelined=True)
    return {"rows": rows, "rows_per_s": found}


def _rate(
    loaded: Loaded, batches: list[Batch], task: Mapping[str, Any], *, pipelined: bool = False
) -> float:
    executor, rows = loaded.executor, batches[0].rows
    for _ in range(SETTLE_RUNS):
        executor.execute(batches[0])
    done, running = 0, None
    began = time.perf_counter()
    while done < LEAST_RUNS or time.perf_counter() < began + float(task["seconds"]):
        batch = batches[done % len(batches)]
        if not pipelined:
            executor.execute(batch)
        else:
            following = executor.submit(batch)
            if running is not None:
                executor.collect(running)
            running = following
        done += 1
    if running is not None:
        executor.collect(running)
    return done * rows / (time.perf_counter() - began)


def main() -> None:
    """Do one task."""
    task = json.loads(sys.argv[1])
    print(json.dumps({"profile": profile, "loop": loop}[task["what"]](task)))


if __name__ == "__main__":
    main()
