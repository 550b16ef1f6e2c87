"""Servers that are measured in turns on one core, with the same arrivals in each round."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import machine
import quiet

from batcher.testing.server import ServerProcess

Rounds: TypeAlias = dict[str, list[dict[str, Any]]]
Measure: TypeAlias = Callable[
    [ServerProcess, int, argparse.Namespace, dict[str, int]], Awaitable[dict[str, Any]]
]


def add_options(parser: argparse.ArgumentParser, name: str, rounds: int, seconds: float) -> None:
    """The options of such a benchmark; its figures go to the file of that name."""
    parser.add_argument("--rounds", type=int, default=rounds, help="rounds of both servers")
    parser.add_argument("--seconds", type=float, default=seconds, help="length of a run")
    parser.add_argument(
        "--connections", type=int, default=4, help="connections that share the load"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=machine.RESULTS / f"{name}.json",
        help="where the figures go",
    )


async def play(
    servers: Mapping[str, AbstractContextManager[ServerProcess]],
    measure: Measure,
    options: argparse.Namespace,
    line: Callable[[dict[str, Any]], str],
) -> Rounds:
    """Every round of each server, in an order that changes; `line` formats one."""
    server_core, load_core = machine.cores()
    cores = {"server": server_core, "load": load_core}
    machine.stay_on(load_core)
    rounds: Rounds = {name: [] for name in servers}
    with ExitStack() as stack:
        with machine.children_on(server_core):
            running = {name: stack.enter_context(server) for name, server in servers.items()}
        for turn in range(options.rounds):
            for name in running if turn % 2 == 0 else reversed(running):
                once = partial(measure, running[name], turn, options, cores)
                done = (await quiet.until_quiet(once, options.repeats))[-1]
                rounds[name].append(done)
                print(f"round {turn + 1:2}  {name:10}  {line(done)}", flush=True)
    return rounds


def medians(
    rounds: Rounds, figures: Sequence[str], line: Callable[[dict[str, Any]], str]
) -> dict[str, Any]:
    """The median of each figure by server, printed and returned."""
    found: dict[str, Any] = {
        name: {figure: median(each[figure] for each in runs) for figure in figures}
        for name, runs in rounds.items()
    }
    for name, middle in found.items():
        print(f"median    {name:10}  {line(middle)}")
    return found
