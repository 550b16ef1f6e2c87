"""A picture of a run: replicas, load and lateness over time, real and simulated on top of each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

REAL, SIMULATED = "#1f6fb4", "#f2a541"


def draw(result: dict[str, Any], file: Path) -> None:
    """Draw it."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - no figure needs it

    figure = Figure(figsize=(11, 7.5), layout="constrained")
    load, replicas, lateness = figure.subplots(3, 1, sharex=True)
    both = result["seconds"]
    moments = range(len(both["real"]["due"]))
    load.step(moments, both["real"]["due"], where="post", color="black", linewidth=1, label="due")
    for name, color in (("real", REAL), ("simulated", SIMULATED)):
        seconds = both[name]
        load.step(
            moments,
            seconds["on_time"],
            where="post",
            color=color,
            label=f"of these on time, {name}",
        )
        replicas.step(moments, seconds["replicas"], where="post", color=color, label=name)
        lateness.plot(moments, seconds["p95_ms"], color=color, label=name)
    lateness.axhline(200, color="black", linewidth=1, linestyle="--")
    lateness.set_yscale("log")
    lateness.yaxis.set_major_formatter(lambda ms, _: f"{ms:,.0f}")
    load.set_ylabel("requests in a second")
    replicas.set_ylabel("replicas, those that\nstart and drain included")
    lateness.set_ylabel("p95 of the second, ms\n(dashed: the target)")
    lateness.set_xlabel("seconds")
    replicas.set_ylim(bottom=0)
    for axes in (load, replicas, lateness):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, loc="upper right")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
