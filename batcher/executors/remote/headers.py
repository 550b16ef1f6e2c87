"""The fixed headers of every call to a neighbor; values may come from files that change."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator

from batcher.errors import ModelLoadError
from batcher.executor import TRACE_METADATA, ExecutionError, FilePath, MetadataValue, Options

log = logging.getLogger(__name__)

MAX_FILE: Final = 64 * 1024
"""The most bytes of a header's file; servers take far less."""

SHORTEST_SECRET: Final = 8
"""Characters from which on a header's value is kept out of what a neighbor says. Shorter ones are words of
its own as often, and are guessed in a day by who may ask a thousand times a second (26**7 / 1000 / 86400)."""

_KEY = re.compile(r"[a-z0-9_.-]{1,128}")
_VALUE = re.compile(r"[ -~]*")
_RESERVED = (
    "grpc-",
    ":",
    "content-",
    "host",
    "te",
    "user-agent",
    "connection",
    "transfer-encoding",
)


def _checked_name(name: str) -> str:
    if (
        not _KEY.fullmatch(name)
        or name.endswith("-bin")
        or any(name == each or (each[-1] in "-:" and name.startswith(each)) for each in _RESERVED)
    ):
        raise ValueError(
            "a header's name in lower case, such as authorization; not one that the protocol itself"
            " sets, and none that ends in -bin"
        )
    return name


def _checked_value(value: str) -> str:
    if not _VALUE.fullmatch(value):
        raise ValueError("text of printable ASCII characters")
    return value


def _checked_forwarded(name: str) -> str:
    if name not in TRACE_METADATA:
        _checked_name(name.removesuffix("-bin"))
    return name


HeaderName = Annotated[str, AfterValidator(_checked_name)]
"""The name of a header that the protocol itself leaves free."""

ForwardedName = Annotated[str, AfterValidator(_checked_forwarded)]
"""The name of a caller's header that may be sent on; those that end in `-bin` hold bytes."""

HeaderText = Annotated[str, AfterValidator(_checked_value)]


class FileValue(Options):
    """A header's value that is read from a file, and again when the file has changed."""

    file: FilePath
    """The file; white space around its text is left out."""
    prefix: HeaderText = ""
    """What stands before the file's text, such as `"Bearer "`."""


HeaderOptions = Mapping[HeaderName, HeaderText | FileValue]
"""The option `metadata`: name -> value, or where it is read from."""


def sendable(metadata: Mapping[str, MetadataValue]) -> Iterator[tuple[str, MetadataValue]]:
    """The callers' headers that gRPC can send.

    Raises `ExecutionError` for a value that it cannot, except in the trace context, where it is left
    out: that is the first request's, and no reason to fail the others of its batch.
    """
    for name, value in metadata.items():
        if isinstance(value, bytes) or _VALUE.fullmatch(value):
            yield name, value
        elif name not in TRACE_METADATA:
            raise ExecutionError(
                f"the value of the header {name} must be printable ASCII characters to be sent on",
                cause="input",
            )


def without_secrets(text: str, headers: Iterable[tuple[str, MetadataValue]]) -> str:
    """The text without the values of these headers, which a neighbor may repeat in its errors."""
    for _, value in headers:
        if isinstance(value, str):
            # Also without the scheme: of "Bearer abc", "abc".
            for secret in (value, value.rpartition(" ")[2]):
                if len(secret) >= SHORTEST_SECRET:
                    text = _without(text, secret)
    return text


def _without(text: str, secret: str) -> str:
    """The text without the secret, also where it was cut off in the middle of it."""
    pieces: list[str] = []
    while (at := text.find(secret[:SHORTEST_SECRET])) >= 0:
        pieces += text[:at], "***"
        text = text[at:]
        same = next((i for i, (a, b) in enumerate(zip(text, secret, strict=False)) if a != b), None)
        text = text[min(len(text), len(secret)) if same is None else same :]
    return "".join((*pieces, text))


@contextmanager
def hiding(headers: Callable[[], Iterable[tuple[str, MetadataValue]]]) -> Iterator[None]:
    """Keep the values of headers out of the errors that go to callers and into logs."""
    try:
        yield
    except (ExecutionError, ModelLoadError) as error:
        error.args = (without_secrets(str(error), headers()), *error.args[1:])
        raise


Stamp = tuple[int, int, int] | None


def stamp(path: Path) -> Stamp:
    """What changes when a file does: modification time, size and inode. None if it cannot be found."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class Headers:
    """The fixed headers as they are now. Values are secrets: they are in no log and no message."""

    def __init__(self, model: str, options: HeaderOptions) -> None:
        """Raises `ModelLoadError` if a file cannot be used."""
        self._model = model
        self._options = options
        self._stamps = self._look()
        try:
            self.current: tuple[tuple[str, str], ...] = tuple(self._read())
        except ValueError as error:
            raise ModelLoadError(f"model {model!r}: {error}") from error

    @property
    def from_files(self) -> bool:
        """Whether a value comes from a file, so that `refresh` has something to do."""
        return bool(self._stamps)

    def refresh(self) -> None:
        """Read the files that have changed. A file that cannot be used is logged, and its value kept."""
        stamps = self._look()
        if stamps == self._stamps:
            return
        self._stamps = stamps
        try:
            self.current = tuple(self._read())
        except ValueError as error:
            log.warning(
                "%s: %s; the values read before are still sent, and the file is read again when it changes",
                self._model,
                error,
            )

    def _look(self) -> tuple[Stamp, ...]:
        values = self._options.values()
        return tuple(stamp(value.file) for value in values if isinstance(value, FileValue))

    def _read(self) -> Iterator[tuple[str, str]]:
        for name, value in self._options.items():
            yield name, value if isinstance(value, str) else _text(name, value)


def _text(name: str, value: FileValue) -> str:
    try:
        with value.file.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ValueError(
            f"options.metadata.{name}: cannot read {value.file}: {error.strerror}"
        ) from None
    try:
        text = data.decode("ascii").strip()
    except UnicodeDecodeError:
        text = "\n"
    if len(data) > MAX_FILE or not text or not _VALUE.fullmatch(text):
        raise ValueError(
            f"options.metadata.{name}: {value.file} must have one line of printable ASCII characters,"
            f" at most {MAX_FILE} bytes"
        )
    return value.prefix + text
