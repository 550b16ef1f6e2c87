"""The load in the trailing metadata of inference calls, for those who ask for it or for all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from batcher.http2.grpc_headers import Metadata
from batcher.server.messages.wire import WireRequest
from batcher.telemetry.load import FORMAT_KEY, LoadReport, OrcaTrailers, TrailerFormat

log = logging.getLogger(__name__)


class LoadTrailers:
    """Makes the trailing metadata. With `always` every call gets it, else those that ask for it."""

    def __init__(self, report: Callable[[], LoadReport], *, always: bool) -> None:
        self.always = always
        self._trailers = OrcaTrailers(report)

    def of_call(self, asked: Mapping[str, str], request: WireRequest | None) -> Metadata:
        """What to send with the status of a call; `asked` is its metadata. Never raises.

        `request` is None where it could not be read, and for a stream: then no model is in the report.
        """
        form = _format(asked.get(FORMAT_KEY)) or (TrailerFormat.BIN if self.always else None)
        if form is None:
            return ()
        model, version = ("", "") if request is None else (request.model, request.version)
        try:
            return self._trailers.current(form, model, version)
        except Exception:
            log.exception("internal error: an answer goes without the load in its metadata")
            return ()


def _format(text: str | None) -> TrailerFormat | None:
    """The form that the caller asks for; None for one that there is not."""
    if text is None:
        return None
    try:
        return TrailerFormat(text.strip().lower())
    except ValueError:
        return None
