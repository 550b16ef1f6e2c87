"""Who may wake a fleet.

A wake costs its owner one replica for `wake_for`, and no more however often it is called. Where that is too much to
give to everyone who reaches a listener, `wake_token` names a file with a token that callers must present.
"""

from __future__ import annotations

import hmac
import logging
from pathlib import Path
from typing import Final

import grpc

from batcher.scaler.asking import RefusedError
from batcher.scaler.fleet import Fleet

log = logging.getLogger(__name__)

MAX_TOKEN_BYTES: Final = 4096
"""Bytes of the file that are read."""

_SCHEME: Final = "bearer "


class Waker:
    """Wakes fleets for callers who may."""

    def __init__(self, fleets: dict[str, Fleet]) -> None:
        self._fleets = fleets

    def wake(self, name: str, authorization: str) -> int:
        """Wake the fleet of that name, and return for how long, in nanoseconds.

        `authorization` is what the caller presents: the header of that name, empty without one. Raises
        `RefusedError`.
        """
        fleet = self._fleets.get(name)
        if fleet is None:
            known = ", ".join(self._fleets)
            raise RefusedError(
                grpc.StatusCode.NOT_FOUND, f"there is no fleet of that name; allowed: {known}"
            )
        path = fleet.config.wake_token
        if path is not None and not _matches(path, authorization):
            fleet.counts.wakes["refused"] += 1
            raise RefusedError(
                grpc.StatusCode.UNAUTHENTICATED,
                f'waking {name} needs the token of its wake_token: "authorization: Bearer TOKEN"',
            )
        if not fleet.config.wake_for:
            fleet.counts.wakes["off"] += 1
            raise RefusedError(
                grpc.StatusCode.FAILED_PRECONDITION, f"waking {name} is turned off: wake_for is 0"
            )
        fleet.counts.wakes["woken"] += 1
        return fleet.wake()


def _matches(path: Path, authorization: str) -> bool:
    """Whether the token in the file, as it is now, was presented. An empty file, or none, matches nothing."""
    try:
        with path.open("rb") as file:
            token = file.read(MAX_TOKEN_BYTES).strip()
    except OSError as error:
        log.warning("the wake_token %s cannot be read: %s", path, error.strerror)
        return False
    if not token or not authorization.lower().startswith(_SCHEME):
        return False
    given = authorization[len(_SCHEME) :].strip().encode(errors="replace")
    return hmac.compare_digest(given, token)
