"""Every error that `batcher` raises or answers.

Two families. `RequestError` is how one request can end badly: `server/status.py` maps each of its
subclasses to a gRPC status, and a test walks them all. `StartupError` is why a server, a model or a
listener could not start: the command line turns it into an exit code.

A message names the model, says what was expected and what arrived, and never carries a traceback
or a tensor.
"""

from __future__ import annotations


class BatcherError(Exception):
    """The root of all errors raised on purpose."""


class RequestError(BatcherError):
    """A request that ends without an answer.

    `retry_after_ns` is how long the caller should wait before it tries again (nanoseconds), or
    None where trying again will not help. `triton` is the text that callers written against Triton
    look for (`batcher.triton`), or None where the message will do.
    """

    def __init__(
        self, message: str, *, retry_after_ns: int | None = None, triton: str | None = None
    ) -> None:
        super().__init__(message)
        self.retry_after_ns = retry_after_ns
        self.triton = triton


class InvalidRequest(RequestError):
    """The request can never be served as it is: wrong shape, dtype, name, parameter or size."""


class UnknownModel(RequestError):
    """No model of that name and version is configured."""


class ModelUnavailable(RequestError):
    """The model is configured but cannot serve now: loading, failed, or unloaded."""


class Draining(RequestError):
    """The server is shutting down and takes no new work."""


class Overloaded(RequestError):
    """Admission refused the request: a queue bound, a share, or a predicted miss."""


class DeadlineExpired(RequestError):
    """The caller's deadline or the queue timeout passed before the request was executed."""


class RequestCancelled(RequestError):
    """The caller went away."""


class InputRefused(RequestError):
    """The executor says that values of this request are at fault."""


class ExecutionFailed(RequestError):
    """The executor failed on this request or on the batch it was in."""


class AnswerTooLarge(RequestError):
    """The answer is ready and larger than any message that this server sends."""


class BufferFull(Overloaded):
    """A request, or an answer that is ready, finds no room among those that are held already."""


class InternalError(RequestError):
    """A mistake of this server, or of an executor's answer that only showed when it was taken apart."""


class DeviceLost(RequestError):
    """The instance that was running the request went down, or none is up."""


class NotPermitted(RequestError):
    """The call changes what is served, and this listener does not allow that."""


class ChangeFailed(RequestError):
    """A change of settings was valid and could not be applied; the old ones are in force."""


class NotSupported(RequestError):
    """The protocol has this feature; this server does not offer it."""


class RateLimited(RequestError):
    """The call does something that is limited in frequency, and the last time is not long ago."""


class FlightRecordFailed(RequestError):
    """The file of a flight record could not be written."""


class StartupError(BatcherError):
    """Something could not be started. The message is for the person who reads the terminal."""


class ConfigError(StartupError):
    """The configuration is wrong. Each problem names its path, the value and what is allowed."""

    def __init__(self, problems: list[str], *, source: str | None = None) -> None:
        self.problems = problems
        self.source = source
        head = f"{source}: " if source else ""
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        super().__init__(
            "\n".join([f"{head}{count} in the configuration", *(f"  {p}" for p in problems)])
        )


class InputError(StartupError):
    """What the command line was given cannot be used: an option's value, a trace, a profile.

    The message names the option or the file and line, what was got and what is allowed.
    """


class ListenError(StartupError):
    """An address could not be listened on."""


class PluginError(StartupError):
    """An executor plugin is unknown, broken or could not be imported."""


class ModelLoadError(StartupError):
    """An executor could not load its model."""


class UnloadedWhileLoading(ModelLoadError):
    """A load was ended by an unload, so the model is not wanted any more."""


class BackendUnavailable(ModelLoadError):
    """What a model needs is not up yet: another try may help, and is made (`models[].load_retry_timeout`)."""


LONGEST_DESCRIPTION = 400


def describe(error: BaseException) -> str:
    """A foreign exception on one line, for a message of ours: its type and text, shortened.

    Of one whose text cannot be had the type alone.
    """
    try:
        text = on_one_line(str(error))
    except Exception:  # noqa: BLE001 - a plugin's own `__str__`
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def on_one_line(text: str) -> str:
    """A foreign text, shortened, for a message of ours."""
    text = encodable(" ".join(text.split()))
    if len(text) > LONGEST_DESCRIPTION:
        text = f"{text[: LONGEST_DESCRIPTION - 3]}..."
    return text


def encodable(text: str) -> str:
    """A text as it can be sent: halves of characters, as names of files may have, are marks."""
    return text if text.isascii() else text.encode(errors="replace").decode()


LONGEST_NAME = 100


def shown(name: str) -> str:
    """A name that a caller chose, in quotes and shortened: what is said after it must be read."""
    return repr(name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}...")
