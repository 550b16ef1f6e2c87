"""Other model servers as processes on loopback ports, with small real models.

`make neighbors` puts batcher in front of them, and the benchmarks measure them beside it. Each is
installed by `tools/environments.py` and runs in a process group of its own, which can be killed,
suspended and started again on the same ports.

All serve `double`, the model of the executor `emulated`: `X` FP32 [-1, 16] gives `Y` = 2 * X and, in
every row, the size of the batch (`BATCH`), after `base + per_row * rows` on a device that takes one
batch at a time. While the file `ModelServer.slow` exists, each batch takes that many seconds more.
"""

from model_servers.another import Batcher
from model_servers.kserve import KServe
from model_servers.mlserver import MLServer
from model_servers.process import ModelServer, NotReadyError
from model_servers.torchserve import TorchServe
from model_servers.triton import Triton

__all__ = ["Batcher", "KServe", "MLServer", "ModelServer", "NotReadyError", "TorchServe", "Triton"]
