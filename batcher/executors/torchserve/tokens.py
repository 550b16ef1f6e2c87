"""TorchServe's tokens: the file `key_file.json`, which it writes at its start and when a token is renewed."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Final

from batcher.errors import BackendUnavailable
from batcher.executors.remote.headers import stamp

__all__ = ["Tokens"]

log = logging.getLogger(__name__)

MAX_FILE: Final = 64 * 1024
"""The most bytes of a key file; TorchServe's has 300."""


class Tokens:
    """The headers that authorize calls. Tokens are secrets: they are in no log and no message."""

    def __init__(self, model: str, path: Path) -> None:
        """Raises `BackendUnavailable` if the file cannot be used: TorchServe may write it later."""
        self._model = model
        self._path = path
        self._stamp = stamp(path)
        try:
            self._read()
        except ValueError as error:
            raise BackendUnavailable(f"model {model!r}: {error}") from None

    def refresh(self) -> bool:
        """Read the file if it has changed; whether a token did. One that cannot be used is logged."""
        now = stamp(self._path)
        if now == self._stamp:
            return False
        before = self.inference, self.management
        self._stamp = now
        try:
            self._read()
        except ValueError as error:
            log.warning("%s: %s; it is read again when it changes", self._model, error)
        return (self.inference, self.management) != before

    def _read(self) -> None:
        try:
            with self._path.open("rb") as file:
                found = json.loads(file.read(MAX_FILE))
            keys = [found[kind]["key"] for kind in ("inference", "management")]
        except OSError as error:
            raise ValueError(
                f"options.tokens: cannot read {self._path}: {error.strerror}"
            ) from None
        except (ValueError, TypeError, LookupError):
            keys = []
        if not keys or not all(
            isinstance(key, str) and key.isprintable() and key.isascii() for key in keys
        ):
            raise ValueError(f"options.tokens: {self._path} is no key file of TorchServe")
        self.inference = (("authorization", f"Bearer {keys[0]}"),)
        """For calls to the inference API."""
        self.management = (("authorization", f"Bearer {keys[1]}"),)
        """For calls to the management API."""
