"""docs/metrics.md says what the definitions say."""

import importlib.util
from collections import Counter
from pathlib import Path

import pytest

from batcher.telemetry.families import AREAS, BUCKETS, FAMILIES
from batcher.telemetry.meanings import MEANINGS
from batcher.telemetry.reasons import ENDS

ROOT = Path(__file__).parents[3]


@pytest.fixture
def tool():
    path = ROOT / "tools" / "generate_metrics_page.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_the_page_are_up_to_date(tool):
    page = tool.PAGE.read_text(encoding="utf-8")
    assert tool.generated(page) == page, "run python tools/generate_metrics_page.py"


def test_the_tables_of_the_scaler_are_up_to_date(tool):
    page = tool.SCALER_PAGE.read_text(encoding="utf-8")
    assert tool.generated(page, tool.SCALER_TABLES) == page, (
        "run python tools/generate_metrics_page.py"
    )


def test_what_the_definitions_have_is_on_the_page_at_once(tool):
    (area, *others) = tool.AREAS
    page = tool.PAGE.read_text(encoding="utf-8")
    tool.AREAS = tuple(others)
    without = tool.generated(page)
    assert f"`{area.FAMILIES[0].exported_name}`" not in without.split("## Labels")[0]
    tool.AREAS = (area, *others)
    assert tool.generated(without) == page


def test_a_page_without_markers_is_an_error(tool):
    with pytest.raises(SystemExit, match="markers of families"):
        tool.generated("# Metrics\n")


def test_every_area_has_a_heading_of_its_own():
    headings = [area.__doc__.splitlines()[0] for area in AREAS]
    assert len(set(headings)) == len(headings)


def test_every_end_has_one_meaning():
    explained = [(outcome, reason) for outcome, reasons, _ in MEANINGS for reason in reasons]
    assert Counter(explained) == Counter(ENDS)


def test_every_histogram_has_buckets_that_the_page_names():
    for family in FAMILIES:
        assert family.buckets is None or family.buckets in BUCKETS.values(), family.name
