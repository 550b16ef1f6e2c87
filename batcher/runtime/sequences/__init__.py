"""Sequences: requests that are steps of one thing, such as the frames of one recording.

The order of the steps is the scheduler's (`core/queueing/sequences.py`): of one sequence at most one step is
queued or runs. What a sequence keeps between its steps is kept here. `interface` says which of a model's
inputs and outputs are state; `sequence` is one open sequence and a step of it; `table` finds the sequence of a
request, bounds how many are open, and ends those that are idle.

A step gets the state when its batch is prepared. What comes out becomes the state when the scheduler settles
the step as answered, before the next step begins. So a step that is refused, expires, fails or is cancelled
leaves the state as it was.
"""

from batcher.runtime.sequences.interface import SequenceInterface, resolve_sequence
from batcher.runtime.sequences.sequence import Sequence, Step
from batcher.runtime.sequences.table import SequenceTable

__all__ = ["Sequence", "SequenceInterface", "SequenceTable", "Step", "resolve_sequence"]
