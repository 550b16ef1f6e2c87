"""All errors that batcher raises on purpose.

A `RequestError` ends one request; `server/status.py` maps each subclass to a gRPC status. A
`StartupError` says why the server, a model or a listener could not start; the command line maps it
to an exit code.

A message names the model, what was got and what is allowed, and what to do next. It never contains
a traceback or the values of a tensor.
"""

from __future__ import annotations

from enum import Enum


class AnswerLoss(Enum):
    """Why an answer, or some of it, was not handed to the transport."""

    LEFT = "left"
    """The caller cancelled, or its connection ended."""
    DEADLINE = "deadline"
    """The caller's deadline passed while it was written."""
    STALLED = "stalled"
    """The caller read nothing of it for `server.write_timeout`."""
    NO_ROOM = "no_room"
    """`server.max_buffered` left no space for what waited to be sent."""
    TOO_LARGE = "too_large"
    """It is larger than `server.max_message`."""
    INTERNAL = "internal"
    """A defect of batcher."""


class BatcherError(Exception):
    """The base class of all errors that batcher raises on purpose."""


class RequestError(BatcherError):
    """Why a request ends without a reply.

    `retry_after_ns` is how long the caller should wait before a retry (nanoseconds), None if a retry
    does not help. `triton` is Triton's message for this error (`batcher.triton`), None if clients
    do not depend on it.
    """

    def __init__(
        self, message: str, *, retry_after_ns: int | None = None, triton: str | None = None
    ) -> None:
        super().__init__(message)
        self.retry_after_ns = retry_after_ns
        self.triton = triton


class InvalidRequest(RequestError):
    """The request is wrong: its shape, datatype, names, parameters or size. A retry does not help."""


class SequenceError(InvalidRequest):
    """The request is a step that its sequence cannot take: not started, ended, expired or lost."""


class UnknownModel(RequestError):
    """No model of that name and version is configured."""


class ModelUnavailable(RequestError):
    """The model is configured but cannot serve now: loading, failed, or unloaded."""


class Draining(RequestError):
    """The server is shutting down and refuses new requests."""


class Overloaded(RequestError):
    """There is no room for the request: a full queue, a reply that would come too late, no memory."""


class DeadlineExpired(RequestError):
    """The caller's deadline, or the time that the request may wait, passed before it was answered."""


class RequestCancelled(RequestError):
    """The caller cancelled the request."""


class InputRefused(RequestError):
    """The executor refused values of this request."""


class ExecutionFailed(RequestError):
    """The executor failed on this request or on its batch."""


class AnswerTooLarge(RequestError):
    """The reply is ready, and larger than the largest message that the server sends."""


class BufferFull(Overloaded):
    """The buffers for requests and replies are full, so this request or its reply is dropped."""


class InternalError(RequestError):
    """An error in batcher itself, or in an executor's result that only showed in making the reply."""


class InstanceUnavailable(RequestError):
    """The instance that ran the request went down, its device failed, or no instance is up."""


class NotPermitted(RequestError):
    """The call would change the server, which this listener does not allow."""


class ChangeFailed(RequestError):
    """A valid change of settings could not be applied; the previous settings stay in force."""


class NotSupported(RequestError):
    """The protocol has this feature, and this server does not."""


class RateLimited(RequestError):
    """The call is limited in frequency, and the last one was too recent."""


class FlightRecordFailed(RequestError):
    """The file of a flight record could not be written."""


class StartupError(BatcherError):
    """Something could not be started. The message is for the person at the terminal."""


class ConfigError(StartupError):
    """The configuration is wrong. Each problem names a path, its value and what is allowed."""

    def __init__(self, problems: list[str], *, source: str | None = None) -> None:
        self.problems = problems
        self.source = source
        head = f"{source}: " if source else ""
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        super().__init__(
            "\n".join([f"{head}{count} in the configuration", *(f"  {p}" for p in problems)])
        )


class InputError(StartupError):
    """An argument of the command line is wrong: an option, a trace file, a profile, an event log.

    The message names the option, or the file and line, what was got and what is allowed.
    """


class ListenError(StartupError):
    """The server could not listen on an address."""


class PluginError(StartupError):
    """An executor plugin is unknown, cannot be imported, or is not an executor class."""


class ModelLoadError(StartupError):
    """An executor could not load its model."""


class OutOfMemory(ModelLoadError):
    """The device has no room for the model, while it has other instances there.

    A model that is served is then replaced one instance after the other (`models[].reload`).
    """


class InterfaceChanged(ModelLoadError):
    """An instance has other inputs or outputs than the model that it would belong to."""


class UnloadedWhileLoading(ModelLoadError):
    """The model was unloaded while it was loading."""


class BackendUnavailable(ModelLoadError):
    """Something that the model needs is not up yet; the load is repeated (`load_retry_timeout`)."""


MAX_DESCRIPTION = 400
"""Characters of a foreign message within one of ours."""

_LOOKED_AT = 10 * MAX_DESCRIPTION
"""Characters of a foreign message that are read at all: one may have as many as memory."""


def describe(error: BaseException) -> str:
    """An exception of foreign code as one line for a message of ours: its type and its message.

    Shortened; only the type if the exception's own `__str__` raises.
    """
    try:
        text = on_one_line(str(error))
    except Exception:  # noqa: BLE001 - a plugin's own `__str__`
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def on_one_line(text: str) -> str:
    """A foreign text as one line for a message of ours, shortened.

    What cannot be printed becomes question marks: it could change what a terminal shows of a log.
    """
    start = text[:_LOOKED_AT]
    cut, text = len(text) > _LOOKED_AT, " ".join(start.split())
    if cut or len(text) > MAX_DESCRIPTION:
        text = f"{text[: MAX_DESCRIPTION - 3]}..."
    if not text.isprintable():
        text = "".join([each if each.isprintable() else "?" for each in text])
    return text


def encodable(text: str) -> str:
    """A text that UTF-8 can encode: lone surrogates, as in file names, become question marks."""
    return text if text.isascii() else text.encode(errors="replace").decode()


MAX_NAME = 100
"""Characters of a name in a message; the rest is cut off, so that what follows stays visible."""


def shown(name: str) -> str:
    """A name that a caller chose, in quotes and shortened, for a message."""
    return repr(name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 3]}...")
