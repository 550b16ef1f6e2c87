"""Runs the server, or the scaler, as a process: from the start until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from batcher.app import running
from batcher.config import Config

if TYPE_CHECKING:
    from batcher.scaler.config import ScalerConfig

log = logging.getLogger(__name__)

GC_THRESHOLD = 20_000
"""Allocations before the garbage collector runs (Python's default is 700 to 2,000). Requests that
wait and events to be recorded are no garbage, and each run would walk over all of them."""


async def serve(config: Config, path: Path | None = None) -> None:
    """Run until SIGTERM or SIGINT, then drain. A second signal ends the process at once.

    After SIGTERM, new requests are accepted for another `drain_delay`, so that load balancers can
    take this server out of service; after SIGINT they are refused at once. SIGHUP reloads `path`,
    the configuration file; SIGUSR2 writes a flight record. Raises `StartupError` if the server
    cannot start and `DrainTimeoutError` if it cannot drain in time.
    """
    hangup = asyncio.Event()
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[int] = loop.create_future()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, _on_signal, signum, stop)
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    loop.add_signal_handler(
        signal.SIGUSR2,
        log.warning,
        "SIGUSR2: no flight record is written before the server is ready",
    )
    await _run_until(config, path, stop, hangup)


async def _run_until(
    config: Config, path: Path | None, stop: asyncio.Future[int], hangup: asyncio.Event
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        entering = asyncio.ensure_future(stack.enter_async_context(running(config, path, hangup)))
        await asyncio.wait((entering, stop), return_when=asyncio.FIRST_COMPLETED)
        if not entering.done():
            entering.cancel()
            await asyncio.wait((entering,))
            log.info("stopped by a signal before the server was ready")
            return
        application = entering.result()
        # What is allocated now stays allocated: exempt it from garbage collection.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, application.on_signal)
        print(application.describe(), flush=True)  # noqa: T201 - the line that supervisors wait for
        delay_ns = config.server.drain_delay if await stop == signal.SIGTERM else 0
        log.info("draining: %d requests are unanswered", application.batcher.unanswered)
        await application.drain(delay_ns)
        log.info("drained: every request has ended")


async def scale(config: ScalerConfig) -> None:
    """Run the external scaler until SIGTERM or SIGINT. Raises `StartupError` if it cannot start."""
    # Imported here, as a server needs nothing of it.
    from batcher.scaler.app import running_scaler  # noqa: PLC0415

    loop = asyncio.get_running_loop()
    stop: asyncio.Future[int] = loop.create_future()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, _on_signal, signum, stop)
    # A server reads its file again then; the default here would be to end.
    loop.add_signal_handler(
        signal.SIGHUP,
        log.warning,
        "SIGHUP: the scaler reads its file at the start only; restart it",
    )
    async with running_scaler(config) as scaler:
        print(scaler.describe(), flush=True)  # noqa: T201 - the line that supervisors wait for
        await stop
        log.info("ending: streams are ended, and calls answered")


def _on_signal(signum: int, stop: asyncio.Future[int]) -> None:
    if stop.done():
        log.warning(
            "%s again: the process ends at once, unanswered requests are lost",
            signal.Signals(signum).name,
        )
        logging.shutdown()
        os._exit(1)
    stop.set_result(signum)
