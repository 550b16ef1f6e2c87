"""As many open files as the configuration may need: each connection is one."""

from __future__ import annotations

import logging
import resource
from typing import TYPE_CHECKING, Final

from batcher.http2.listener import PROBE_CONNECTIONS

if TYPE_CHECKING:
    from batcher.config import Config

log = logging.getLogger(__name__)

BESIDE: Final = 512
"""Files beside the connections of gRPC: those of HTTP, logs, models and their libraries."""


def allow_files(config: Config) -> None:
    """Raise the soft limit of this process to what the configuration may need.

    At a limit that is too low, connections that sit idle would keep probes and scrapers out. Where
    the hard limit is lower than that, the log says what to do.
    """
    server = config.server
    each = server.max_connections + PROBE_CONNECTIONS
    needed = (len(server.grpc) + len(server.admin)) * each + BESIDE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < needed:
        log.warning(
            "%d connections may need %d open files, and this process may have %d (ulimit -Hn): with"
            " all of them taken, probes would fail; lower server.max_connections or raise the limit",
            needed - BESIDE,
            needed,
            most,
        )
