"""`python bench/load`: load on a running server, and what it says about the server."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import ModuleType

BENCH = Path(__file__).resolve().parents[1]
sys.path.append(str(BENCH))

import agreement  # noqa: E402
import attack  # noqa: E402
import busy  # noqa: E402
import exposition  # noqa: E402
import fleet  # noqa: E402
import isolation  # noqa: E402
import kills  # noqa: E402
import lengths  # noqa: E402
import machine  # noqa: E402
import overhead  # noqa: E402
import pipelining  # noqa: E402
import poisson  # noqa: E402
import prefetch  # noqa: E402
import quiet  # noqa: E402
import reloads  # noqa: E402
import scaler  # noqa: E402
import signals  # noqa: E402
import soak  # noqa: E402
import telemetry  # noqa: E402
import transports  # noqa: E402
import tuning  # noqa: E402
import uvloop  # noqa: E402
from bars import exit_code  # noqa: E402

from batcher.config.units import parse_duration  # noqa: E402

DESCRIPTION = """Put load on the server over real gRPC and measure.

  overhead   closed loop against a model that costs nothing, in turns with a raw echo server:
             the share of gRPC's own throughput that is left after batching, on one core
  telemetry  the same loop with nothing read, all telemetry read each second, and tracing, in turns
  exposition what a scrape of fifty models costs, and for how long it holds up the event loop
  poisson    open loop at a rate: latency from the moment a request was due to be sent, and
             the share that was answered in time
  agreement  the same open loop at several rates, beside `batcher simulate` on the same arrivals
  prefetch   more than the device can serve, with prefetched batches and without: what it
             waits for between two batches
  pipelining more than the device can serve, with batches that are copied in beside others, and
             one after the other: the time of a batch
  transports the same requests by either transport in turns: processor time for each
  tuning     open loop below capacity while settings change, by file and by admin call, beside
             the same arrivals without changes
  reloads    open loop below capacity while the model is loaded again, every second time in vain,
             beside the same arrivals without loads
  isolation  the same model inline, on a thread and in a child process, in turns: latency of one
             caller, throughput of large inputs
  attack     eight attacks: memory, stalls and the latency of other callers before, during, after
  busy       processes that use the server's core: what is refused for that, beside a fixed window
  fleet      servers that come and go by what `batcher scaler` says, beside the simulated fleet;
             one that is killed, one that hangs
  kills      child processes are killed, stopped and crash under load: what ends how, what is left
  signals    every metric beside what is known from the outside, as a real Prometheus reads it; the
             scale signal at loads from 0.3 to 3
  scaler     the external scaler with 200 replicas: its answers and processor time, while replicas
             hang and lie and callers attack it
  soak       mixed load for minutes, with cancels, resets and broken connections: what grows
  lengths    real text of mixed length on all-MiniLM-L6-v2: padding, throughput and p99 with
             buckets and without
"""

EXAMPLES = """examples:
  python bench/load overhead
  python bench/load overhead --rounds 2 --seconds 2 --streams 8
  python bench/load telemetry --rounds 10
  python bench/load exposition
  python bench/load poisson --rate 1350 --target 50ms
  python bench/load agreement --seeds 5
  python bench/load prefetch --rounds 5
  python bench/load pipelining --rounds 5
  python bench/load transports --rate 600
  python bench/load tuning --rounds 3
  python bench/load reloads --rounds 1 --seconds 60 --reloads 30
  python bench/load isolation --rounds 5
  python bench/load fleet --plot fleet.png
  python bench/load attack --only credit --rounds 1
  python bench/load busy --rounds 3
  python bench/load signals --only "levels up"
  python bench/load scaler --seconds 5
  python bench/load soak --seconds 600
  python bench/load lengths --count 5
  python bench/load poisson --rate 400 --address 127.0.0.1:8001 --model hello --seconds 30
"""


def duration(text: str) -> int:
    """Nanoseconds."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"allowed: {error}") from None


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(
        prog="python bench/load",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    formatter = argparse.ArgumentDefaultsHelpFormatter
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--floats", type=int, default=16, help="values in a request")
    shared.add_argument(
        "--connections", type=int, default=4, help="connections that share the load"
    )
    shared.add_argument(
        "--max-batch-size",
        type=int,
        default=32,
        help="rows in the largest batch of the server that is started",
    )
    shared.add_argument(
        "--max-delay",
        default="5ms",
        help="longest wait for company, of the server that is started, where its policy is fixed",
    )
    shared.add_argument(
        "--streams",
        type=int,
        default=0,
        help="send over this many streams; 0: every request is a call",
    )

    closed = commands.add_parser(
        "overhead",
        parents=[shared, transports.option()],
        formatter_class=formatter,
        help="our throughput over the echo server's",
        description=overhead.__doc__,
    )
    closed.add_argument("--rounds", type=int, default=5, help="rounds of each server")
    closed.add_argument("--seconds", type=float, default=4.0, help="length of a round")
    closed.add_argument("--in-flight", type=int, default=256, help="requests open at once")
    closed.add_argument(
        "--output",
        type=Path,
        default=machine.RESULTS / "overhead.json",
        help="where the figures go",
    )
    closed.set_defaults(run=overhead.run, max_batch_size=128, max_delay="10ms")

    opened = commands.add_parser(
        "poisson",
        parents=[shared, quiet.options(), transports.option()],
        formatter_class=formatter,
        help="latency and on-time share at a rate",
        description=poisson.__doc__,
    )
    opened.add_argument(
        "--policy",
        choices=("adaptive", "fixed", "none"),
        default="adaptive",
        help="batching policy of the server that is started",
    )
    opened.add_argument("--rate", type=float, required=True, help="requests a second")
    opened.add_argument(
        "--target", type=duration, default="50ms", help="an answer within this is on time"
    )
    opened.add_argument("--seconds", type=float, default=10.0, help="how long requests are sent")
    opened.add_argument(
        "--warmup", type=float, default=1.0, help="seconds at the start that do not count"
    )
    opened.add_argument(
        "--deadline", type=duration, help="give every call this gRPC deadline; default: none"
    )
    opened.add_argument(
        "--address", help="a running server; default: one is started on its own core"
    )
    opened.add_argument(
        "--model", default="hello", help="the model to ask, which takes X FP32 [-1, FLOATS]"
    )
    opened.add_argument(
        "--base", default="5ms", help="emulated cost of a batch, of the server that is started"
    )
    opened.add_argument("--per-row", default="0.5ms", help="emulated cost of each row")
    opened.add_argument("--seed", type=int, default=0, help="of the arrivals")
    opened.add_argument(
        "--client",
        choices=tuple(poisson.CLIENTS),
        default="http2",
        help="what sends the calls: HTTP/2 as it is, or the gRPC client, which costs more",
    )
    opened.add_argument(
        "--output", type=Path, default=machine.RESULTS / "poisson.json", help="where the figures go"
    )
    opened.set_defaults(run=poisson.run)

    own = transports.option()
    modules: tuple[tuple[ModuleType, str, list[argparse.ArgumentParser]], ...] = (
        (agreement, "the server and the simulator on the same arrivals", [shared, own]),
        (prefetch, "what the device waits for between two batches", [own]),
        (pipelining, "what a device serves that copies one batch and computes another", [own]),
        (telemetry, "what metrics, the live page and tracing cost", [shared, own]),
        (exposition, "size and time of a scrape of many models", []),
        (transports, "processor time of a request with either transport", []),
        (isolation, "what a child process costs beside a thread", []),
        (attack, "what hostile callers take from others, and from the process", [own]),
        (busy, "what a server refuses whose core is busy with others", [own]),
        (reloads, "lost and late requests while the model is loaded again", [own]),
        (fleet, "servers that an autoscaler starts and stops, beside the simulation", []),
        (kills, "what becomes of requests when child processes are killed", []),
        (signals, "what metrics say beside what is true", []),
        (scaler, "answers of the external scaler, and what they cost", []),
        (soak, "memory, descriptors and latency under mixed load", [own]),
    )
    for module, what, parents in modules:
        name = module.__name__
        command = commands.add_parser(
            name,
            parents=[
                *parents,
                *(
                    []
                    if module in {exposition, fleet, scaler, signals, soak, telemetry}
                    else [quiet.options()]
                ),
            ],
            formatter_class=formatter,
            help=what,
            description=module.__doc__,
        )
        module.add_options(command)
        command.set_defaults(run=module.run)

    changed = commands.add_parser(
        "tuning",
        parents=[quiet.options(), transports.option()],
        formatter_class=formatter,
        help="lost, refused and late requests while settings change",
        description=tuning.__doc__,
    )
    changed.add_argument("--load", type=float, default=0.8, help="share of capacity")
    changed.add_argument("--changes", type=int, default=100, help="changes in each run")
    changed.add_argument("--seconds", type=float, default=20.0, help="length of a run")
    changed.add_argument("--rounds", type=int, default=2, help="rounds of both")
    changed.add_argument(
        "--target", type=duration, default="50ms", help="an answer after this is late"
    )
    changed.add_argument(
        "--connections", type=int, default=4, help="connections that share the load"
    )
    changed.add_argument("--seed", type=int, default=0, help="of the arrivals")
    changed.add_argument(
        "--output", type=Path, default=machine.RESULTS / "tuning.json", help="where the figures go"
    )
    changed.set_defaults(run=tuning.run)

    mixed = commands.add_parser(
        "lengths",
        parents=[transports.option()],
        formatter_class=formatter,
        help="padding, with buckets and without",
        description=lengths.__doc__,
    )
    lengths.add_options(mixed)
    mixed.set_defaults(run=lengths.run)
    return top


def main() -> int:
    """Parse and run; 1 where a bar was missed or could not be judged."""
    options = parser().parse_args()
    if getattr(options, "deadline", None) and getattr(options, "streams", 0):
        parser().error("--deadline is for calls; a stream has one for all its requests")
    return exit_code(uvloop.run(options.run(options)))


if __name__ == "__main__":
    sys.exit(main())
