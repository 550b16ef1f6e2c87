"""How a call ends that could not be answered: with the status of its error, or as an internal error."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Any, NoReturn, TypeAlias, TypeVar

import grpc
from grpc import aio

from batcher.errors import RequestError
from batcher.http2.call import Call
from batcher.http2.grpc_headers import INTERNAL_ERROR, Metadata
from batcher.server.status import Style, to_status

log = logging.getLogger(__name__)

Context: TypeAlias = "aio.ServicerContext[Any, Any]"
Answer = TypeVar("Answer")


async def answered(answer: Awaitable[Answer], context: Context, style: Style) -> Answer:
    """The answer. If making it raises, the call is aborted with the status of the error."""
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
    context: Context | Call,
    error: RequestError,
    style: Style,
    *,
    request_id: str = "",
    metadata: Metadata = (),
) -> NoReturn:
    """End a call with the status of this error. `request_id` is the caller's own.

    `metadata` is sent with the status, behind what the status brings along.
    """
    status = to_status(error, style, request_id=request_id)
    try:
        trailers = (*status.trailing_metadata, *metadata)
        await context.abort(status.code, status.message, trailers)
    finally:
        # grpcio's context refers to the error of its abort, and that to this frame: a reference cycle.
        del context
    raise AssertionError("abort raises")
