"""Measure the scheduler in virtual time: `python bench/sim grid`, `python bench/sim overload`, ..."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parents[1]
sys.path.append(str(BENCH))

import ablation  # noqa: E402
import compare  # noqa: E402
import grid  # noqa: E402
import outcomes  # noqa: E402
import scenes  # noqa: E402
import world  # noqa: E402
from bars import exit_code, mark  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import Progress  # noqa: E402

REQUESTS = {
    "speed": 100_000,
    "unknowable": 4_000,
    "compare": 6_000,
    "fleets": 40_000,
    "stalls": 6_000,
    "loops": 6_000,
    "pipelining": 10_000,
    "scale": 12_000,
    "sizes": 4_000,
}
"""Requests of each run, where they are not 30,000."""

SEEDS = {"autoscale": 1, "autoscale_others": 1}
"""Seeds of the scenes that take long, where they are not 5."""

TABLES = (
    "compare",
    "pipelining",
    "bursts",
    "loops",
    "scale",
    "sizes",
    "stalls",
    "recovery",
    "reloads",
    "lost",
)
"""The scenes whose rows have the same figures."""

NOISE = {"grid": 0.0, "unknowable": 0.1}
"""The scenes with random service times, and their spread if `--noise` is not given."""


def _names(known: Collection[str]) -> Callable[[str], list[str]]:
    """A parser of names separated by commas."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r}; allowed: {', '.join(known)}")
        return names

    return read


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python bench/sim", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    top.add_argument(
        "scene", choices=("grid", "outcomes", "ablation", *scenes.names()), help="what to measure"
    )
    top.add_argument("--seeds", type=int, help="arrivals to repeat it on (5; autoscale: 1)")
    few = ", ".join(f"{scene}: {number}" for scene, number in REQUESTS.items())
    top.add_argument("--requests", type=int, help=f"requests of each run (30000; {few})")
    top.add_argument("--steps", type=int, default=8, help="steps of each search for a rate (8)")
    top.add_argument(
        "--profiles", type=_names(world.PROFILES), help="devices of the grid, by comma (all)"
    )
    top.add_argument(
        "--processes", type=_names(world.PROCESSES), help="arrivals of the grid, by comma (all)"
    )
    top.add_argument(
        "--jobs", type=int, default=2, help="processes of the grid and of autoscale (2)"
    )
    top.add_argument(
        "--noise", type=float, help="spread of service times (grid: 0, unknowable: 0.1)"
    )
    top.add_argument("--cold", action="store_true", help="start without a warm-up, these two")
    top.add_argument("--traces", default="traces", help="folder of recorded arrivals, CSV")
    top.add_argument(
        "--plot",
        type=Path,
        default=Path("docs/autoscale.png"),
        help="where the picture of autoscale goes",
    )
    top.add_argument("--output", type=Path, help="where the figures go")
    outcomes.add_options(top)
    compare.add_options(top)
    return top


def shown(value: Any) -> str:
    """A figure as text."""
    if isinstance(value, bool):
        return mark(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_table(found: dict[str, dict[str, Any]]) -> None:
    """Rows with the same figures, each figure a column."""
    names = list(dict.fromkeys(name for row in found.values() for name in row))
    lines = [["", *names]]
    lines += [
        [label, *(shown(row[name]) if name in row else "" for name in names)]
        for label, row in found.items()
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for label, *cells in lines:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        print("  ".join([label.ljust(widths[0]), *padded]))


def print_rows(found: dict[str, Any], console: Console) -> None:
    """Every figure with its name."""
    for label, row in found.items():
        parts = row.items() if isinstance(row, dict) else [("", row)]
        text = "  ".join(
            f"{key} {shown(value)}" for key, value in parts if not isinstance(value, dict)
        )
        if text:
            console.print(f"[bold]{label}[/]  {text}", highlight=False)
        else:
            console.print_json(json.dumps(row))


def main() -> int:
    """Measure, print, write."""
    command_line = parser()
    options = command_line.parse_args()
    options.seeds = options.seeds or SEEDS.get(options.scene, 5)
    if options.scene not in NOISE and (options.noise or options.cold):
        command_line.error(f"--noise and --cold are for {' and '.join(NOISE)}")
    if options.scene == "outcomes":
        return outcomes.run(options)
    if options.save or options.check or options.show:
        command_line.error("--save, --check and --show are for outcomes")
    if options.scene == "ablation":
        return ablation.run(options)
    if options.only:
        command_line.error("--only is for outcomes and ablation")
    options.noise = options.noise or NOISE.get(options.scene, 0.0)
    options.requests = options.requests or REQUESTS.get(options.scene, 30_000)
    options.profiles = options.profiles or list(world.PROFILES)
    options.processes = options.processes or list(world.PROCESSES)
    console = Console()
    # Before the run: that is the code that has been imported.
    settings = world.settings(options)
    if options.scene == "grid":
        with Progress(console=console) as progress:
            task = progress.add_task("cells", total=None)
            found = grid.run(options, lambda total: progress.update(task, total=total, advance=1))
    else:
        found = scenes.SCENES[options.scene](options)
    if options.scene in TABLES:
        print_table(found)
    else:
        print_rows(found, console)
    uneven = options.scene == "grid" and (options.noise or options.cold)
    name = f"sim-{options.scene}" + ("-noise" if uneven else "")
    output = options.output or world.RESULTS / f"{name}.json"
    kept = {"settings": settings, **found}
    output.write_text(json.dumps(kept, indent=2, default=float) + "\n")
    console.print(f"written to {output}")
    return exit_code(found)


if __name__ == "__main__":
    sys.exit(main())
