"""What the pages name is there: keys of the configuration, metrics, and files of this repository."""

import re
from pathlib import Path

import pytest

from batcher.config import (
    BatchingConfig,
    FlightRecorderConfig,
    HealthConfig,
    JournalConfig,
    MetricsConfig,
    ModelConfig,
    ModelRepositoryConfig,
    QueueConfig,
    ServerConfig,
    WarmupConfig,
)
from batcher.scaler.families import FAMILIES as OF_SCALER
from batcher.telemetry.families import FAMILIES

ROOT = Path(__file__).parents[2]
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("plugins/*/README.md"),
    ROOT / "bench" / "README.md",
]
SECTIONS = {
    "server": ServerConfig,
    "model_repository": ModelRepositoryConfig,
    "models[]": ModelConfig,
    "batching": BatchingConfig,
    "queue": QueueConfig,
    "health": HealthConfig,
    "warmup": WarmupConfig,
    "journal": JournalConfig,
    "flight_recorder": FlightRecorderConfig,
    "metrics": MetricsConfig,
}
EVERY_FAMILY = (*FAMILIES, *OF_SCALER)
FAMILY_NAMES = {name for family in EVERY_FAMILY for name in (family.name, family.exported_name)}
RECORDED = re.compile(r"\b\w+:\w+:\w+\b")
"""What deploy/monitoring records."""
OF_A_QUERY = re.compile(r"\b(batcher_[a-z_]+)\{([^{}]*)\}")
MATCHER = re.compile(r'([a-z_]+)(=~|!~|!=|=)"([^"]*)"')
FOLDERS = (
    ROOT,
    ROOT / "batcher",
    ROOT / "batcher" / "core",
    ROOT / "batcher" / "simulation",
    ROOT / "bench",
)

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def without_renames(page):
    """The page's text without recorded names; of the changelog without lines that name what was removed."""
    text = RECORDED.sub("", page.read_text(encoding="utf-8"))
    if page.name != "CHANGELOG.md":
        return text
    return "\n".join(line for line in text.splitlines() if not re.search(r" is (gone|now)\b", line))


@every_page
def test_keys_of_the_configuration_exist(page):
    names = "|".join(re.escape(name) for name in SECTIONS)
    found = re.findall(rf"`(?:models\[\]\.)?({names})\.([a-z_0-9]+)[`:]", without_renames(page))
    for section, key in found:
        assert key == "py" or key in SECTIONS[section].model_fields, f"{section}.{key}"


@every_page
def test_metrics_exist(page):
    for name in re.findall(r"\b(batcher_[a-z_]+[a-z])\b", without_renames(page)):
        if name not in {
            "batcher_onnxruntime",
            "batcher_openvino",
            "batcher_torch",
            "batcher_linear",
        }:
            family = re.sub(r"_(sum|count|bucket|total)$", "", name)
            assert {name, family} & FAMILY_NAMES, name


@every_page
def test_recorded_series_exist(page):
    paths = (ROOT / "deploy" / "monitoring" / "rules").glob("*.yaml")
    rules = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    recorded = set(re.findall(r"- record: (\S+)", rules))
    for name in RECORDED.findall(page.read_text(encoding="utf-8")):
        assert not name.startswith(("batcher:", "namespace_")) or name in recorded, name


@every_page
def test_queries_select_labels_and_values_that_exist(page):
    families = {family.exported_name: family for family in EVERY_FAMILY}
    for name, matchers in OF_A_QUERY.findall(without_renames(page)):
        family = families.get(name) or families[re.sub(r"_(sum|count|bucket)$", "", name)]
        for label, operator, value in MATCHER.findall(matchers):
            if label in {"le", "instance", "job"}:
                continue
            assert label in family.labels, f"{name} has no label {label}"
            known = family.of_label(label).names
            for part in value.split("|") if "~" in operator else [re.escape(value)]:
                assert not known or any(re.fullmatch(part, each) for each in (*known, "")), (
                    f"{name}: {label} is never {part}"
                )


@every_page
def test_files_of_the_repository_exist(page):
    text = page.read_text(encoding="utf-8")
    # The files of the plugin that the guide builds come with their text.
    own = set(re.findall(r"^`([\w./]+)`:$", text, re.MULTILINE))
    for name in re.findall(r"`([a-z_0-9]+/[a-z_0-9/]*(?:\.py|\.md|/)|[a-z_0-9/]+/)`", text):
        assert name in own or any((folder / name).exists() for folder in FOLDERS), name
