"""The benchmarks are scripts, so their folders go on the path."""

import sys
from pathlib import Path

BENCH = Path(__file__).parents[3] / "bench"
sys.path[:0] = [str(BENCH / "load"), str(BENCH)]
# What both folders have by one name is the one of `load`.
sys.path += [str(BENCH / "sim"), str(BENCH / "peers")]
