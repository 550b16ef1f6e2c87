"""How a call ends that could not be answered: by the one table of errors, or as a mistake of ours."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Any, NoReturn, TypeAlias, TypeVar

import grpc
from grpc import aio

from batcher.errors import RequestError
from batcher.server.status import Style, to_status

log = logging.getLogger(__name__)

INTERNAL_ERROR = "internal error while answering a call"
"""All that a caller learns of a mistake of ours; the log has the rest."""

Context: TypeAlias = "aio.ServicerContext[Any, Any]"
Answer = TypeVar("Answer")


async def answered(answer: Awaitable[Answer], context: Context, style: Style) -> Answer:
    """The answer; where making it raises, the call is aborted."""
    try:
        return await answer
    except RequestError as error:
        await abort(context, error, style)
    except Exception:
        log.exception(INTERNAL_ERROR)
        await context.abort(grpc.StatusCode.INTERNAL, INTERNAL_ERROR)
        raise AssertionError("abort raises") from None
    finally:
        del context  # as in `abort`


async def abort(
    context: Context, error: RequestError, style: Style, *, request_id: str = ""
) -> NoReturn:
    """End a call with the status of this error. `request_id` is the caller's own."""
    status = to_status(error, style, request_id=request_id)
    try:
        await context.abort(status.code, status.message, status.trailing_metadata)
    finally:
        # The context of grpcio knows the error of its abort, which knows this frame.
        del context
    raise AssertionError("abort raises")
