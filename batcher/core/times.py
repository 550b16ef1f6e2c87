"""Times with a meaning of their own. All times are integers or floats, in nanoseconds."""

from __future__ import annotations

from typing import Final

NEVER_NS: Final = 1 << 62
"""Later than every real moment: 146 years."""

TOLERANCE_NS: Final = 1_000.0
"""How far a predicted end may lie behind a due time and still count as in time: rounding, not noise."""
