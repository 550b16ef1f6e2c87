"""The executor `kserve`: sends whole batches to a server of the Open Inference Protocol over gRPC.

`discovery` asks the neighbor what the model is. `request` writes the message of a batch from the bytes
of its callers, `answer` reads the neighbor's answer into views. `shared_memory` moves large tensors to a
neighbor on the same host without copying them through a socket. `executor` puts them together.
"""

from batcher.executors.kserve.executor import KserveExecutor
from batcher.executors.kserve.options import KserveOptions

__all__ = ["KserveExecutor", "KserveOptions"]
