"""The executor `torchserve`: sends batches to TorchServe by its own gRPC API.

A call of TorchServe holds bytes by name for one call of the model's handler. By default a whole batch is one call,
and TorchServe's own batching is off: of 32 rows in 32 calls its frontend makes several smaller batches, because it
takes what has arrived by then, and each call costs its frontend and its worker more than a row. `calls` writes
and reads the bytes (`safetensors` is one of the formats), `management` asks what the model is, and registers and
scales it if the options say so, `tokens` reads TorchServe's tokens, and `statuses` says what its errors mean.

TorchServe goes on with a call that its caller has cancelled, or whose deadline has passed; versions before 0.12
may even stop the worker. So calls are neither cancelled nor given a deadline: a batch that is cancelled keeps its
place until TorchServe has ended it (`executor.HOLD_S`), because until then the worker is not free.
"""

from batcher.executors.torchserve.executor import TorchserveExecutor
from batcher.executors.torchserve.options import TorchserveOptions

__all__ = ["TorchserveExecutor", "TorchserveOptions"]
