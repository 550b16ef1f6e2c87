"""Structured logs on top of the standard library.

A module logs as usual, `logger.info("model loaded", extra={"model": name})`: the message is a
constant, what varies is a field. Both formats write one record a line to standard error (a
traceback follows its line in the text format).
"""

from __future__ import annotations

import json
import logging
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from batcher.telemetry.log_limits import LogLimiter

LogFormat = Literal["text", "json"]

_STANDARD = frozenset(
    (*vars(logging.makeLogRecord({})), "message", "asctime", "color_message", "taskName")
)
"""Attributes that every record has (and uvicorn's colored copy): all others are fields."""


def configure_logging(level: str, fmt: LogFormat, stream: TextIO | None = None) -> None:
    """Send all logs of the process, from `level` up, to `stream` (default: standard error).

    `level` is one of `debug`, `info`, `warning`, `error`, in any case; ValueError otherwise. What
    was configured before is replaced. Each kind of record is limited (`LogLimiter`).
    """
    handler = LimitedHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter() if fmt == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class LimitedHandler(logging.StreamHandler[TextIO]):
    """Writes records to a stream, of each kind no more than the log can take."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._limiter = LogLimiter(self._emit_held)
        self.addFilter(self._limiter)

    def close(self) -> None:
        """Write what is held back, and close."""
        self._limiter.close()
        super().close()

    def _emit_held(self, record: logging.LogRecord) -> None:
        with self.lock or nullcontext():
            self.emit(record)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time`, `level`, `logger`, `message`, the fields, `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON; a value that JSON does not know becomes its string."""
        line: dict[str, Any] = {
            **_fields(record),
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """For people: time, level, logger and message, then the fields as `name=value`."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line, and its traceback below it if it has one."""
        fields = "".join(f" {name}={_quoted(value)}" for name, value in _fields(record).items())
        message = _one_line(record.getMessage())
        line = f"{_time(record)} {record.levelname:<7} {record.name}: {message}{fields}"
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return line


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _one_line(text: str) -> str:
    """The text without line breaks, so that a caller's string cannot pose as a second record."""
    return text.replace("\r", "\\r").replace("\n", "\\n")


def _quoted(value: object) -> str:
    text = _one_line(str(value))
    return json.dumps(text, ensure_ascii=False) if not text or " " in text or '"' in text else text
