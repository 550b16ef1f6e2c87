"""Files and libraries that a configuration of the scaler needs: whether they are there and can be used."""

from __future__ import annotations

from collections.abc import Iterator

from batcher.config.files import Problem, unreadable
from batcher.errors import StartupError
from batcher.scaler.channels import Channels
from batcher.scaler.config import ScalerConfig
from batcher.scaler.discovery import discovery_of
from batcher.server.tls import Certificates


def file_problems(config: ScalerConfig) -> Iterator[Problem]:
    """Each file that cannot be read or used, and each library that is missing, with the key that needs it."""
    tls = config.listen.tls
    if tls is not None:
        try:
            Certificates(tls, "listen.tls")
        except (StartupError, OSError) as error:
            yield ("listen", "tls"), str(error).removeprefix("listen.tls: ")
    for place, fleet in enumerate(config.fleets):
        at = ("fleets", place)
        try:
            Channels(fleet)
        except StartupError as error:
            yield (*at, "tls"), str(error).removeprefix(f"fleet {fleet.name}: tls: ")
        try:
            discovery_of(fleet.replicas)
        except StartupError as error:
            yield (*at, "replicas"), str(error).removeprefix("replicas.")
        if fleet.wake_token is not None:
            problem = unreadable(fleet.wake_token, folder=False)
            if problem:
                yield (*at, "wake_token"), problem
