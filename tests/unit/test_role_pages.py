"""The pages for each role say what is so: reasons, statuses, metrics, and a policy that runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from batcher.core.commands import Outcome, Reason
from batcher.runtime import refusals
from batcher.server.status import CODES
from batcher.telemetry.families import FAMILIES
from batcher.telemetry.reasons import ENDS, UnreadReason

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
CALLING = (DOCS / "calling.md").read_text(encoding="utf-8")
RUNNING = (DOCS / "running.md").read_text(encoding="utf-8")
EXTENDING = (DOCS / "extending.md").read_text(encoding="utf-8")


def told():
    """Reason -> statuses, from the table of refusals."""
    _, section = CALLING.split("## When there is no answer\n")
    found = {}
    for status, reasons in re.findall(r"^\| ([A-Z_]+) \| (.*?) \|", section, re.MULTILINE):
        for reason in re.findall(r"`(\w+)`", reasons):
            found.setdefault(reason, set()).add(status)
    return found


def test_every_reason_is_told_to_callers():
    reasons = {str(reason) for outcome, reason in ENDS if outcome is not Outcome.OK}
    reasons |= {str(reason) for reason in UnreadReason}
    assert reasons - set(told()) == set()


@pytest.mark.parametrize("reason", [each for each in Reason if each is not Reason.NONE])
def test_the_scheduler_s_reasons_have_the_status_that_is_sent(reason):
    error = refusals._REFUSALS[reason].error
    assert CODES["standard"][error].name in told()[reason]


def test_the_queries_name_metrics_that_exist():
    known = {family.exported_name for family in FAMILIES} | {family.name for family in FAMILIES}
    for name in re.findall(r"\b(batcher_[a-z_]+)", f"{RUNNING}{CALLING}"):
        assert known & {name, re.sub(r"_(sum|count|bucket|total)$", "", name)}, name


@pytest.mark.slow
def test_the_policy_of_the_page_runs_in_the_simulator(tmp_path):
    (source,) = re.findall(r"<!-- example: policy -->\n```python\n(.*?)```", EXTENDING, re.DOTALL)
    (config,) = re.findall(r"<!-- example: config -->\n```yaml\n(.*?)```", README, re.DOTALL)
    (command,) = re.findall(r"^    python (half_full\.py .*)$", EXTENDING, re.MULTILINE)
    (tmp_path / "half_full.py").write_text(source)
    (tmp_path / "hello.yaml").write_text(config)
    done = subprocess.run(
        [sys.executable, *command.split(), "--requests", "500"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ *half-full +100", done.stdout, re.MULTILINE), done.stdout
