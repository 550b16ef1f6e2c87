"""`python bench/neighbors`: batcher in front of other model servers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(BENCH / "load"), str(BENCH), str(BENCH.parent / "tools")]

import bar  # noqa: E402
import cost  # noqa: E402
import fault_rounds  # noqa: E402
from bars import exit_code  # noqa: E402

DESCRIPTION = """Put batcher in front of other model servers, which tools/environments.py installs.

  rates   the highest rate with 99 % on time before a Triton and an MLServer whose own batching is
          off, beside theirs at its best
  faults  neighbors that are killed, suspended, restarted and slow under load
  cost    processor time of sending batches on; messages beside shared memory
"""


def main() -> int:
    """Run one benchmark; 1 where a bar was missed or could not be judged."""
    parser = argparse.ArgumentParser(
        prog="bench/neighbors",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="NAME")
    bar.options(commands)
    fault_rounds.options(commands)
    cost.options(commands)
    options = parser.parse_args()
    return exit_code(options.run(options))


if __name__ == "__main__":
    sys.exit(main())
