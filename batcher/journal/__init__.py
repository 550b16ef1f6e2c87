"""The event log: the journal on disk, and the flight recorder in memory.

Everything that the scheduler does follows from calls of `Scheduler.handle`: events and a time go in,
commands come out. The event log has all of these calls, never a payload.

- `recorder` takes each call off the hot path and writes segments. A segment begins with a snapshot
  of the scheduler's state, so that it replays alone. It writes to sinks:
- `segment_files` keeps segments on disk (the journal), `segment_memory` the last minutes in memory
  (the flight recorder), and `crash` a copy on disk for the case that the process dies.
- `flight_recorder` writes the segments in memory to a file when an incident happens.
- `codec` turns events, commands and states into bytes, `format` defines segments and files,
  `fingerprint` identifies the scheduler that recorded them.
- `reader` reads all these files, and `recording` assembles what a server's configuration asks for.
"""

from batcher.journal.codec import CodecError
from batcher.journal.fingerprint import scheduler_fingerprint
from batcher.journal.flight_recorder import FlightRecorder, IncidentReason, InForce, Tally
from batcher.journal.reader import Log, Segment, Step, is_log, plain, read_log
from batcher.journal.recording import Recording, RecordingStatistics

__all__ = [
    "CodecError",
    "FlightRecorder",
    "InForce",
    "IncidentReason",
    "Log",
    "Recording",
    "RecordingStatistics",
    "Segment",
    "Step",
    "Tally",
    "is_log",
    "plain",
    "read_log",
    "scheduler_fingerprint",
]
