"""Times with a meaning of their own. All times are integers or floats, in nanoseconds."""

from __future__ import annotations

from typing import Final

NEVER_NS: Final = 1 << 62
"""Later than every real moment: 146 years."""

TOLERANCE_NS: Final = 1_000.0
"""How far a predicted end may lie behind a due time and still count as in time: rounding, not noise."""

TIMER_NS: Final = 1_000_000
"""The resolution of timers, one millisecond: a timer may be so late, and nothing is asked for sooner or told
more exactly."""

LATELY_NS: Final = 1_000_000_000
"""One second: what happened longer ago says nothing of now. A bucket without a batch for so long follows a
change of speed seen in another one, a tenant that sent nothing has no part, a device's use is remembered for
about as long, and after so long in a failure storm one batch is bisected, to see whether it is over."""
