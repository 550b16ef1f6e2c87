"""Generate deploy/monitoring/dashboard.json from its description in tools/dashboard.

With --check, nothing is written and the exit code says whether the file is current. With --runbooks URL the
dashboard goes to standard output, and its links to the runbook point to that address, such as
https://git.example.com/batcher/blob/main/docs/runbook.md.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from pathlib import Path

from dashboard.panels import dashboard

FILE = Path(__file__).parents[1] / "deploy" / "monitoring" / "dashboard.json"


def generated(runbook: str = "") -> str:
    """The dashboard as JSON."""
    return json.dumps(dashboard(runbook), indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    """Write the file, compare with it, or print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument(
        "--runbooks", metavar="URL", help="print it, with that address of the runbook"
    )
    arguments = parser.parse_args()
    if arguments.runbooks:
        sys.stdout.write(generated(arguments.runbooks))
        return 0
    after = generated()
    if not arguments.check:
        FILE.write_text(after, encoding="utf-8")
        return 0
    before = FILE.read_text(encoding="utf-8") if FILE.exists() else ""
    sys.stdout.writelines(
        difflib.unified_diff(
            before.splitlines(keepends=True),
            after.splitlines(keepends=True),
            FILE.name,
            "description",
        )
    )
    return int(before != after)


if __name__ == "__main__":
    sys.exit(main())
