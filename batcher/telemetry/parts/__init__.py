"""What a scrape exports, in parts: each has some families and gives their samples of the moment.

A part that raises costs its own families and one line of the log; the scrape goes on. The order of the
families is that of `batcher.telemetry.families.FAMILIES`, whatever the order in which parts are added.
"""

from batcher.telemetry.parts.batches import BatchesPart
from batcher.telemetry.parts.gpus import GpusPart
from batcher.telemetry.parts.models import ModelsPart
from batcher.telemetry.parts.part import HealthPoints, Part
from batcher.telemetry.parts.process import ProcessPart
from batcher.telemetry.parts.queues import QueuesPart
from batcher.telemetry.parts.recording import RecordingPart
from batcher.telemetry.parts.repository import RepositoryPart, RepositoryPoints
from batcher.telemetry.parts.requests import RequestsPart
from batcher.telemetry.parts.scale import ScalePart
from batcher.telemetry.parts.sequences import SequencesPart
from batcher.telemetry.parts.tracing import TracingPart
from batcher.telemetry.parts.transport import TransportPart, TransportPoints
from batcher.telemetry.parts.triton import TritonPart

__all__ = [
    "BatchesPart",
    "GpusPart",
    "HealthPoints",
    "ModelsPart",
    "Part",
    "ProcessPart",
    "QueuesPart",
    "RecordingPart",
    "RepositoryPart",
    "RepositoryPoints",
    "RequestsPart",
    "ScalePart",
    "SequencesPart",
    "TracingPart",
    "TransportPart",
    "TransportPoints",
    "TritonPart",
]
