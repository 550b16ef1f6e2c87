"""The recorded event log, and the flight recorder that rides on it.

Everything that decides what the scheduler does passes one door, `Scheduler.handle`: events and a
time go in, commands come out. `recorder` takes note of each call off the hot path, in segments that
open with a snapshot of the scheduler's state, so that each replays alone; `codec` is how events,
commands and states become bytes, `format` what segments and files look like. `files` keeps them on
disk (the journal), `memory` the last minutes in memory, and `incidents` makes a file of those when
something goes wrong; `crash` sees to what is left when that ends the process. `reader` reads all
these files. Payloads are never in any of it: the core does not see them.
"""

from batcher.journal.codec import CodecError
from batcher.journal.fingerprint import scheduler_fingerprint
from batcher.journal.incidents import FlightRecorder, InForce, Reason, Tally
from batcher.journal.reader import Log, Segment, Step, is_log, plain, read_log
from batcher.journal.recording import Recording, RecordingStatistics

__all__ = [
    "CodecError",
    "FlightRecorder",
    "InForce",
    "Log",
    "Reason",
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
