"""Pages that say how to set up a channel say what `bench/load fleet` has measured."""

import re
from pathlib import Path

import pytest
from fleet.callers import OPTIONS

DOCS = Path(__file__).parents[3] / "docs"

OF_ONE_PROCESS = {"grpc.use_local_subchannel_pool"}
"""Callers of the measurement share a process, but no connections."""


@pytest.mark.parametrize("page", ["kubernetes.md", "load-balancing.md"])
def test_a_page_has_the_options_that_were_measured(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    (code,) = (
        block
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        if "grpc.service_config" in block
    )
    found = re.findall(r'\("(grpc\.[a-z0-9_.]+)", ([0-9_]+)\)', code)
    told = {name: int(value) for name, value in found}
    assert len(told) == len(found)
    assert told == {name: value for name, value in OPTIONS.items() if name not in OF_ONE_PROCESS}
