"""`python bench/peers`: this server beside others, each with the same model, load and cores."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parents[1]
ROOT = BENCH.parent
sys.path[1:1] = [str(BENCH / "load"), str(BENCH), str(ROOT / "tools")]

import environments  # noqa: E402
import machine  # noqa: E402
import table  # noqa: E402
import uvloop  # noqa: E402
from emulated import CAPACITY, TARGET_MS  # noqa: E402
from measure import SAME_RATE, installed, measure  # noqa: E402
from processes import NotStartedError, adopt_orphans  # noqa: E402
from servers import SERVERS, Server  # noqa: E402
from trial import Durations  # noqa: E402

RESULTS = machine.RESULTS / "peers.json"
PICTURE = ROOT / "docs" / "peers.png"
PAGES = (
    (ROOT / "README.md", "peers", table.short),
    (ROOT / "docs" / "benchmarks.md", "peers", table.with_picture),
    (ROOT / "docs" / "benchmarks.md", "peers-settings", table.long),
)

DESCRIPTION = """Measure this server beside Triton, TorchServe, MLServer, Ray Serve, BentoML and
LitServe: the same emulated device, the same load, one core for the server and one for the load.
Each is installed into an environment of its own (tools/environments.py), its settings are tried
as its documentation advises, and the best are kept. A full run takes 20 to 25 minutes, and more
the first time, when the others are downloaded."""

QUICK = Durations(
    warm=1.0, sweep=0.8, tune=20.0, search=15.0, same=2.0, final=1.0, tries=2, repeats=1
)


def main() -> int:
    """Measure, or show what was measured; the exit code."""
    names = [server.name for server in SERVERS]
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    parser.add_argument(
        "--only", action="append", choices=names, metavar="NAME", help=", ".join(names)
    )
    parser.add_argument(
        "--quick", action="store_true", help="short rounds: to see whether all runs"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help=f"the file of results; of a whole run {RESULTS}, else none",
    )
    parser.add_argument(
        "--show", action="store_true", help=f"print the tables of {RESULTS}, no more"
    )
    parser.add_argument(
        "--pages",
        action="store_true",
        help="put the tables and the picture of that file into README.md and docs/, no more",
    )
    options = parser.parse_args()
    if options.show or options.pages:
        return show(json.loads(RESULTS.read_text(encoding="utf-8")), pages=options.pages)
    chosen = [server for server in SERVERS if server.name in (options.only or names)]
    output = options.output or (None if options.only or options.quick else RESULTS)
    try:
        pythons = {server.name: python_of(server) for server in chosen}  # before the clock starts
        results = uvloop.run(run(chosen, pythons, QUICK if options.quick else Durations()))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("stopped; so are the servers", file=sys.stderr)
        return 130
    print(f"\n{results['minutes']} minutes\n\n{table.short(results)}\n\n{table.long(results)}\n")
    if output:
        machine.save(output, results)
    return int(any("why" in found for found in results["servers"].values()))


def show(results: dict[str, Any], *, pages: bool) -> int:
    """Print the tables, or put them where they belong."""
    if not pages:
        print(f"{table.short(results)}\n\n{table.long(results)}")
        return 0
    for page, name, text in PAGES:
        table.into(page, name, text(results))
        print(f"written to {page}")
    table.picture(results, PICTURE)
    print(f"written to {PICTURE}")
    return 0


async def run(
    chosen: list[Server], pythons: dict[str, Path | str], durations: Durations
) -> dict[str, Any]:
    """Measure one server after the other, each with its Python, or why it has none."""
    task = asyncio.current_task()
    assert task is not None
    for signum in (signal.SIGINT, signal.SIGTERM):  # also where a shell lets it ignore the first
        asyncio.get_running_loop().add_signal_handler(signum, task.cancel)
    adopt_orphans()
    server_core, load_core = machine.cores()
    machine.stay_on(load_core)
    began = time.monotonic()
    found = {}
    for server in chosen:
        print(f"{server.title} ...", flush=True)
        row: dict[str, Any] = {"title": server.title, "transport": server.transport}
        python = pythons[server.name]
        if isinstance(python, Path):
            row["package"] = f"{server.package} {installed(python, server.package)}"
            row["version"] = version_of(server, python)
            row |= await one(server, python, server_core, durations)
        else:
            row |= {"version": "", "why": python}
        found[server.name] = row
        print(f"  {summary(row)}", flush=True)
    minutes = (time.monotonic() - began) / 60
    return {
        "servers": found,
        "device_limit": round(CAPACITY, 1),
        "target_ms": TARGET_MS,
        "same_rate": SAME_RATE,
        "cores": {"server": server_core, "load": load_core},
        "durations": {name: getattr(durations, name) for name in Durations.__slots__},
        "minutes": round(minutes, 1),
        "date": time.strftime("%Y-%m-%d"),
    }


async def one(server: Server, python: Path, core: int, durations: Durations) -> dict[str, Any]:
    """A server's figures, or `why` there are none."""
    gc.collect()
    gc.freeze()
    gc.disable()  # a collection in the middle would be measured as the server's latency
    try:
        async with asyncio.timeout(durations.most):
            return await measure(server, python, core, durations)
    except TimeoutError:
        return {"why": f"it took more than {durations.most:g} s"}
    except NotStartedError as error:
        return {"why": str(error)}
    except Exception as error:  # noqa: BLE001 - the figures of the others are not lost for it
        return {"why": f"the benchmark failed: {error!r}"}
    finally:
        gc.enable()
        gc.unfreeze()


def python_of(server: Server) -> Path | str:
    """Its environment's Python, which is made where it is missing, or why it cannot be."""
    if server.environment is None:
        return Path(sys.executable)
    try:
        return environments.interpreter(server.environment)
    except environments.CannotMakeError as error:
        return str(error)


def version_of(server: Server, python: Path) -> str:
    """As in the tables; of this project the commit, too."""
    found = installed(python, server.package)
    if server.environment is not None:
        return found
    with contextlib.suppress(OSError):
        done = subprocess.run(
            ["git", "-C", ROOT, "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
        if not done.returncode:
            return f"{found} ({done.stdout.strip()})"
    return found


def summary(row: dict[str, Any]) -> str:
    """One line while it runs."""
    if "why" in row:
        return f"not measured: {row['why']}"
    each = ", ".join(f"{rate:.0f}" for rate in row["highest_each"])
    over, same = row["overload"], row["at_same_rate"]
    return (
        f"{row['highest']:.0f} a second ({each}) with {row['settings']}; p99 at {SAME_RATE:g}:"
        f" {same['latency_ms'].get('p99', float('nan')):.1f} ms; under 1.5 times"
        f" {over['in_time_a_second']:.0f}; {row['seconds']['in_all']} s"
    )


if __name__ == "__main__":
    sys.exit(main())
