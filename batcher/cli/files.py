"""Raise the limit of open files to what the configuration may need: each connection takes one."""

from __future__ import annotations

import logging
import resource
from typing import TYPE_CHECKING, Final

from batcher.http2.listener import PROBE_CONNECTIONS

if TYPE_CHECKING:
    from batcher.config import Config

log = logging.getLogger(__name__)

OTHER_FILES: Final = 512
"""Open files other than gRPC connections: HTTP connections, logs, models and their libraries."""


def allow_files(config: Config) -> None:
    """Raise the soft limit of this process to what the configuration may need.

    With a limit that is too low, idle connections would keep health probes and scrapes out. Where the
    hard limit is lower than needed, a warning says what to do.
    """
    server = config.server
    each = server.max_connections + PROBE_CONNECTIONS
    needed = (len(server.grpc) + len(server.admin)) * each + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < needed:
        log.warning(
            "%d gRPC connections may need %d open files, and this process may open %d (ulimit -Hn): once"
            " they are used up, health probes fail; lower server.max_connections or raise the limit",
            needed - OTHER_FILES,
            needed,
            most,
        )
