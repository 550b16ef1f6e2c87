"""The executor `http`: forwards batches to a server that speaks HTTP with JSON.

`executor` is the executor, `options` what it takes. `v1` and `v2` write batches and read answers in the two
versions of the KServe protocol, without I/O. `client` sends requests over pooled connections with the library
aiohttp, which only it imports (the extra `http`). `statuses` says what an HTTP status means for a batch.
"""

from batcher.executors.http.executor import HttpExecutor
from batcher.executors.http.options import HttpOptions

__all__ = ["HttpExecutor", "HttpOptions"]
