"""`batcher top`: the live view of a running server, in a terminal."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from batcher.cli.exits import reported

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from batcher.cli.live.client import Event
    from batcher.cli.live.keys import Waker
    from batcher.cli.live.state import LiveState

EPILOG = """
ADDRESS is `server.http` of the server: `HOST:PORT`, a port alone for this machine, `unix:/PATH`, or what the
browser's address bar has. It is not the gRPC address.

What the columns say (`batcher` samples once a second):

- `age`, `target`: how old the oldest unanswered request is, and how old it may get.

- `in/s`, `ok/s`, `late/s`, `lost/s`: requests that came, were answered, were answered after the target, and
  were refused, expired or failed.

- `p50`, `p99`: latency of answers. `rows`: rows of a batch on average. `busy`: share of the time that the
  device ran this model's batches. All of the last 10 seconds.

- `+` nothing is wrong, `i` worth knowing, `!` warning, `X` critical. Models with the worst problem come first.

Keys: q, Esc or Ctrl-C ends it. A server that is restarted is found again by itself.

Exit codes: 0 when it was ended; 2 when there is no batcher at ADDRESS.

Examples:

- `batcher top`: a server on this machine with the default address.

- `batcher top 10.0.0.7:8002`

- `batcher top unix:/run/batcher/http.sock --once`: one snapshot as plain text, for a log or a chat.

- `kubectl port-forward pod/mine 8002` in another terminal, then `batcher top 8002`.
"""

RETRY_S: Final = 1.0
"""Seconds between two attempts to find a server again."""

_PLAIN_WIDTH: Final = 160
"""Columns of a snapshot where there is no terminal to fit into."""


def top(
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", help="The address of server.http.")
    ] = "127.0.0.1:8002",
    *,
    once: Annotated[
        bool, typer.Option("--once", help="Print one snapshot and end; needs no terminal.")
    ] = False,
) -> None:
    """Show what a running server does, a line for each model, once a second.

    The same numbers as the page at `/` of the server's HTTP address, for a terminal.
    """
    with reported():
        from rich.console import Console

        from batcher.cli.live.client import read_address

        where = read_address(address)
        console = Console(highlight=False)
        if once or not console.is_terminal:
            _print_once(where, console)
        else:
            _watch(where, console)


def _print_once(address: str, console: Console) -> None:
    from batcher.cli.live.client import LiveError, events
    from batcher.cli.live.screen import lines, take
    from batcher.cli.live.state import LiveState

    state = LiveState()
    event = next(events(address), None)
    if event is None:
        raise LiveError(f"{address} ended the stream at once; is the server stopping?")
    take(state, event, time.monotonic())
    width = console.width if console.is_terminal else _PLAIN_WIDTH
    for line in lines(state, width, None, time.monotonic()):
        line.rstrip()
        console.print(line, no_wrap=True, overflow="ignore", crop=False)


def _watch(address: str, console: Console) -> None:
    from rich.console import Group
    from rich.live import Live

    from batcher.cli.live.client import events
    from batcher.cli.live.keys import Waker, listening
    from batcher.cli.live.screen import lines, take
    from batcher.cli.live.state import LiveState

    state, waker = LiveState(), Waker()
    stream = events(address)
    first = next(
        stream, None
    )  # an address without a server is an error, before the screen is taken
    if first is not None:
        take(state, first, time.monotonic())
    reader = threading.Thread(
        target=_read, args=(address, stream, state, waker), name="events", daemon=True
    )
    reader.start()

    def screen() -> Group:
        width, height = console.size
        drawn = lines(state, width, height, time.monotonic())
        for line in drawn:
            line.truncate(width, overflow="ellipsis")
        return Group(*drawn)

    try:
        with (
            listening(waker),
            Live(
                console=console,
                screen=True,
                auto_refresh=False,
                vertical_overflow="crop",
                redirect_stdout=False,
                redirect_stderr=False,
            ) as live,
        ):
            going = True
            while going:
                live.update(screen(), refresh=True)
                going = waker.wait(1.0)
    except KeyboardInterrupt:
        return


def _read(address: str, stream: Iterator[Event], state: LiveState, waker: Waker) -> None:
    """Take events until the process ends, and find the server again whenever it is gone."""
    from batcher.cli.live.client import LiveError, events
    from batcher.cli.live.screen import take

    while True:
        try:
            for event in stream:
                take(state, event, time.monotonic())
                waker.wake()
            state.trouble = "the server has ended the stream"
        except LiveError as error:
            state.trouble = str(error)
        waker.wake()
        time.sleep(RETRY_S)
        stream = events(address)
