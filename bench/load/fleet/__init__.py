"""A fleet for real: servers behind gRPC's round robin, started and stopped by the HorizontalPodAutoscaler's algorithm.

The load steps up and down again, open loop. The servers have addresses 127.0.0.1, 127.0.0.2, ... under one name,
which a name server on loopback answers for, as the one of Kubernetes does for a headless service. Clients are gRPC's
own, with its round robin, its health checks, and the retry policy of docs/load-balancing.md. The simulated fleet gets
the same arrivals, the same autoscaler, and the start-up and drain times that were measured.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import tempfile
from pathlib import Path

import bars
import machine
from fleet import compare, picture, real
from fleet.scene import Scene


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[70, 280, 70], help="requests a second, by phase"
    )
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=[30, 60, 60], help="how long each phase is"
    )
    parser.add_argument("--replicas", type=int, default=2, help="ready at the start")
    parser.add_argument("--most", type=int, default=6, help="replicas at most")
    parser.add_argument("--channels", type=int, default=1, help="channels of the callers")
    parser.add_argument("--seed", type=int, default=0, help="of the arrivals")
    parser.add_argument(
        "--output", type=Path, default=machine.RESULTS / "fleet.json", help="where figures go"
    )
    parser.add_argument("--plot", type=Path, help="where a picture of the run goes")


def scene_of(options: argparse.Namespace) -> Scene:
    """The scene that was asked for."""
    rates, seconds = tuple(options.rates), tuple(options.seconds)
    return Scene(rates, seconds, options.replicas, options.most, options.seed)


async def run(options: argparse.Namespace) -> dict[str, object]:
    """One run, beside its simulation."""
    scene = scene_of(options)
    gc.freeze()
    with tempfile.TemporaryDirectory() as folder:
        found = await real.play(scene, Path(folder), channels=options.channels)
    result = compare.judged(scene, found, compare.measured(found))
    for name in ("real", "simulated"):
        print(name, result[name])
    print("measured", result["measured_seconds"], "settled", result["settled"])
    bars.show(result["checks"])
    shown = {k: v for k, v in vars(options).items() if k not in ("run", "output", "plot", "command")}
    machine.save(options.output, {"settings": shown, **result})
    if options.plot:
        picture.draw(result, options.plot)
    return result


__all__ = ["add_options", "asyncio", "run"]
