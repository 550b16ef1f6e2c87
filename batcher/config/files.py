"""Files and folders that a configuration names: whether they are there and can be used.

Nothing is opened for longer than a look, and nothing is made. A problem is a path in the document
and what is wrong there; `located` makes text of it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from batcher.config.addresses import UnixAddress, parse_address
from batcher.config.document import read_document
from batcher.config.root import Config
from batcher.config.section import KeyPath, dotted
from batcher.config.tracing import HeaderFile

Problem = tuple[KeyPath, str]


def file_problems(config: Config) -> Iterator[Problem]:
    """Each file named by `server` or `tracing`, and each file of labels or of a state, that cannot be read."""
    tls = config.server.tls
    if tls is not None:
        for key, path in (("cert", tls.cert), ("key", tls.key), ("client_ca", tls.client_ca)):
            problem = None if path is None else unreadable(path, folder=False)
            if problem:
                yield ("server", "tls", key), problem
    yield from _tracing_problems(config)
    for place, model in enumerate(config.models):
        for which, output in enumerate(model.outputs):
            problem = None
            if output.labels is not None:
                problem = unreadable(output.labels, folder=False)
            if problem:
                yield ("models", place, "outputs", which, "labels"), problem
        for which, state in enumerate(model.sequence.state if model.sequence else ()):
            if state.initial_file is not None:
                problem = unreadable(state.initial_file, folder=False)
                if problem:
                    yield ("models", place, "sequence", "state", which, "initial_file"), problem


def _tracing_problems(config: Config) -> Iterator[Problem]:
    tracing = config.tracing
    if tracing is None:
        return
    named: list[tuple[KeyPath, Path | None]] = [
        (("headers", name, "file"), value.file)
        for name, value in tracing.headers.items()
        if isinstance(value, HeaderFile)
    ]
    if tracing.tls is not None:
        tls = tracing.tls
        named += ((("tls", key), getattr(tls, key)) for key in ("ca", "cert", "key"))
    for below, path in named:
        problem = None if path is None else unreadable(path, folder=False)
        if problem:
            yield ("tracing", *below), problem


def folder_problems(config: Config) -> Iterator[Problem]:
    """Each folder that cannot be written to: of Unix sockets, the journal, the flight recorder."""
    server = config.server
    places = [
        *((("server", "grpc", place), text) for place, text in enumerate(server.grpc)),
        *([(("server", "http"), server.http)] if server.http else []),
        *((("server", "admin", place), text) for place, text in enumerate(server.admin)),
    ]
    for path, text in places:
        address = parse_address(text)
        if isinstance(address, UnixAddress):
            yield from _socket_problems(path, Path(address.path))
    for key in ("journal", "flight_recorder"):
        section = getattr(config, key)
        if section is not None:
            yield from _folder_problems((key, "folder"), section.folder)


def unreadable(path: Path, *, folder: bool = True) -> str | None:
    """What is wrong with a file, or where `folder` says so a folder, that is to be read."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode) and folder:
            os.listdir(path)  # noqa: PTH208 - iterdir looks at nothing before it is asked
        elif stat.S_ISDIR(mode) or stat.S_ISREG(mode):
            with path.open("rb") as file:
                file.read(1)
        elif not os.access(path, os.R_OK):
            return f"got {path}, Permission denied; allowed: a readable file"
    except OSError as error:
        return f"got {path}, {error.strerror}; allowed: a readable file"
    return None


def located(config: Config, problems: Iterable[Problem]) -> list[str]:
    """The problems as text, each with its path and the line of the file that says so."""
    return located_in(config.text, problems)


def located_in(text: str, problems: Iterable[Problem]) -> list[str]:
    """The same of the text of any configuration file."""
    document = read_document(text, {})
    found = []
    for path, problem in problems:
        line = document.line(path)
        found.append(f"{dotted(path)}{f' (line {line})' if line else ''}: {problem}")
    return found


def _socket_problems(path: KeyPath, socket: Path) -> Iterator[Problem]:
    if socket.exists() and not socket.is_socket():
        yield (
            path,
            f"got unix:{socket}, which exists and is not a socket; allowed: a path that does not exist",
        )
    elif not socket.parent.is_dir():
        yield path, f"got unix:{socket}; allowed: a path in a folder that exists"
    elif not os.access(socket.parent, os.W_OK | os.X_OK):
        yield path, f"got unix:{socket}; allowed: a path in a folder that can be written to"


def _folder_problems(path: KeyPath, folder: Path) -> Iterator[Problem]:
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "cannot be written to" if there.is_dir() else "is not a folder"
        yield path, f"got {folder}, and {there} {why}; allowed: a folder that can be written to"
