"""The simulator beside a real server: it learns the server's own times and replays its arrivals."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import spells
from emulated import TARGET_MS, Grown
from poisson import Mask, percentiles

from batcher.clock import MILLISECOND
from batcher.config import load_config
from batcher.core.commands import Outcome
from batcher.simulation.engine.scenario import Costs, deployment_of, models_of
from batcher.simulation.engine.service_time import parse_timer_delay
from batcher.simulation.engine.simulation import OUTCOMES, Conditions, Run, generator, simulate
from batcher.simulation.policies.named import parse_policy
from batcher.simulation.traffic.workload import Traffic, Workload

TIMER_DELAY = "80us"
"""How late the server's timer fires."""

OVERHEADS_MS, FITTINGS = (-1.0, 4.0), 10
"""The range in which the server's overhead of a batch is searched, and the number of bisections."""

Stalls: TypeAlias = Mapping[str, list[spells.Spell]]
"""When the `server`'s core, and when `any` core, is taken to have done nothing."""


class Warmup:
    """A warm-up's arrivals, and by how much the server's figures grew in its middle part."""

    def __init__(
        self, grown: Grown, due_ns: list[int], window_ns: tuple[int, int], stalls: Stalls
    ) -> None:
        self.grown, self.due_ns, self.stalls = grown, due_ns, stalls
        self.from_ns, self.until_ns = window_ns
        """When that was, counted as `due_ns` is."""


class Simulator:
    """What `batcher simulate` runs of the same configuration, with service times of this machine."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        file = folder / "config.yaml"
        file.write_text(json.dumps(config))
        profile = folder / "profile.json"
        _batcher("profile", str(file), "-o", str(profile))
        sizes = json.loads(profile.read_text())["models"][0]["sizes"]
        self._config = load_config(file)
        self._idle_ms = {int(rows): size["p50"] for rows, size in sizes.items()}
        self.overhead_ms = self.batch_gap_ms = self.reply_ms = 0.0

    def learn(self, single: Grown, half: Grown, full: Warmup) -> None:
        """Take from a server's metrics under three loads what the profile does not show.

        Under overload the device is never idle. What a batch takes longer then than in the profile is
        the server's overhead, and the machine's in its slow spells. The simulated server pauses in the
        same spells, so the overhead is the value that makes its batches take as long. At half load a
        batch goes to an idle instance and its end comes back, while the server handles other requests:
        that is the gap. The profile contains a part of it, which single requests show. Answers are sent
        one after the other, which takes a little for each.
        """
        batches = full.grown("batcher_batch_rows_count")
        rows = full.grown("batcher_batch_rows_sum") / batches
        longer_ms = self._longer_ms(1e3 * full.grown.seconds / batches, rows)
        # Half of a batch's answers leave before the one in the middle.
        self.reply_ms = full.grown.stage_ms("reply") * 2 / (rows + 1)
        way_ms = half.stage_ms("gather") + half.stage_ms("scatter")
        contained_ms = self._idle_ms[1] - single.stage_ms("execute")
        least_ms, most_ms = OVERHEADS_MS
        for _ in range(FITTINGS):
            self.overhead_ms = (least_ms + most_ms) / 2
            self.batch_gap_ms = max(0.0, way_ms - contained_ms - self.overhead_ms)
            run = self.replay(full.due_ns, full.stalls)
            inside = (full.from_ns <= run.settled_ns) & (run.settled_ns < full.until_ns)
            ended = run.batch_rows[inside & (run.outcome == OUTCOMES.index(Outcome.OK))]
            # Each of a batch's rows is a part of it.
            simulated = float((1 / ended).sum())
            batch_ms = (full.until_ns - full.from_ns) / MILLISECOND / max(simulated, 1.0)
            rows = len(ended) / max(simulated, 1.0)
            if len(ended) and self._longer_ms(batch_ms, rows) < longer_ms:
                least_ms = self.overhead_ms
            else:
                most_ms = self.overhead_ms

    @property
    def learned(self) -> dict[str, float]:
        """What `learn` found, in milliseconds."""
        return {
            "overhead_ms": self.overhead_ms,
            "batch_gap_ms": self.batch_gap_ms,
            "reply_ms": self.reply_ms,
        }

    def _longer_ms(self, batch_ms: float, rows: float) -> float:
        """What a batch of so many rows takes beyond the profile."""
        sizes = sorted(self._idle_ms)
        return batch_ms - float(np.interp(rows, sizes, [self._idle_ms[size] for size in sizes]))

    def replay(self, due_ns: list[int], stalls: Stalls) -> Run:
        """Simulate these arrivals; request n of the run is the n-th of them.

        `stalls` are when the core of the `server` was slow, and when `any` was: the server pauses
        in the former, and requests that are due in the latter arrive at its end.
        """
        models = models_of(self._config, None)
        took = {
            rows: round((took_ms + self.overhead_ms) * MILLISECOND)
            for rows, took_ms in self._idle_ms.items()
        }
        conditions = Conditions(
            timer_delay=parse_timer_delay(TIMER_DELAY),
            reply_ns=round(self.reply_ms * MILLISECOND),
            batch_gap_ns=round(self.batch_gap_ms * MILLISECOND),
            pauses=tuple(stalls["server"]),
        )
        comes_ns = np.array(due_ns)
        for begin, end in stalls["any"]:
            comes_ns[(begin <= comes_ns) & (comes_ns < end)] = end
        arrivals = Workload.of(comes_ns, Traffic(models), generator(0, "traffic"))
        deployment = deployment_of(self._config, models, Costs({"": took}))
        return simulate(deployment, parse_policy("configured"), arrivals, conditions)


def simulated_figures(run: Run, due_ns: list[int], among: Mask) -> dict[str, Any]:
    """The simulated figures of some requests, named as those of a real run are."""
    answered = among & (run.outcome == OUTCOMES.index(Outcome.OK))
    latency_ms = (run.settled_ns - np.array(due_ns))[answered] / MILLISECOND
    return {
        "requests": int(np.count_nonzero(among)),
        "answered": len(latency_ms),
        "on_time": int(np.count_nonzero(latency_ms <= TARGET_MS)),
        "latency_ms": percentiles(latency_ms),
    }


def _batcher(*arguments: str) -> str:
    command = [sys.executable, "-m", "batcher", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
