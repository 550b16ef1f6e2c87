"""The benchmarks are scripts, so their folders go on the path."""

import sys
from pathlib import Path

BENCH = Path(__file__).parents[3] / "bench"
sys.path[:0] = [str(BENCH / "load"), str(BENCH)]
