"""The fleet is that of `bench/load fleet`, whose folder goes on the path."""

import sys
from pathlib import Path

BENCH = Path(__file__).parents[3] / "bench"
sys.path[:0] = [str(BENCH / "load"), str(BENCH)]
