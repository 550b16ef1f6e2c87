"""A fleet for real: servers behind gRPC's round robin, started and stopped by the HorizontalPodAutoscaler's algorithm.

It goes by what `batcher scaler` answers. The load is an open loop and steps up and down again; then one replica is
killed and one hangs; then all are replaced, one by one, by clients and servers of several settings. The servers have addresses 127.0.0.1, 127.0.0.2, ... under one name, for which a name server on
loopback answers, as that of Kubernetes does for a headless service. Clients are gRPC's own, as docs/load-balancing.md
says. The simulated fleet gets the same arrivals, the same autoscaler, and the times to start and drain that were
measured. What is on time is judged on all requests; beside it stands the same without those that met a slow spell of
the machine (`spells`), or are due where the callers themselves got no processor.

It takes the rights of root: for port 53, and to give the scaler an `/etc/resolv.conf` of its own.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import bars
import machine
import spells

from fleet import compare, faults, picture, real, rollouts
from fleet.scaler import why_not
from fleet.scene import TARGET_NS, Scene

SCENES = ("steps", "faults", "rollouts")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--only", choices=SCENES, help="one of the scenes; default: all")
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
    parser.add_argument("--plot", type=Path, help="where a picture of the steps goes")


def scene_of(options: argparse.Namespace) -> Scene:
    """The scene that was asked for."""
    rates, seconds = tuple(options.rates), tuple(options.seconds)
    return Scene(rates, seconds, options.replicas, options.most, options.seed)


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """The scenes, the first one beside its simulation."""
    if why := why_not():
        sys.exit(f"the scaler cannot be given a name server of its own here: {why}")
    gc.freeze()
    result = _kept(options)
    if options.only in (None, "steps"):
        result["steps"] = found = await _steps(options)
        unkept = ("run", "only", "output", "plot", "command")
        found["settings"] = {k: v for k, v in vars(options).items() if k not in unkept}
        shown = ("real", "simulated", "replica_seconds_ratio", "measured_seconds", "settled")
        for name in shown:
            print(f"{name:22}{found[name]}", flush=True)
        bars.show(found["checks"])
        if options.plot:
            picture.draw(found, options.plot)
    if options.only in (None, "faults"):
        with tempfile.TemporaryDirectory() as folder:
            played = await real.play(faults.SCENE, Path(folder), events=faults.EVENTS)
        result["faults"] = found = faults.judged(played)
        for name, told in found["faults"].items():
            print(f"{name:22}{told}")
        bars.show(found["checks"])
    if options.only in (None, "rollouts"):
        result["rollouts"] = found = await rollouts.run()
        for name, told in found.items():
            print(f"{name:34}{told}")
        found["recommended"]["checks"] = {
            "a rollout loses nothing": not found["recommended"]["not_answered"]
        }
        bars.show(found["recommended"]["checks"])
    machine.save(options.output, result)
    return result


def _kept(options: argparse.Namespace) -> dict[str, Any]:
    """What the file has of the scenes that are not played."""
    if options.only is None or not options.output.exists():
        return {}
    before = json.loads(options.output.read_text(encoding="utf-8"))
    return {name: before[name] for name in SCENES if name in before and name != options.only}


async def _steps(options: argparse.Namespace) -> dict[str, Any]:
    scene = scene_of(options)
    cores = dict(zip(("first", "last"), machine.cores(), strict=True))
    with tempfile.TemporaryDirectory() as folder, spells.Spells(cores) as slow:
        found = await real.play(scene, Path(folder), channels=options.channels)
    calm = slow.calm(found.record.began_ns, found.due_ns, TARGET_NS) & compare.callers_calm(found)
    judged = compare.judged(scene, found, compare.measured(found), calm)
    return judged | {"slow": slow.shares, "load_average": os.getloadavg()}
