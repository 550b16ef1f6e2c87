"""Embeds the lines of a text file through the sidecar, and shows what batching is worth.

Builds the model if it is not there, starts the sidecar with `examples/minilm.yaml`, sends every line
as a request with many in flight, and prints nearest lines, the batches that formed, and throughput
and latency with and without batching. At the end it replays its own event log with another setting.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import compare
import document
import grpc
import model
import report
import tokens
from client import Client, request_for
from options import Options, read_options
from replaying import LOAD, PICTURE, SETTING, Log, ReplayError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from sidecar import Sidecar, SidecarError
from weights import WeightsMissingError

CONFIG = Path(__file__).parents[1] / "minilm.yaml"

_ALONE_SHARE = 0.25
"""The time to measure a single caller, as a share of the time for many."""
OPEN_S = 6.0
"""Seconds of the requests at random times."""
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Demo:
    """The steps of the demo, in the order of its output."""

    def __init__(self, options: Options, console: Console) -> None:
        self._options = options
        self._console = console

    def run(self) -> None:
        """Run all steps. Raises the errors of the modules that it uses."""
        options, console = self._options, self._console
        found = document.read(options.file, options.lines)
        model.ensure(say=console.print)
        console.print(f"server: starting batcher on {_shown(CONFIG)} ...")
        with Sidecar(CONFIG) as sidecar:
            console.print(f"server: ready; live metrics while this runs: {sidecar.metrics}")
            log = Log(sidecar.log_folder)
            try:
                asyncio.run(self._talk(sidecar, found, log))
            except grpc.aio.AioRpcError as error:
                detail = f"{error.code().name}: {error.details()}"
                raise SidecarError(f"a request failed, {detail}\n{sidecar.log()}") from None
            self._replay(sidecar, log)
        self._describe_next_steps()

    async def _talk(self, sidecar: Sidecar, found: document.Document, log: Log) -> None:
        queries = self._options.queries or found.queries()
        encoded = tokens.encode([*found.lines, *queries])
        self._describe_input(found, encoded[: len(found.lines)])
        with _cancelled_by_signals():
            await self._show(sidecar, found, queries, encoded, log)

    async def _show(
        self,
        sidecar: Sidecar,
        found: document.Document,
        queries: list[str],
        encoded: list[tokens.Encoded],
        log: Log,
    ) -> None:
        lines = encoded[: len(found.lines)]
        async with Client(sidecar.grpc) as client:
            with self._progress("{task.completed}/{task.total}") as progress:
                task = progress.add_task("embedding", total=len(encoded))
                vectors = await client.embed(
                    compare.MODELS["batching"],
                    encoded,
                    self._options.concurrency,
                    lambda: progress.advance(task),
                )
            self._heading("Nearest lines (cosine of the embeddings)")
            self._console.print(
                report.nearest(queries, vectors[len(lines) :], found.lines, vectors[: len(lines)])
            )
            throughput = await self._compare(client, sidecar, lines)
            await self._arrive(client, lines, LOAD * throughput, log)

    async def _compare(
        self, client: Client, sidecar: Sidecar, lines: list[tokens.Encoded]
    ) -> float:
        many, seconds = self._options.concurrency, self._options.seconds
        self._heading(f"With and without batching, {seconds:g} s each, taking turns")
        batched, unbatched = await self._take_turns(client, lines, many, seconds)
        rows = [batched, unbatched]
        if many > 1:
            rows += await self._take_turns(client, lines, 1, seconds * _ALONE_SHARE)
        self._console.print(report.comparison(rows))
        ratio = batched.measurement.throughput / unbatched.measurement.throughput
        self._console.print(
            f"\nWith {many} in flight, batching answers {ratio:.2f} times as many sentences a"
            " second. The loop is closed: each caller sends its next sentence when it has its"
            " answer, so a latency includes the wait behind the other callers, and the load never"
            f" exceeds what the server takes. Client and server share {os.cpu_count()} CPUs with"
            " whatever else runs here."
        )
        self._heading(f"Batches that formed with {many} in flight")
        self._console.print(report.batch_sizes(batched.batches))
        padding = await asyncio.to_thread(sidecar.padding, compare.MODELS["batching"])
        self._console.print(f"{padding:.0%} of the tokens in all batches so far was padding")
        return batched.measurement.throughput

    async def _arrive(
        self, client: Client, lines: list[tokens.Encoded], rate: float, log: Log
    ) -> None:
        """Send requests at random times, for the event log that is replayed."""
        self._heading(f"{rate:.0f} sentences a second at random times, for {OPEN_S:g} s")
        model = compare.MODELS["batching"]
        requests = itertools.cycle([request_for(model, line) for line in lines])
        log.begin()
        with self._progress("{task.completed} sentences") as progress:
            task = progress.add_task("arriving", total=None)
            await client.arrive(requests, rate, OPEN_S, lambda: progress.advance(task))

    def _replay(self, sidecar: Sidecar, log: Log) -> None:
        """Replay the last requests as they were and with another setting."""
        sidecar.stop()
        self._heading(f"The event log of these requests, replayed as it was and with {SETTING}")
        self._console.print(log.replay(compare.MODELS["batching"]))
        self._console.print(f"\nBoth latency curves are in {_shown(PICTURE)}.")

    async def _take_turns(
        self, client: Client, lines: list[tokens.Encoded], in_flight: int, seconds: float
    ) -> list[report.Row]:
        with self._progress("{task.completed} sentences") as progress:
            tasks = {
                name: progress.add_task(f"{name}, {in_flight} in flight", total=None)
                for name in compare.MODELS
            }
            return await compare.take_turns(
                client, lines, in_flight, seconds, lambda name: progress.advance(tasks[name])
            )

    def _progress(self, count: str) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn(count))
        return Progress(*columns, TimeElapsedColumn(), console=self._console)

    def _describe_input(self, found: document.Document, lines: list[tokens.Encoded]) -> None:
        lengths = [line.length for line in lines]
        self._console.print(f"text: {len(lines)} distinct lines of {_shown(found.path)}")
        if found.left_out:
            self._console.print(
                f"text: {found.left_out} more lines are left out (--lines takes more)"
            )
        self._console.print(
            f"tokens: {min(lengths)} to {max(lengths)} a line, sent as they are; the server pads"
            " them to a few lengths, so that different ones share batches"
        )

    def _heading(self, text: str) -> None:
        self._console.print(f"\n{text}", style="bold cyan")

    def _describe_next_steps(self) -> None:
        self._console.print(
            "\nThe same server, left running, and its live metrics:\n"
            f"  .venv/bin/batcher serve {_shown(CONFIG)}\n"
            "  curl http://127.0.0.1:8002/metrics"
        )


@contextmanager
def _cancelled_by_signals() -> Iterator[None]:
    """Within this context, SIGINT, SIGTERM and SIGHUP cancel the running task.

    It uses handlers of the event loop, because an exception raised within the gRPC library can crash
    the process, which would leave the server running. After the context the signals are ignored,
    because the demo only has to stop the server, which takes seconds.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for signum in _ENDING:
        loop.add_signal_handler(signum, task.cancel)
    try:
        yield
    finally:
        for signum in _ENDING:
            loop.remove_signal_handler(signum)
            signal.signal(signum, signal.SIG_IGN)


def _shown(path: Path) -> str:
    """The path, relative to the current folder if that is shorter."""
    return min(str(path), os.path.relpath(path), key=len)


def main() -> int:
    """Run the demo; returns the exit code."""
    options = read_options()
    # Each of these signals raises KeyboardInterrupt, so that the server is stopped.
    for signum in _ENDING:
        signal.signal(signum, signal.default_int_handler)
    try:
        Demo(options, Console(highlight=False, markup=False)).run()
    except (
        document.DocumentError,
        WeightsMissingError,
        SidecarError,
        ReplayError,
        OSError,
    ) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("stopped; the server has ended", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
