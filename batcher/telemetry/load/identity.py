"""Which replica a report is of."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from batcher.config.server import MAX_REPLICA

POD_VARIABLES: Final = ("POD_NAME", "HOSTNAME")
"""Where a pod has its name: the first by the convention of the downward API, the second in every container."""

_START_ID_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Identity:
    """A replica's name, and an id of this start of it."""

    replica: str
    start_id: str

    @classmethod
    def of_process(
        cls, configured: str | None = None, environment: Mapping[str, str] | None = None
    ) -> Self:
        """The configured name, else that of the pod, else that of the host; and a new start id."""
        known = os.environ if environment is None else environment
        names = (configured, *(known.get(each) for each in POD_VARIABLES), socket.gethostname())
        name = next((each for each in names if each), "")
        return cls(name[:MAX_REPLICA], secrets.token_hex(_START_ID_BYTES))
